"""The export thread lets the app's threads run while it works.

Python switches to a thread that waits for the interpreter after 5 ms (`sys.getswitchinterval`), which is longer than
many a request takes. What is done to each usage of a batch, a few hundred times a few microseconds, would hold a request up for
all of that. So the thread sleeps for a moment after each half of a millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")

_WORKS_S = 0.0005
# As short as can be, and longer than nothing: who does not sleep has the interpreter again before another thread is awake.
_SLEEPS_S = 0.00001


def giving_way(items: Iterable[_Item]) -> Iterator[_Item]:
    """The items, with a moment for other threads between them wherever what is done to them has taken a while."""
    began = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - began >= _WORKS_S:
            time.sleep(_SLEEPS_S)
            began = time.perf_counter()


def let_go(items: list[_Item]) -> None:
    """Empty a list whose items may be gone with it, which takes Python as long as many other things."""
    for _ in giving_way(range(len(items))):
        items.pop()
