"""Moves what waits in the spool into the store, in batches, one after the other.

One thread, because the check against duplicates must see what the batch before has stored. A batch is repeated until the
store has it; while the store is away everything else waits in the spool.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

import tenacity

from otel_credits_aggregator.batch_insert import insert, is_permanent, is_too_much, quarantine_raw
from otel_credits_aggregator.envelope import settings_fields
from otel_credits_aggregator.fault_points import passing
from otel_credits_aggregator.migrations import MigrationError, migrate
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.outcomes import SpoolFailed, Stopping
from otel_credits_aggregator.replay import (
    REPLAY_ROWS_MAX,
    PriceWatch,
    Selection,
    Treatment,
    halves_of_replay,
    quarantined_ids,
    replay_batch,
    run_replay,
)
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Batch, Spool, Waiting
from otel_credits_aggregator.store import Client, connect, is_embedded
from otel_credits_aggregator.voids import (
    VOIDS_MAX,
    charges_of,
    double_batch,
    doubles_to_take_back,
    note_doubles,
    void_batch,
)

__all__ = ["Inserter", "Progress"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

# After the time to insert is over, how long the attempt under way may still take before the process leaves it.
_GIVE_UP_S = 2.0


@dataclass
class Progress:
    """What the inserter did so far, for the metrics and the readiness."""

    migrated: bool = False
    replayed: bool = False
    store_up: bool = False
    batches: int = 0
    failures: int = 0
    insert_seconds: float = 0.0
    requests_isolated: int = 0


@dataclass
class _Job:
    """Something to do between two batches."""

    run: Callable[[], Any]
    done: "Future[Any]" = field(default_factory=Future)

    def __post_init__(self) -> None:
        # Whoever waits may go away, but not cancel: the answer must find the future as it was.
        self.done.set_running_or_notify_cancel()


class Inserter:
    """The thread that inserts. :meth:`start` it, and :meth:`stop` it to have what waits inserted first."""

    def __init__(self, spool: Spool, settings: Settings) -> None:
        self.progress = Progress()
        self._spool = spool
        self._settings = settings
        self._fields = settings_fields(settings, spool.receiver)
        self._client: Client | None = None
        self._prices = PriceWatch()
        self._next_recheck = 0.0
        self._jobs: list[_Job] = []
        self._stopping = False
        self._ended = False
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inserter", daemon=True)

    def start(self) -> None:
        """Migrates the store, finishes what an earlier process began, then inserts what comes."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it inserts, or tries to; it ends by itself where only an operator can help."""
        return self._thread.is_alive()

    def stop(self, timeout_s: float) -> bool:
        """Inserts what waits, for at most so long; returns whether everything is in the store."""
        with self._spool.arrived:
            self._stopping = True
            self._spool.arrived.notify()
        self._thread.join(timeout_s)
        self._give_up.set()
        self._thread.join(_GIVE_UP_S)
        return self._spool.is_empty()

    def treat(self, selection: Selection, treatment: Treatment) -> "Future[int]":
        """Replays, assigns or discards quarantined rows, each once; the future has the number of rows that were taken.

        Raises:
            Stopping: nothing is inserted any more. (The future may have it, too.)
        """
        return self._enqueue(lambda: self._treat_all(selection, treatment))

    def void(self, event_id: str, treatment: Treatment) -> "Future[bool]":
        """Takes the charge of an event back, once; the future says whether it was there and still charged.

        Raises:
            Stopping: as above.
        """
        return self._enqueue(lambda: self._void(event_id, treatment))

    def between_batches(self, work: Callable[[Client], T]) -> "Future[T]":
        """Does something with the store while no batch of this aggregator is under way; senders are answered meanwhile.

        It is tried once; what it raises is in the future.

        Raises:
            Stopping: as above.
        """
        return self._enqueue(lambda: self._undisturbed(work))

    def _enqueue(self, run: Callable[[], T]) -> "Future[T]":
        job = _Job(run)
        with self._spool.arrived:
            if self._ended:
                raise Stopping("the aggregator is stopping", 1.0)
            self._jobs.append(job)
            self._spool.arrived.notify()
        return job.done

    def _run(self) -> None:
        try:
            self._attempt(self._migrate)
            for batch in self._spool.batches():
                self._finish(batch)
            self.progress.replayed = True
            while not self._give_up.is_set():
                if not self._step():
                    return
        except (_GaveUp, Stopping):
            logger.warning(
                "stopped with %d bytes in the spool; they are inserted at the next start", self._spool.bytes_waiting
            )
        except MigrationError as error:
            logger.critical("%s", error)
        except Exception:
            logger.critical("the inserter failed; what is acknowledged stays in the spool", exc_info=True)
        finally:
            self._refuse_jobs()

    def _step(self) -> bool:
        """One batch, the jobs, a recheck; False when stopping and nothing waits."""
        chosen = self._next_requests()
        if chosen:
            self._begin(Batch(str(uuid.uuid4()), chosen[0].signal, chosen[0].id, chosen[-1].id, self._fields))
        for job in self._take_jobs():
            self._answer(job)
        if time.monotonic() >= self._next_recheck:
            self._recheck()
        return bool(chosen) or not self._stopping

    def _migrate(self) -> None:
        applied = migrate(self._connected())
        self.progress.migrated = True
        for migration in applied:
            logger.info("applied migration %04d_%s", migration.version, migration.name)

    def _next_requests(self) -> list[Waiting]:
        """Waits until a batch is worth inserting, and takes its requests out of the queue."""
        with self._spool.arrived:
            while not self._due():
                self._spool.arrived.wait(self._pause())
            return _take_batch(self._spool, self._settings.insert_bytes_max)

    def _due(self) -> bool:
        waiting = self._spool.waiting
        if self._stopping or self._jobs or time.monotonic() >= self._next_recheck:
            return True
        if not waiting:
            return False
        age = time.monotonic() - waiting[0].since
        return (
            age >= self._settings.insert_interval_s
            or sum(one.bytes for one in waiting) >= self._settings.insert_bytes_max
        )

    def _pause(self) -> float:
        """Seconds until something may be due without anything new arriving."""
        until = self._next_recheck
        if self._spool.waiting:
            until = min(until, self._spool.waiting[0].since + self._settings.insert_interval_s)
        return max(until - time.monotonic(), 0.001)

    def _begin(self, batch: Batch) -> None:
        passing("batch_chosen")
        self._write(lambda: self._spool.compose(batch))
        passing("batch_composed")
        self._finish(batch)

    def _finish(self, batch: Batch) -> None:
        """Repeats a batch until the store has it, then forgets it."""
        started = time.monotonic()
        attempts = count(1)
        try:
            self._attempt(lambda: self._insert(batch, next(attempts)))
        except _Permanent as error:
            self._isolate(batch, error.cause)
            return
        passing("insert_done")
        self._write(lambda: self._spool.forget(batch))
        passing("batch_forgotten")
        self.progress.batches += 1
        self.progress.insert_seconds += time.monotonic() - started

    def _insert(self, batch: Batch, attempt: int) -> None:
        client = self._connected()
        try:
            if batch.signal is Signal.REPLAY:
                run_replay(client, batch)
            else:
                passing("insert_begun")
                insert(client, self._spool, batch)
            if not is_embedded(self._settings.dsn):
                note_doubles(client, batch.batch_id)
        except Exception as error:
            self._discard_client()
            can_be_halved = batch.first_id != batch.last_id
            if is_permanent(error, attempt) or (can_be_halved and is_too_much(error, attempt)):
                raise _Permanent(error) from error
            raise

    def _isolate(self, batch: Batch, error: Exception) -> None:
        """Halves a batch that the store refuses for its content, until what is at fault is alone; that is set aside."""
        parts = halves_of_replay(batch) if batch.signal is Signal.REPLAY else self._halves(batch)
        if not parts:
            self._set_aside(batch, error)
            return
        self._write(lambda: self._spool.split(batch, parts))
        passing("batch_split")
        for part in parts:
            self._finish(part)

    def _halves(self, batch: Batch) -> list[Batch]:
        """Two batches with the same requests; none if there is only one request."""
        requests = self._spool.request_ids(batch)
        middle = len(requests) // 2
        halves = [half for half in (requests[:middle], requests[middle:]) if half and len(requests) > 1]
        return [Batch(str(uuid.uuid4()), batch.signal, half[0][0], half[-1][0], batch.fields) for half in halves]

    def _set_aside(self, batch: Batch, error: Exception) -> None:
        if batch.signal is Signal.REPLAY:
            logger.error("a quarantined row cannot be treated and stays in the quarantine: %s", _brief(error))
        else:
            logger.error("a request cannot be inserted and is kept in the quarantine: %s", _brief(error))
            self._attempt(
                lambda: quarantine_raw(self._connected(), self._spool, batch, error, self._settings.user_attributes)
            )
            passing("raw_quarantined")
            self.progress.requests_isolated += 1
        self._write(lambda: self._spool.forget(batch))

    def _take_jobs(self) -> list[_Job]:
        with self._spool.arrived:
            taken, self._jobs = self._jobs, []
        return taken

    def _answer(self, job: _Job) -> None:
        try:
            job.done.set_result(job.run())
        except (_GaveUp, Stopping) as error:
            job.done.set_exception(Stopping("the aggregator is stopping", 1.0))
            raise error
        except Exception as error:
            job.done.set_exception(error)

    def _refuse_jobs(self) -> None:
        """Answers who asked for something that will not happen any more."""
        with self._spool.arrived:
            self._ended = True
        for job in self._take_jobs():
            job.done.set_exception(Stopping("the aggregator is stopping", 1.0))

    def _undisturbed(self, work: Callable[[Client], T]) -> T:
        try:
            return work(self._connected())
        except Exception:
            self._discard_client()
            raise

    def _recheck(self) -> None:
        """Charges what was unpriced, if the price book changed."""
        if not self._stopping and self._attempt(lambda: self._prices.changed(self._connected())):
            self._treat_all(Selection(reasons=("unpriced",)), Treatment())
        # Only where others may insert into the same store.
        if not self._stopping and not is_embedded(self._settings.dsn):
            self._take_back_doubles()
        self._next_recheck = time.monotonic() + self._settings.recheck_interval_s

    def _void(self, event_id: str, treatment: Treatment) -> bool:
        charges = self._attempt(lambda: charges_of(self._connected(), [event_id]))
        # Of two charges the other one is a double, which is taken back anyhow.
        if not charges or charges[0].is_void:
            return False
        self._begin(void_batch(charges[:1], treatment))
        return True

    def _take_back_doubles(self) -> None:
        receiver, spool = self._spool.receiver, self._spool
        doubles = self._attempt(lambda: doubles_to_take_back(self._connected(), receiver, spool.batches()))
        for start in range(0, len(doubles), VOIDS_MAX):
            self._begin(double_batch(doubles[start : start + VOIDS_MAX], receiver))

    def _treat_all(self, selection: Selection, treatment: Treatment) -> int:
        """Every row that matches now, once; what is quarantined again by it is not tried a second time."""
        ids = self._attempt(lambda: quarantined_ids(self._connected(), self._spool.receiver, selection, treatment))
        for start in range(0, len(ids), REPLAY_ROWS_MAX):
            self._begin(replay_batch(ids[start : start + REPLAY_ROWS_MAX], treatment))
        return len(ids)

    def _connected(self) -> Client:
        if self._client is None:
            self._client = connect(self._settings.dsn)
        return self._client

    def _discard_client(self) -> None:
        """After an error the next call has a new client: chDB may put what is left of a failed answer before the next one."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()

    def _attempt(self, what: Callable[[], T]) -> T:
        """Asks the store until it answers, refuses for good, or a stop has run out of time."""
        result = self._repeat(what)
        self.progress.store_up = True
        return result

    def _write(self, what: Callable[[], None]) -> None:
        """Writes to the spool, again and again while the disk refuses: a full one may be emptied."""
        self._repeat(what)

    def _repeat(self, what: Callable[[], T]) -> T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_not_exception_type((_Permanent, MigrationError, Stopping)),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=self._settings.store_retry_max_s),
            sleep=tenacity.sleep_using_event(self._give_up),
            stop=tenacity.stop_when_event_set(self._give_up),
            before_sleep=self._failed,
        )
        try:
            return retrying(what)
        except tenacity.RetryError as error:
            raise _GaveUp from error

    def _failed(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, SpoolFailed):
            logger.error("trying again: %s", _brief(error))
            return
        self._discard_client()
        # A first failure is news; the ones after it say the same.
        log = logger.warning if self.progress.store_up or state.attempt_number == 1 else logger.debug
        log(
            "the store did not answer as it should, trying again (%d bytes wait in the spool): %s",
            self._spool.bytes_waiting,
            _brief(error),
        )
        self.progress.store_up = False
        self.progress.failures += 1


class _Permanent(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _GaveUp(Exception):
    pass


def _brief(error: BaseException | None) -> str:
    """An error in one line of the log: what it is about is at its beginning, its cause at its end, a URL in between."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"


def _take_batch(spool: Spool, bytes_max: int) -> list[Waiting]:
    """The oldest request and those of its signal that came next, up to the limit; at least one."""
    waiting = spool.waiting
    chosen: list[Waiting] = []
    size = 0
    for one in waiting:
        if one.signal is not waiting[0].signal:
            continue
        if chosen and size + one.bytes > bytes_max:
            break
        chosen.append(one)
        size += one.bytes
    taken = {one.id for one in chosen}
    remaining = [one for one in waiting if one.id not in taken]
    waiting.clear()
    waiting.extend(remaining)
    return chosen
