"""`quarantine`, and what can be done about what is in it: `show`, `replay`, `assign`, `discard`, `export`, `import`."""

import getpass
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Annotated

import typer

from otel_credits_aggregator.cli import _tables
from otel_credits_aggregator.cli._arguments import AsJson, Limit, Payer, UserOption, checked
from otel_credits_aggregator.cli._errors import CommandError
from otel_credits_aggregator.cli._ledger import open_ledger
from otel_credits_aggregator.cli._output import print_rows, shown
from otel_credits_aggregator.ledger import Assignment, Discard, Ledger, QuarantineFilter, RawRequest
from otel_credits_aggregator.ledger.interface import LIMIT_MAX

__all__ = ["add_to"]

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[EVENT]...", help="Only these event ids, as `list` shows them.")
]
Reason = Annotated[str | None, typer.Option("--reason", metavar="REASON", help="Only this reason.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Only what was received then or later (ISO 8601, UTC).")
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Only what was received before then (ISO 8601, UTC).")
]
By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who decides; recorded. Default: your name here.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="One JSON object a line; - is standard output or input.")]
_EMPTY = "nothing is quarantined"


def list_usages(
    reason: Reason = None,
    user: UserOption = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List usages that could not be charged, latest first, and what to do about them."""
    which = _filter(None, reason, user, since, until)
    with closing(open_ledger()) as ledger:
        rows = ledger.quarantine(which, limit)
    print_rows(rows, _tables.QUARANTINED_USAGE, as_json=as_json, none=_EMPTY)
    if not as_json:
        for said in sorted({f"{row.reason}: {row.detail}" for row in rows}):
            print(said)


def summarize(as_json: AsJson = False) -> None:
    """Count what is quarantined, by reason."""
    with closing(open_ledger()) as ledger:
        print_rows(ledger.quarantine_summary(), _tables.QUARANTINE_REASON, as_json=as_json, none=_EMPTY)


def show(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event id, as `list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Show all that is known of one quarantined usage, a row for each copy of it."""
    (event_id,) = checked(QuarantineFilter, event_ids=(event,)).event_ids
    with closing(open_ledger()) as ledger:
        rows = ledger.quarantined_copies(event_id)
    if as_json:
        print_rows(rows, (), as_json=True, none="")
        return
    for row in rows:
        for name, value in row:
            print(f"{name:16} {shown(value)}")
        print()


def replay(
    ids: Ids = None, reason: Reason = None, user: UserOption = None, since: Since = None, until: Until = None
) -> None:
    """Try again to charge what is quarantined, after its cause was mended. (Unpriced usage is tried by itself.)"""
    which = _filter(ids, reason, user, since, until)
    with closing(open_ledger()) as ledger:
        tried = ledger.replay_quarantine(which).tried
        print(f"tried {tried} again; {_left(ledger)}")


def assign(
    payer: Payer,
    ids: Ids = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    by: By = "",
    comment: Annotated[str, typer.Option("--comment", metavar="TEXT", help="Why; recorded.")] = "",
) -> None:
    """Make a user pay for usage that names nobody (reason no_user), and charge it."""
    which = _narrowed(_filter(ids, reason, None, since, until))
    assignment = checked(Assignment, user_id=payer, decided_by=by or getpass.getuser(), comment=comment)
    with closing(open_ledger()) as ledger:
        tried = ledger.assign_quarantine(which, assignment).tried
        print(f"assigned {tried} to {shown(payer)}; {_left(ledger)}")


def discard(
    comment: Annotated[str, typer.Option("--comment", metavar="TEXT", help="Why; recorded.")],
    ids: Ids = None,
    reason: Reason = None,
    user: UserOption = None,
    since: Since = None,
    until: Until = None,
    by: By = "",
) -> None:
    """Take out of the quarantine what will never be charged. Each row is recorded in the table quarantine_decisions."""
    which = _narrowed(_filter(ids, reason, user, since, until))
    decision = checked(Discard, comment=comment, decided_by=by or getpass.getuser())
    with closing(open_ledger()) as ledger:
        discarded = ledger.discard_quarantine(which, decision).discarded
        print(f"discarded {discarded}; {_left(ledger)}")


def export(
    file: File,
    ids: Ids = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Write the requests that could not be inserted to a file, as they were received. They stay in the quarantine."""
    which = _filter(ids, reason, None, since, until)
    with closing(open_ledger()) as ledger, _opened(file, "w", sys.stdout) as out:
        found = ledger.quarantined_requests(which, LIMIT_MAX)
        for row in found:
            line = row.model_dump(mode="json") | ledger.quarantined_request(row.quarantine_id).model_dump()
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(f"exported {len(found)} requests", file=sys.stderr)


def import_requests(file: File) -> None:
    """Receive the requests of a file again; each usage is charged once, however often it is imported."""
    requests, items = 0, 0
    with closing(open_ledger()) as ledger, _opened(file, "r", sys.stdin) as source:
        for request in _requests(source):
            items += ledger.take_in(request).items
            requests += 1
    print(f"received {requests} requests with {items} spans or data points")


def quarantine(
    context: typer.Context,
    reason: Reason = None,
    user: UserOption = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Usages that could not be charged; without a command: list them."""
    if context.invoked_subcommand is None:
        list_usages(reason, user, since, until, limit, as_json)


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    group = typer.Typer(invoke_without_command=True, epilog="Example: otel-credits quarantine --reason unpriced")
    group.callback()(quarantine)
    group.command("list", epilog="Example: otel-credits quarantine list --user 42 --json")(list_usages)
    group.command("summary", epilog="Example: otel-credits quarantine summary")(summarize)
    group.command("show", epilog="Example: otel-credits quarantine show 0d9e8a5c-5b1f-4a51-8f0e-2f6f1a1f4d3b")(show)
    group.command("replay", epilog="Example: otel-credits quarantine replay --reason unknown_convention")(replay)
    group.command("assign", epilog="Example: otel-credits quarantine assign --reason no_user --user 42")(assign)
    group.command("discard", epilog='Example: otel-credits quarantine discard --user test --comment "load test"')(
        discard
    )
    group.command("export", epilog="Example: otel-credits quarantine export requests.jsonl")(export)
    group.command("import", epilog="Example: otel-credits quarantine import requests.jsonl")(import_requests)
    app.add_typer(group, name="quarantine")


def _filter(
    ids: list[str] | None, reason: str | None, user: str | None, since: str | None, until: str | None
) -> QuarantineFilter:
    given = {"reason": reason, "user_id": user, "since": since, "until": until}
    return checked(QuarantineFilter, event_ids=tuple(ids or ()), **given)


def _narrowed(which: QuarantineFilter) -> QuarantineFilter:
    if which.is_everything:
        raise typer.BadParameter("say which: event ids, --reason, --since, --until or another option")
    return which


def _left(ledger: Ledger) -> str:
    return f"{sum(found.usages for found in ledger.quarantine_summary())} usages are quarantined now"


def _opened(file: Path, mode: str, standard: IO[str]) -> IO[str]:
    return standard if str(file) == "-" else file.open(mode, encoding="utf-8")


def _requests(source: IO[str]) -> Iterator[RawRequest]:
    for number, line in enumerate(source, start=1):
        try:
            yield RawRequest.model_validate_json(line)
        except ValueError as error:
            raise CommandError(f"line {number} is no exported request: {error}") from error
