"""The never-raise edge of the library, and what it says when something is wrong.

Every public tracking call goes through here. A bad argument, or a fault of ours, is logged once for each kind and
counted, and the app carries on; in strict mode (tests) it is raised.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("otel_credits")

_strict = False
# Without a lock: two threads may both say a thing, which does no harm; a lock that a fork copies while held does.
_said: set[str] = set()


def set_strict(strict: bool) -> None:
    """Raise bad arguments and faults of our own instead of logging them."""
    global _strict
    _strict = strict


def is_strict() -> bool:
    """Whether faults are raised."""
    return _strict


def say_once(kind: str, level: int, message: str, *args: object, exc_info: BaseException | None = None) -> None:
    """Log `message` unless something of this kind was logged before in this process."""
    if kind in _said:
        return
    _said.add(kind)
    logger.log(level, message, *args, exc_info=exc_info)


def forget_what_was_said() -> None:
    """Let every kind of message be logged again (for tests)."""
    _said.clear()


def note_fault(where: str, error: Exception) -> None:
    """A fault that does not stop the usage from being recorded: logged once, raised in strict mode."""
    if _strict:
        raise error
    kind = f"{where}:{getattr(error, 'argument', type(error).__name__)}"
    say_once(kind, logging.ERROR, "%s: %s (logged once; the usage was recorded without it)", where, error)


def report_dropped(where: str, error: Exception) -> None:
    """A fault that stopped the usage from being recorded: logged once, raised in strict mode."""
    if _strict:
        raise error
    kind = f"{where}:{getattr(error, 'argument', type(error).__name__)}:dropped"
    expected = hasattr(error, "argument")
    say_once(
        kind,
        logging.ERROR,
        "%s: %s (logged once; the usage was NOT recorded, see credits.client.failed)",
        where,
        error,
        exc_info=None if expected else error,
    )
