"""`tokens add`, `tokens list`, `tokens revoke`: they write the file that a running server follows, and ask no server."""

from typing import Annotated

import typer
from pydantic import ValidationError

from otel_credits_aggregator.access import Role, Token, add_token, read_tokens, revoke_token
from otel_credits_aggregator.cli import _tables
from otel_credits_aggregator.cli._arguments import AsJson, in_words
from otel_credits_aggregator.cli._errors import CommandError
from otel_credits_aggregator.cli._output import print_json, print_rows, shown
from otel_credits_aggregator.cli._settings import load_settings

__all__ = ["add_to"]

Name = Annotated[str, typer.Argument(metavar="NAME", help="How you call it, in lists and refusals.")]


def add(
    name: Name,
    role: Annotated[
        Role, typer.Option(help="ingest: send usage. read: read everything. admin: do everything but send.")
    ],
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="A read token for this user's own data only.")
    ] = None,
    service: Annotated[
        list[str] | None, typer.Option(help="An ingest token for this service.name only; may be repeated.")
    ] = None,
    action: Annotated[
        list[str] | None, typer.Option(help="An ingest token for this action only; may be repeated.")
    ] = None,
) -> None:
    """Make a token and print it, once: only its hash is kept. A running server knows it within a second."""
    path = load_settings().tokens_path
    try:
        token, secret = add_token(path, name, role, user_id=user, services=service or (), action_types=action or ())
    except ValidationError as error:
        raise typer.BadParameter(in_words(error)) from error
    except ValueError as error:
        raise CommandError(str(error)) from error
    typer.echo(f"added {shown(token.name)} to {path}. The token, which is shown only now:", err=True)
    print(secret)


def list_tokens(as_json: AsJson = False) -> None:
    """List the tokens, without what would let anybody in."""
    tokens = _tokens()
    if as_json:
        print_json([token.model_dump(mode="json", exclude={"sha256"}) for token in tokens])
    else:
        print_rows(tokens, _tables.TOKEN, as_json=False, none="no tokens: nobody can come in")


def revoke(name: Name) -> None:
    """Make a token invalid; a running server refuses it within a second. The last one gone, nobody can come in."""
    path = load_settings().tokens_path
    if not revoke_token(path, name):
        raise CommandError(f"there is no token named {shown(name)} in {path}")
    print(f"revoked {shown(name)}")


def _tokens() -> tuple[Token, ...]:
    path = load_settings().tokens_path
    try:
        return read_tokens(path)
    except FileNotFoundError:
        raise CommandError(f"there are no tokens in {path}: everybody who reaches the server can come in") from None


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    tokens = typer.Typer(no_args_is_help=True, help="Who may send usage, read, and administer.")
    tokens.command("add", epilog="Example: otel-credits tokens add chat --role ingest --service chat-app")(add)
    tokens.command("list", epilog="Example: otel-credits tokens list --json")(list_tokens)
    tokens.command("revoke", epilog="Example: otel-credits tokens revoke chat")(revoke)
    app.add_typer(tokens, name="tokens")
