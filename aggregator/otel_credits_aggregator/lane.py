"""A client of the store, and all it takes to get a batch through it: repetition, isolation of what is at fault, forgetting."""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import TypeVar

import tenacity

from otel_credits_aggregator.allocator import trim
from otel_credits_aggregator.batch_insert import insert, is_permanent, is_too_much, quarantine_raw
from otel_credits_aggregator.books import books_now
from otel_credits_aggregator.envelope import charges_genai
from otel_credits_aggregator.fault_points import passing
from otel_credits_aggregator.migrations import MigrationError
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.outcomes import SpoolFailed, Stopping
from otel_credits_aggregator.recent import Recent
from otel_credits_aggregator.replaced_calls import note_replaced_calls
from otel_credits_aggregator.replay import charges_taken_back, halves_of_replay, run_replay
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Batch, Spool
from otel_credits_aggregator.store import Client, connect, is_embedded
from otel_credits_aggregator.voids import note_copies_of_void, note_doubles
from otel_credits_aggregator.window import Window, is_forgotten, take_out

__all__ = ["GaveUp", "Lane", "Progress"]

T = TypeVar("T")

logger = logging.getLogger(__name__)


# What an operator has to do. Running totals do not say which batch they are of, so they cannot be told from here.
_LATE = (
    "batch %s was cut off, and so many inserts came since that the store may have forgotten its beginning. It begins anew: each"
    " of its usages is charged once, but totals, and the counters of this aggregator, may count it twice."
    " Run `otel-credits reconcile --fix`"
)
_LATE_AND_AS_IT_IS = (
    "batch %s was cut off, and so many inserts came since that the store may have forgotten its beginning. It is repeated as it"
    " is, as somebody decided about its rows meanwhile, or because it treats rows of the quarantine: charges may be there twice."
    " Look in credit_usage_events for event_id that come twice with batch_id %s and sign 1, and run"
    " `otel-credits reconcile --fix`"
)


class GaveUp(Exception):
    """The time to insert is over; the rest stays in the spool."""


@dataclass
class Progress:
    """What was inserted so far, for the metrics and the readiness; all lanes write it."""

    migrated: bool = False
    replayed: bool = False
    store_up: bool = False
    batches: int = 0
    failures: int = 0
    insert_seconds: float = 0.0
    requests_isolated: int = 0
    repeated_late: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(
        self, *, batches: int = 0, failures: int = 0, insert_seconds: float = 0.0, isolated: int = 0, late: int = 0
    ) -> None:
        """Counts further."""
        with self._lock:
            self.batches += batches
            self.failures += failures
            self.insert_seconds += insert_seconds
            self.requests_isolated += isolated
            self.repeated_late += late


