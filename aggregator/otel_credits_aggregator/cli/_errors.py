"""Exit codes: 0 done, 1 could not (the reason on stderr, no traceback), 2 wrong arguments (said by typer)."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from otel_credits_aggregator.ledger import LedgerError, UnauthenticatedError
from otel_credits_aggregator.migrations import MigrationError
from otel_credits_aggregator.store import ClickHouseError

__all__ = ["EXIT_COULD_NOT", "CommandError", "CommandGroup", "complain"]

EXIT_COULD_NOT = 1
_EXPECTED = (LedgerError, MigrationError, ClickHouseError, OSError)


class CommandError(LedgerError):
    """The command could not do what was asked; the message says why and what to do."""


def complain(message: str) -> None:
    """Prints the reason why a command could not do what was asked."""
    print(f"otel-credits: {message}", file=sys.stderr)


class CommandGroup(TyperGroup):
    """Turns errors that people can act on into exit code 1. Any other is a bug and shows its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of our output went away; typer ends quietly
        except UnauthenticatedError as error:
            complain(f"{error}. The command shows the token in OTEL_CREDITS_TOKEN.")
            raise typer.Exit(EXIT_COULD_NOT) from error
        except _EXPECTED as error:
            complain(str(error))
            raise typer.Exit(EXIT_COULD_NOT) from error
        except ImportError as error:
            if "chdb" not in str(error):
                raise
            complain("the embedded store needs chDB: pip install 'otel-credits[embedded]'")
            raise typer.Exit(EXIT_COULD_NOT) from error
