"""Fixtures of tests/support that some files of this folder share."""

from support.ledgers import dsn, kind, ledger, store

__all__ = ["dsn", "kind", "ledger", "store"]