class Lane:
    """Used by one thread at a time. A batch is repeated until the store has it.

    Args:
        spool: where the batches are.
        settings: of the aggregator.
        progress: where it counts.
        give_up: when it is set, whatever failed is not tried again.
        recent: what keeps requests for tests of rules; None: nothing does.
    """

    def __init__(
        self,
        spool: Spool,
        settings: Settings,
        progress: Progress,
        give_up: threading.Event,
        recent: Recent | None = None,
    ) -> None:
        self._recent = recent
        self._spool = spool
        self._settings = settings
        self._progress = progress
        self._give_up = give_up
        self._client: Client | None = None
        self._window = Window()

    def begin(self, batch: Batch) -> None:
        """Makes the composition of a batch durable, with how far the books go for it, and then inserts it.

        Raises:
            GaveUp: it is in the spool, and may be in the store.
            Stopping: the spool was closed.
        """
        passing("batch_chosen")
        batch = replace(
            batch,
            books=self.attempt(lambda: books_now(self.connected())),
            blocks=self.attempt(lambda: self._window.blocks(self.connected())),
        )
        self._write(lambda: self._spool.compose(batch))
        passing("batch_composed")
        self.finish(batch, is_new=True)

    def finish(self, batch: Batch, *, is_new: bool = False) -> None:
        """Repeats a batch until the store has it, then forgets it. Raises as :meth:`begin` does.

        Args:
            batch: composed durably.
            is_new: the store cannot have any of it.
        """
        started = time.monotonic()
        attempts = count(1)
        try:
            self.attempt(lambda: self._insert(batch, next(attempts), is_new=is_new))
        except _Forgotten:
            self._begin_anew(batch)
            return
        except _Permanent as error:
            self._isolate(batch, error.cause)
            return
        passing("insert_done")
        if self._recent is not None and batch.signal is Signal.TRACES:
            self._recent.add(partial(self._spool.payloads, batch))
        self._write(lambda: self._spool.forget(batch))
        passing("batch_forgotten")
        trim()
        self._progress.add(batches=1, insert_seconds=time.monotonic() - started)

    def attempt(self, what: Callable[[], T]) -> T:
        """Asks the store until it answers, refuses for good, or a stop has run out of time (GaveUp)."""
        result = self._repeat(what)
        self._progress.store_up = True
        return result

    def once(self, work: Callable[[Client], T]) -> T:
        """Does something with the store, tried once."""
        try:
            return work(self.connected())
        except Exception:
            self._discard_client()
            raise

    def connected(self) -> Client:
        """The client, a new one if there is none."""
        if self._client is None:
            self._client = connect(self._settings.dsn)
        return self._client

    def _insert(self, batch: Batch, attempt: int, *, is_new: bool) -> None:
        client = self.connected()
        if not (is_new and attempt == 1) and is_forgotten(client, batch.blocks):
            raise _Forgotten
        try:
            if batch.signal is Signal.REPLAY:
                run_replay(client, batch)
            else:
                passing("insert_begun")
                insert(client, self._spool, batch, in_parts=is_embedded(self._settings.dsn))
            passing("doubles_unseen")
            self._look_for_doubles(client, batch)
        except Exception as error:
            self._discard_client()
            can_be_halved = batch.first_id != batch.last_id
            if is_permanent(error, attempt) or (can_be_halved and is_too_much(error, attempt)):
                raise _Permanent(error) from error
            raise

    def _look_for_doubles(self, client: Client, batch: Batch) -> None:
        """Notes what was charged twice: by others who insert into the same store, or because the app tells of a call itself."""
        has_others = not is_embedded(self._settings.dsn)
        may_hold_calls = batch.signal is Signal.REPLAY or charges_genai(batch.fields)
        if has_others or may_hold_calls:
            note_doubles(client, batch.batch_id)
        if may_hold_calls:
            note_replaced_calls(client, batch.batch_id)
        if has_others:
            note_copies_of_void(client, charges_taken_back(batch))

    def _begin_anew(self, batch: Batch) -> None:
        """Inserts a batch whose first attempt the store may have forgotten; charges nothing twice where that is possible."""
        self._progress.add(late=1)
        if batch.signal is not Signal.REPLAY and self.attempt(lambda: take_out(self.connected(), batch.batch_id)):
            logger.error(_LATE, batch.batch_id)
            blocks = self.attempt(lambda: self._window.blocks(self.connected()))
            anew = replace(batch, batch_id=str(uuid.uuid4()), blocks=blocks)
        else:
            logger.error(_LATE_AND_AS_IT_IS, batch.batch_id, batch.batch_id)
            anew = replace(batch, blocks="")
        self._write(lambda: self._spool.split(batch, [anew]))
        self.finish(anew, is_new=True)

    def _isolate(self, batch: Batch, error: Exception) -> None:
        """Halves a batch that the store refuses for its content, until what is at fault is alone; that is set aside."""
        parts = halves_of_replay(batch) if batch.signal is Signal.REPLAY else self._halves(batch)
        if not parts:
            self._set_aside(batch, error)
            return
        self._write(lambda: self._spool.split(batch, parts))
        passing("batch_split")
        for part in parts:
            self.finish(part, is_new=True)

    def _halves(self, batch: Batch) -> list[Batch]:
        """Two batches with the same requests; none if there is only one request."""
        requests = self._spool.request_ids(batch)
        middle = len(requests) // 2
        halves = [half for half in (requests[:middle], requests[middle:]) if half and len(requests) > 1]
        return [replace(batch, batch_id=str(uuid.uuid4()), first_id=half[0][0], last_id=half[-1][0]) for half in halves]

    def _set_aside(self, batch: Batch, error: Exception) -> None:
        if batch.signal is Signal.REPLAY:
            logger.error("a quarantined row cannot be treated and stays in the quarantine: %s", _brief(error))
        else:
            logger.error("a request cannot be inserted and is kept in the quarantine: %s", _brief(error))
            wanted = (*self._settings.user_attributes, *self._settings.keep_attributes)
            self.attempt(lambda: quarantine_raw(self.connected(), self._spool, batch, error, wanted))
            passing("raw_quarantined")
            self._progress.add(isolated=1)
        self._write(lambda: self._spool.forget(batch))

    def _discard_client(self) -> None:
        """After an error the next call has a new client: chDB may put what is left of a failed answer before the next one."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()

    def _write(self, what: Callable[[], None]) -> None:
        """Writes to the spool, again and again while the disk refuses: a full one may be emptied."""
        self._repeat(what)

    def _repeat(self, what: Callable[[], T]) -> T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_not_exception_type((_Permanent, _Forgotten, MigrationError, Stopping)),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=self._settings.store_retry_max_s),
            sleep=tenacity.sleep_using_event(self._give_up),
            stop=tenacity.stop_when_event_set(self._give_up),
            before_sleep=self._failed,
        )
        try:
            return retrying(what)
        except tenacity.RetryError as error:
            raise GaveUp from error

    def _failed(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, SpoolFailed):
            logger.error("trying again: %s", _brief(error))
            return
        self._discard_client()
        # A first failure is news; the ones after it say the same.
        log = logger.warning if self._progress.store_up or state.attempt_number == 1 else logger.debug
        log(
            "the store did not answer as it should, trying again (%d bytes wait in the spool): %s",
            self._spool.bytes_waiting,
            _brief(error),
        )
        self._progress.store_up = False
        self._progress.add(failures=1)


class _Permanent(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Forgotten(Exception):
    """The store may have forgotten what it has of a batch."""


def _brief(error: BaseException | None) -> str:
    """An error in one line of the log: what it is about is at its beginning, its cause at its end, a URL in between."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"
