"""All commands together."""

import typer

from otel_credits_aggregator.cli import (
    _aliases,
    _backup,
    _conventions,
    _prices,
    _quarantine,
    _reading,
    _rules,
    _serving,
    _tokens,
    _users,
)
from otel_credits_aggregator.cli._errors import CommandGroup

__all__ = ["app"]

# CommandGroup tells expected errors in one line; any other is a bug, whose plain traceback is what a report needs.
app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Credits from OpenTelemetry: run the aggregator, and read and write its ledger.",
    epilog="Settings are environment variables, OTEL_CREDITS_*. While a server runs, the commands ask it.",
)
for part in (_serving, _reading, _users, _prices, _aliases, _rules, _conventions, _quarantine, _backup, _tokens):
    part.add_to(app)
