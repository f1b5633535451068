"""Imports without the garbage collector.

Importing makes some 300,000 objects that live as long as the process. Python's collector looks through them again and again
while they are made, which takes a third of the processor time that a command needs to begin, and once more at the end.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_collecting"]


@contextmanager
def without_collecting() -> Iterator[None]:
    """Nothing is collected within the block, and what is there at its end is not looked at again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
