"""`serve`, `migrate`, `demo`."""

from typing import Annotated

import typer

from otel_credits_aggregator.cli._ledger import check_not_locked
from otel_credits_aggregator.cli._settings import load_settings
from otel_credits_aggregator.imports import without_collecting
from otel_credits_aggregator.store import embedded_path

__all__ = ["add_to"]


def serve() -> None:
    """Receive OTLP, keep the ledger and serve the API, until SIGTERM or Ctrl-C."""
    settings = load_settings()
    with without_collecting():
        from otel_credits_aggregator.server import serve as run_server

    raise typer.Exit(run_server(settings))


def migrate() -> None:
    """Create the ledger in the store, or bring it up to date. Again, it changes nothing; `serve` does it by itself."""
    from otel_credits_aggregator.migrations import migrate as apply_migrations
    from otel_credits_aggregator.store import connect

    settings = load_settings()
    path = embedded_path(settings.dsn)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_not_locked(path, settings)
    with connect(settings.dsn) as client:
        applied = apply_migrations(client)
    for migration in applied:
        print(f"applied {migration.version:04d}_{migration.name}")
    print(f"the store is up to date ({len(applied)} applied)" if applied else "the store was up to date already")


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running afterwards, until Ctrl-C.")] = False,
    usages: Annotated[int | None, typer.Option(help="How many usages to send.")] = None,
    users: Annotated[int | None, typer.Option(help="How many users they belong to.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same balances.")] = None,
) -> None:
    """Run every part on this machine, send real usage through all of them, and compare every balance."""
    from otel_credits_aggregator.demo import DemoOptions, run

    given = {"usages": usages, "users": users, "seed": seed}
    try:
        options = DemoOptions(keep=keep, **{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    raise typer.Exit(run(options))


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command(epilog="Example: OTEL_CREDITS_DATA_DIR=/var/lib/otel-credits otel-credits serve")(serve)
    app.command(epilog="Example: OTEL_CREDITS_STORE=clickhouse://user:secret@host:8123/credits otel-credits migrate")(
        migrate
    )
    app.command(epilog="Example: otel-credits demo --keep")(demo)
