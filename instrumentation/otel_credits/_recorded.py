"""What the tracking calls return: something to await, or not."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, NoReturn


class Recorded(Coroutine[Any, Any, None]):
    """The usage is recorded already. Awaiting it returns None at once, and not awaiting it warns of nothing.

    It is a Coroutine, so that `asyncio.run(track_compute_usage(...))` and `create_task(...)` work too. It has no
    state, so that one object serves every call.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield

    def send(self, value: object) -> NoReturn:
        raise StopIteration

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> NoReturn:
        raise typ

    def close(self) -> None:
        pass


RECORDED = Recorded()
