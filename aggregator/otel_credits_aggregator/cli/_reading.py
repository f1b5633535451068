"""`sql`, `balance`, `events`, `void`, `reconcile`, `rebuild`."""

import getpass
from contextlib import closing
from typing import Annotated

import typer

from otel_credits_aggregator.cli import _tables
from otel_credits_aggregator.cli._arguments import AsJson, Limit, User, UserOption, checked
from otel_credits_aggregator.cli._errors import EXIT_COULD_NOT, complain
from otel_credits_aggregator.cli._ledger import open_ledger
from otel_credits_aggregator.cli._output import print_rows, print_sql_rows, shown
from otel_credits_aggregator.ledger import Fix, NewVoid, QuarantineFilter
from otel_credits_aggregator.ledger.interface import LIMIT_DEFAULT

__all__ = ["add_to"]


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One statement that reads the ledger's tables.")],
    as_json: AsJson = False,
) -> None:
    """Run a read-only SQL query (ClickHouse's dialect)."""
    with closing(open_ledger()) as ledger:
        print_sql_rows(ledger.sql(query), as_json=as_json)


def balance(user: User, as_json: AsJson = False) -> None:
    """Show what a user has left."""
    with closing(open_ledger()) as ledger:
        print_rows([ledger.balance(user)], _tables.BALANCE, as_json=as_json, none="")


def events(user: UserOption = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show the latest charges, newest first."""
    with closing(open_ledger()) as ledger:
        rows = ledger.events(user, limit)
    print_rows(rows, _tables.EVENT, as_json=as_json, none="nothing was charged yet")


def void(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event id, as `events --json` shows it.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; recorded.")],
    by: Annotated[
        str, typer.Option("--by", metavar="NAME", help="Who decides; recorded. Default: your name here.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Take one charge back, by a further entry that gives the credits back; the charge itself stays, as void."""
    (event_id,) = checked(QuarantineFilter, event_ids=(event,)).event_ids
    new = checked(NewVoid, reason=reason, voided_by=by or getpass.getuser())
    with closing(open_ledger()) as ledger:
        done, is_new = ledger.void(event_id, new)
    if as_json:
        print_rows([done], (), as_json=True, none="")
    elif is_new:
        print(f"gave {shown(done.credits)} credits back to {shown(done.user_id)}")
    else:
        print(
            f"was void before: {shown(done.voided_by)} took it back at {shown(done.voided_at)} UTC"
            f" ({shown(done.reason)}); nothing was changed"
        )


def reconcile(
    user: UserOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Correct what differs, by further rows, on record.")] = False,
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who corrects; recorded. Default: your name.")] = "",
    comment: Annotated[str, typer.Option("--comment", metavar="TEXT", help="Why; recorded.")] = "",
    clients: Annotated[
        bool,
        typer.Option("--clients", help="Only whether what each process recorded has arrived; 1 if some is missing."),
    ] = False,
    series: Annotated[
        bool,
        typer.Option(
            "--series", help="Only gaps and overlaps between the intervals of data points; 1 if there is one."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare every balance and monthly total with the events and grants behind it; exit code 1 if one differs."""
    if (clients or series) and (fix or user or by or comment or (clients and series)):
        raise typer.BadParameter("--clients and --series stand alone")
    if clients:
        _show_clients(as_json)
        return
    if series:
        _show_series_faults(as_json)
        return
    if (by or comment) and not fix:
        raise typer.BadParameter("--by and --comment belong to --fix")
    with closing(open_ledger()) as ledger:
        if fix:
            given = checked(Fix, corrected_by=by or getpass.getuser(), comment=comment)
            corrected = ledger.fix_totals(user, given)
            print_rows(corrected, _tables.CORRECTION, as_json=as_json, none="nothing was to be corrected")
            rows = ledger.reconcile(user)
        else:
            rows = ledger.reconcile(user)
            print_rows(rows, _tables.DIFFERENCE, as_json=as_json, none="all totals agree with their events and grants")
    if rows:
        complain(f"{len(rows)} totals differ from their events and grants")
        raise typer.Exit(EXIT_COULD_NOT)


def _show_clients(as_json: bool) -> None:
    with closing(open_ledger()) as ledger:
        rows = ledger.clients()
    print_rows(rows, _tables.CLIENT, as_json=as_json, none="no process has reported yet")
    missing = sum(row.missing for row in rows)
    if missing:
        complain(f"{missing} usages were recorded, wait no longer, and were not received")
        raise typer.Exit(EXIT_COULD_NOT)


def _show_series_faults(as_json: bool) -> None:
    with closing(open_ledger()) as ledger:
        rows = ledger.series_faults()
    print_rows(rows, _tables.SERIES_FAULT, as_json=as_json, none="the intervals of all series follow one another")
    if rows:
        gaps = sum(row.fault == "gap" for row in rows)
        more = ", and perhaps more: these are the first" if len(rows) == LIMIT_DEFAULT else ""
        complain(f"{gaps} gaps and {len(rows) - gaps} overlaps in series of data points{more}")
        raise typer.Exit(EXIT_COULD_NOT)


def rebuild() -> None:
    """Make all totals anew from the events and grants, beside the old ones, and put them in their place."""
    with closing(open_ledger()) as ledger:
        done = ledger.rebuild_totals()
        rows = ledger.reconcile()
    print(
        f"rebuilt {done.user_months} totals of users and months, {done.usage_months} of their actions and models; "
        f"{done.changed} were not what they are now"
    )
    if rows:
        complain(
            f"{len(rows)} totals differ from their events and grants: is another aggregator at work on this store?"
        )
        raise typer.Exit(EXIT_COULD_NOT)


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command(epilog='Example: otel-credits sql "SELECT user_id, current_balance FROM user_credit_balances"')(sql)
    app.command(epilog="Example: otel-credits balance 42 --json")(balance)
    app.command(epilog="Example: otel-credits events --user 42 --limit 5")(events)
    app.command(
        epilog='Example: otel-credits void 0d9e8a5c-5b1f-4a51-8f0e-2f6f1a1f4d3b --reason "the report was empty"'
    )(void)
    app.command(epilog="Example: otel-credits reconcile")(reconcile)
    app.command(epilog="Example: otel-credits rebuild")(rebuild)
