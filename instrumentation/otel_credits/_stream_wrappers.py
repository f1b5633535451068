"""What `track_stream` returns in place of a stream: the same to its reader, and every event is seen on its way."""

from __future__ import annotations

import weakref
from typing import Any

from otel_credits._stream_meter import ABORTED, COMPLETED, FAILED, StreamMeter


class _Observed:
    """The events of a stream on their way to whoever reads them."""

    def __init__(self, source: Any, meter: StreamMeter) -> None:
        self._source = source
        self._meter = meter
        weakref.finalize(self, meter.finish, ABORTED).atexit = False

    def __iter__(self) -> _Observed:
        return self

    def __next__(self) -> Any:
        try:
            event = next(self._source)
        except StopIteration:
            self._meter.finish(COMPLETED)
            raise
        except GeneratorExit:
            self._meter.finish(ABORTED)
            raise
        except BaseException:
            self._meter.finish(FAILED)
            raise
        self._meter.read(event)
        return event

    def close(self) -> None:
        self._meter.finish(ABORTED)
        if hasattr(self._source, "close"):
            self._source.close()


class _AsyncObserved:
    """The same for an async stream. A cancelled reader is an aborted stream, not a failed one."""

    def __init__(self, source: Any, meter: StreamMeter) -> None:
        self._source = source
        self._meter = meter
        weakref.finalize(self, meter.finish, ABORTED).atexit = False

    def __aiter__(self) -> _AsyncObserved:
        return self

    async def __anext__(self) -> Any:
        try:
            event = await anext(self._source)
        except StopAsyncIteration:
            self._meter.finish(COMPLETED)
            raise
        except Exception:
            self._meter.finish(FAILED)
            raise
        except BaseException:  # CancelledError, GeneratorExit
            self._meter.finish(ABORTED)
            raise
        self._meter.read(event)
        return event

    async def aclose(self) -> None:
        self._meter.finish(ABORTED)
        if hasattr(self._source, "aclose"):
            await self._source.aclose()


class _Wrapper:
    """What both wrappers share: everything that is not reading is the inner stream's."""

    def __init__(self, stream: Any, meter: StreamMeter) -> None:
        self._meter = meter
        self._stream = stream
        meter.opened()
        weakref.finalize(self, meter.wrapper_gone).atexit = False

    def __getattr__(self, name: str) -> Any:
        self._meter.escaped = True
        return getattr(self._stream, name)


class TrackedStream(_Wrapper):
    """A sync stream that is being counted."""

    def __init__(self, stream: Any, meter: StreamMeter) -> None:
        super().__init__(stream, meter)
        self._reader = _observe(stream, _Observed, meter, iter)

    def __iter__(self) -> TrackedStream:
        return self

    def __next__(self) -> Any:
        self._meter.used = True
        return next(self._reader)

    def __enter__(self) -> TrackedStream:
        self._meter.used = True
        if hasattr(self._stream, "__enter__"):
            self._stream.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> Any:
        self._meter.finish(ABORTED)
        return self._stream.__exit__(*exc_info) if hasattr(self._stream, "__exit__") else None

    def close(self) -> None:
        self._meter.finish(ABORTED)
        if hasattr(self._stream, "close"):
            self._stream.close()


class AsyncTrackedStream(_Wrapper):
    """An async stream that is being counted."""

    def __init__(self, stream: Any, meter: StreamMeter) -> None:
        super().__init__(stream, meter)
        self._reader = _observe(stream, _AsyncObserved, meter, aiter)

    def __aiter__(self) -> AsyncTrackedStream:
        return self

    async def __anext__(self) -> Any:
        self._meter.used = True
        return await anext(self._reader)

    async def __aenter__(self) -> AsyncTrackedStream:
        self._meter.used = True
        if hasattr(self._stream, "__aenter__"):
            await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> Any:
        self._meter.finish(ABORTED)
        return await self._stream.__aexit__(*exc_info) if hasattr(self._stream, "__aexit__") else None

    async def close(self) -> None:
        self._meter.finish(ABORTED)
        if hasattr(self._stream, "close"):
            await self._stream.close()

    async def aclose(self) -> None:
        self._meter.finish(ABORTED)
        if hasattr(self._stream, "aclose"):
            await self._stream.aclose()


def _observe(stream: Any, observed: Any, meter: StreamMeter, iterator: Any) -> Any:
    """Put the observer where the events come from, and return what to read.

    The SDKs' streams keep their source in `_iterator`, and all their helpers read from it. Anything else is observed
    at its surface.
    """
    try:
        stream._iterator = observed(stream._iterator, meter)
    except AttributeError:
        return observed(iterator(stream), meter)
    return stream


class Manager:
    """The context manager that `messages.stream(...)` returns: the stream exists from `__enter__` on."""

    def __init__(self, manager: Any, meter: StreamMeter) -> None:
        self._manager = manager
        self._meter = meter

    def __enter__(self) -> TrackedStream:
        return TrackedStream(self._manager.__enter__(), self._meter)

    def __exit__(self, *exc_info: Any) -> Any:
        self._meter.finish(ABORTED)
        return self._manager.__exit__(*exc_info)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


class AsyncManager:
    """The same of the async client."""

    def __init__(self, manager: Any, meter: StreamMeter) -> None:
        self._manager = manager
        self._meter = meter

    async def __aenter__(self) -> AsyncTrackedStream:
        return AsyncTrackedStream(await self._manager.__aenter__(), self._meter)

    async def __aexit__(self, *exc_info: Any) -> Any:
        self._meter.finish(ABORTED)
        return await self._manager.__aexit__(*exc_info)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)
