"""Fixtures of tests/support that some files of this folder share."""

from support.rules import priced

__all__ = ["priced"]
