"""Which of many cases of one kind `make test` runs: a few that differ; `make test-long` runs the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

import pytest

__all__ = ["others_long"]

T = TypeVar("T")


def others_long(cases: Iterable[T], *, short: Collection[T]) -> list[object]:
    """All `cases` for `pytest.mark.parametrize`; those that are not `short` are marked `long`.

    Raises:
        ValueError: one of `short` is no case (any more).
    """
    all_cases = list(cases)
    if strangers := [case for case in short if case not in all_cases]:
        raise ValueError(f"no such cases: {strangers}")
    return [case if case in short else pytest.param(case, marks=pytest.mark.long) for case in all_cases]
