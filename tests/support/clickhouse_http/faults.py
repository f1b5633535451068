"""What can be made to go wrong, for the chaos tests. Everything here is reached through `POST /_fault`."""

import asyncio
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

TABLE_IS_READ_ONLY = 242  # what a replicated table answers while it has lost its Keeper


Action = Literal["delay", "hang", "cut", "http_500", "exception", "read_only", "die"]
When = Literal["before", "during", "after"]
Target = Literal["insert", "query", "any"]


class Fault(BaseModel):
    """One thing that goes wrong.

    Args:
        action: what happens to the request.
            delay: it is held for `seconds`, then goes on.
            hang: it is held until the faults are cleared, then goes on, as in a server that stood still.
            cut: its connection is closed without an answer.
            http_500: it is answered with status 500 and no exception code, as a proxy in front of a server would.
            exception: it is answered with the ClickHouse exception `code`.
            read_only: it is answered as a read-only table answers an insert (exception 242).
            die: the server kills itself with SIGKILL: at once, or `seconds` later while the request goes on.
        when: before, nothing has run; during, half of an insert's data was handed to the engine and the rest never
            is; after, the statement has run and is committed, and only the answer suffers.
        on: the requests it happens to: an insert that carries data, a query (any other statement), or both.
        times: how many requests it happens to; None, to all until it is cleared.
        seconds: for delay and die.
        code: for exception; 999 is KEEPER_EXCEPTION.
        hits: how many requests it has happened to.
    """

    model_config = ConfigDict(extra="forbid")

    action: Action
    when: When = "before"
    on: Target = "insert"
    times: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(ge=0)] = 0.0
    code: Annotated[int, Field(ge=1)] = 999
    hits: int = 0

    def applies_to(self, is_insert: bool) -> bool:
        """Say whether this fault is still to happen to such a request."""
        spent = self.times is not None and self.hits >= self.times
        wanted = self.on in ("any", "insert" if is_insert else "query")
        return wanted and not spent and (is_insert or self.when != "during")

    @property
    def exception_code(self) -> int:
        """The ClickHouse exception code that the actions `exception` and `read_only` answer."""
        return TABLE_IS_READ_ONLY if self.action == "read_only" else self.code


class Faults:
    """The faults that are set, in the order in which they were set. Used on the event loop only."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._cleared = asyncio.Event()

    def add(self, fault: Fault) -> None:
        """Let this go wrong from now on, after what was set before it."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Let everything work again, and release the requests that hang."""
        self._faults = []
        self._cleared.set()
        self._cleared = asyncio.Event()

    def take(self, *, is_insert: bool) -> Fault | None:
        """Return the fault that happens to this request, and count it."""
        fault = next((fault for fault in self._faults if fault.applies_to(is_insert)), None)
        if fault is not None:
            fault.hits += 1
        return fault

    def listed(self) -> list[dict[str, object]]:
        """Return the faults that are set, with how often each one has happened."""
        return [fault.model_dump(mode="json") for fault in self._faults]

    async def wait_until_cleared(self) -> None:
        """Wait for the next `clear`."""
        await self._cleared.wait()
