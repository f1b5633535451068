"""Makes the faults happen around the execution of a request."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from starlette.requests import Request

from ._answers import Answer
from ._engine import InterruptedInsertError
from ._errors import ServerError
from ._executor import Interrupt
from .faults import Fault, Faults

Execute = Callable[[Interrupt], Awaitable[Answer]]


class Chaos:
    """The faults that are set, and `cut`, which closes a request's connection without an answer."""

    def __init__(self, cut: Callable[[Request], None]) -> None:
        self.faults = Faults()
        self._cut = cut

    async def around(self, request: Request, *, is_insert: bool, execute: Execute) -> Answer:
        """Execute a request with the fault that is due. Raises `ServerError` if that is what it answers."""
        fault = self.faults.take(is_insert=is_insert)
        if fault is None:
            return await execute(None)
        if fault.when == "before":
            return await self._befall(fault, request) or await execute(None)
        if fault.when == "during":
            return await self._during(fault, request, execute)
        answer = await execute(None)
        return await self._befall(fault, request) or answer

    async def _during(self, fault: Fault, request: Request, execute: Execute) -> Answer:
        try:
            return await execute(_kill_this_process if fault.action == "die" else _do_nothing)
        except InterruptedInsertError:
            # A delay and a hang have no answer of their own; of half an insert there is nothing else to say.
            return await self._befall(fault, request) or self._closed(request)

    async def _befall(self, fault: Fault, request: Request) -> Answer | None:
        """Let it happen. Returns None if the request goes on afterwards."""
        match fault.action:
            case "delay":
                await asyncio.sleep(fault.seconds)
            case "hang":
                await self.faults.wait_until_cleared()
            case "die" if fault.seconds == 0:
                _kill_this_process()
            case "die":
                asyncio.get_running_loop().call_later(fault.seconds, _kill_this_process)
            case "cut":
                return self._closed(request)
            case "http_500":
                return Answer(500, b"Internal Server Error (a fault that a test asked for)\n")
            case "exception" | "read_only":
                raise ServerError(fault.exception_code, "A fault that a test asked for")
        return None

    def _closed(self, request: Request) -> Answer:
        self._cut(request)
        return Answer(500)  # Nobody reads it.


def _kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _do_nothing() -> None:
    pass
