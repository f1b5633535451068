"""`grant`, `users set`, `users list`."""

from contextlib import closing
from typing import Annotated

import typer

from otel_credits_aggregator.cli import _tables
from otel_credits_aggregator.cli._arguments import AsJson, Limit, User, checked
from otel_credits_aggregator.cli._ledger import open_ledger
from otel_credits_aggregator.cli._output import print_rows, shown
from otel_credits_aggregator.ledger import NewGrant, Profile
from otel_credits_aggregator.ledger.interface import LIMIT_DEFAULT

__all__ = ["add_to"]


def grant(
    user: User,
    credits: Annotated[str, typer.Argument(metavar="CREDITS", help="How many: a decimal number above 0.")],
    reason: Annotated[str, typer.Option(help="Why; shown with the grant.")] = "",
    grant_id: Annotated[
        str | None, typer.Option("--id", help="Idempotency key: the same again grants nothing more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a user credits."""
    new = checked(NewGrant, credits=credits, reason=reason, grant_id=grant_id)
    with closing(open_ledger()) as ledger:
        granted, is_new = ledger.grant(user, new)
    if as_json:
        print_rows([granted], _tables.GRANT, as_json=True, none="")
    elif is_new:
        print(f"granted {shown(granted.credits)} credits to {shown(user)} (grant {shown(granted.grant_id)})")
    else:
        print(f"grant {shown(granted.grant_id)} was made before, at {shown(granted.created_at)} UTC; nothing was added")


def set_user(
    user: User,
    email: Annotated[str, typer.Option(help="Left out: stays as it was.")] = "",
    name: Annotated[str, typer.Option(help="Left out: stays as it was.")] = "",
    as_json: AsJson = False,
) -> None:
    """Remember a user's email and name."""
    if not email and not name:
        raise typer.BadParameter("give --email or --name or both")
    profile = checked(Profile, email=email, name=name)
    with closing(open_ledger()) as ledger:
        print_rows([ledger.set_user(user, profile)], _tables.USER, as_json=as_json, none="")


def list_users(limit: Limit = LIMIT_DEFAULT, as_json: AsJson = False) -> None:
    """List the users whose email or name is known."""
    with closing(open_ledger()) as ledger:
        print_rows(ledger.users(limit), _tables.USER, as_json=as_json, none="no user's email or name is known yet")


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command(epilog="Example: otel-credits grant 42 100 --reason welcome --id welcome-42")(grant)
    users = typer.Typer(no_args_is_help=True, help="Emails and names of users.")
    users.command("set", epilog="Example: otel-credits users set 42 --email ada@example.com --name Ada")(set_user)
    users.command("list", epilog="Example: otel-credits users list --json")(list_users)
    app.add_typer(users, name="users")
