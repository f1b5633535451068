"""Moments at which a test can have the process killed, however short they are (tests/chaos). Otherwise they do nothing.

``OTEL_CREDITS_FAULT_POINT=NAME:N`` sends SIGKILL to the process itself when it passes the moment ``NAME`` for the ``N``-th
time; ``NAME:N:SECONDS`` so many seconds after that, while the work goes on. It is no setting: no file of settings, no
documentation for operators. Without the variable :func:`passing` is a function with an empty body.
"""

import os
import signal
import threading
from collections.abc import Callable
from itertools import count

__all__ = ["FAULT_POINTS", "passing"]

# In the order in which a request, and then the process, meets them.
FAULT_POINTS = (
    "migration_statement",  # within a migration, between two of its statements
    "migration_unrecorded",  # every statement of a migration was applied, its number not yet noted
    "request_read",  # a request is whole and valid, and nowhere but in memory
    "spool_uncommitted",  # requests are written to the spool, and not committed
    "spool_committed",  # they are durable, and their senders are not answered
    "batch_chosen",  # a batch is made, and its composition not durable
    "batch_beside",  # a batch begins while another is under way
    "batch_composed",  # its composition is durable, and its insert not begun
    "insert_begun",  # just before the store is given a batch
    "doubles_unseen",  # the store has it, and whether another aggregator charged copies was not looked at
    "insert_done",  # the store has it, the spool does not know
    "batch_forgotten",  # the spool has dropped it
    "batch_split",  # a batch that was refused is replaced by its halves
    "raw_quarantined",  # a request that cannot be inserted is in the quarantine, and still in the spool
    "replay_decided",  # it is recorded who assigned or discarded quarantined rows, and nothing else was done
    "replay_inserted",  # quarantined rows went through the chain, and still are in the quarantine
    "replay_counted",  # they are taken off the count, too, and still are in the quarantine
    "stop_begun",  # nothing new is received, what waits is not inserted
    "stop_inserted",  # all is inserted, the spool is open
)

_VARIABLE = "OTEL_CREDITS_FAULT_POINT"


def _nowhere(name: str) -> None:
    """Goes on."""


def _at(point: str) -> Callable[[str], None]:
    """What kills at this point. Raises ValueError if there is none of that name."""
    wanted, number, *after_s = point.split(":")
    if wanted not in FAULT_POINTS:
        raise ValueError(f"{_VARIABLE} names {wanted!r}, which is none of: {', '.join(FAULT_POINTS)}")
    passed, fatal = count(1), int(number)

    def passing(name: str) -> None:
        if name == wanted and next(passed) == fatal:
            _kill(*map(float, after_s))

    return passing


def _kill(after_s: float = 0.0) -> None:
    if after_s:
        killer = threading.Timer(after_s, _kill)
        killer.daemon = True
        killer.start()
        return
    os.kill(os.getpid(), signal.SIGKILL)


# To be called at each of the moments above, by its name.
passing: Callable[[str], None] = _at(os.environ[_VARIABLE]) if os.environ.get(_VARIABLE) else _nowhere
