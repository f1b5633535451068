"""Why the ledger could not do what was asked. Each message says what to do, and is shown to people as it is."""

__all__ = [
    "BusyError",
    "ConflictError",
    "InvalidQueryError",
    "InvalidRequestError",
    "LedgerError",
    "NotFoundError",
    "NotPermittedError",
    "ServerUnreachableError",
    "StoreUnavailableError",
    "UnauthenticatedError",
]


class LedgerError(Exception):
    """The ledger could not do what was asked."""


class NotFoundError(LedgerError):
    """What was asked for is not there."""


class UnauthenticatedError(LedgerError):
    """The server asks for a token, and got none that it knows."""


class NotPermittedError(LedgerError):
    """The token is not for this."""


class ConflictError(LedgerError):
    """What was asked contradicts what is already in the ledger."""


class InvalidRequestError(LedgerError):
    """A value cannot be taken: out of range, too long, or not what it should be."""


class InvalidQueryError(LedgerError):
    """A query from outside was refused, by the read-only rules or by ClickHouse."""


class BusyError(LedgerError):
    """Too many calls at once; the same call can be made again."""


class StoreUnavailableError(LedgerError):
    """The store cannot be reached, is in use by another process, or is not migrated."""


class ServerUnreachableError(LedgerError):
    """No aggregator answers at the URL."""
