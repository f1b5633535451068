"""`quarantine`, `quarantine summary`, `quarantine replay`."""

from contextlib import closing
from typing import Annotated

import typer

from otel_credits_aggregator.cli import _tables
from otel_credits_aggregator.cli._arguments import AsJson, Limit, UserOption
from otel_credits_aggregator.cli._ledger import open_ledger
from otel_credits_aggregator.cli._output import print_rows

__all__ = ["add_to"]

Reason = Annotated[str | None, typer.Option("--reason", metavar="REASON", help="Only this reason.")]
_EMPTY = "nothing is quarantined"


def list_usages(reason: Reason = None, user: UserOption = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List usages that could not be charged, latest first, and what to do about them."""
    with closing(open_ledger()) as ledger:
        rows = ledger.quarantine(reason, user, limit)
    print_rows(rows, _tables.QUARANTINED_USAGE, as_json=as_json, none=_EMPTY)
    if not as_json:
        for said in sorted({f"{row.reason}: {row.detail}" for row in rows}):
            print(said)


def summarize(as_json: AsJson = False) -> None:
    """Count what is quarantined, by reason."""
    with closing(open_ledger()) as ledger:
        print_rows(ledger.quarantine_summary(), _tables.QUARANTINE_REASON, as_json=as_json, none=_EMPTY)


def replay(reason: Reason = None, user: UserOption = None) -> None:
    """Try again to charge what is quarantined, after its cause was mended. (Unpriced usage is tried by itself.)"""
    with closing(open_ledger()) as ledger:
        tried = ledger.replay_quarantine(reason, user).tried
        left = sum(found.usages for found in ledger.quarantine_summary())
    print(f"tried {tried} again; {left} usages are quarantined now")


def quarantine(
    context: typer.Context, reason: Reason = None, user: UserOption = None, limit: Limit = 20, as_json: AsJson = False
) -> None:
    """Usages that could not be charged; without a command: list them."""
    if context.invoked_subcommand is None:
        list_usages(reason, user, limit, as_json)


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    group = typer.Typer(invoke_without_command=True, epilog="Example: otel-credits quarantine --reason unpriced")
    group.callback()(quarantine)
    group.command("list", epilog="Example: otel-credits quarantine list --user 42 --json")(list_usages)
    group.command("summary", epilog="Example: otel-credits quarantine summary")(summarize)
    group.command("replay", epilog="Example: otel-credits quarantine replay --reason unknown_convention")(replay)
    app.add_typer(group, name="quarantine")
