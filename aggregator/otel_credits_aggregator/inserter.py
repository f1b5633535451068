"""Moves what waits in the spool into the store, in batches: one after the other, or side by side where that is proven to be safe.

One thread chooses what comes next. The check against duplicates must see what the batches before have stored, so a batch begins
beside another only if they cannot hold copies of one usage (:mod:`independence`); everything else runs alone. While the store is
away everything waits in the spool.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from otel_credits_aggregator.allocator import unmap_code
from otel_credits_aggregator.envelope import settings_fields
from otel_credits_aggregator.fault_points import passing
from otel_credits_aggregator.independence import apart, may_be_side_by_side
from otel_credits_aggregator.lane import GaveUp, Lane, Progress
from otel_credits_aggregator.migrations import MigrationError, migrate
from otel_credits_aggregator.outcomes import Stopping
from otel_credits_aggregator.recent import Recent
from otel_credits_aggregator.replay import (
    ESTIMATED,
    REPLAY_ROWS_MAX,
    PriceWatch,
    Selection,
    Treatment,
    quarantined_ids,
    replay_batch,
)
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Batch, Spool
from otel_credits_aggregator.store import Client, is_embedded
from otel_credits_aggregator.voids import (
    VOIDS_MAX,
    charges_of,
    double_batch,
    doubles_of_the_gone,
    doubles_to_take_back,
    void_batch,
)
from otel_credits_aggregator.waiting import NextBatch

__all__ = ["Inserter", "Progress"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

# After the time to insert is over, how long the attempt under way may still take before the process leaves it.
_GIVE_UP_S = 2.0
_NOTED_LATELY_S = 3_600


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
        self._bytes_max = settings.insert_bytes_max
        self._fields = settings_fields(settings, spool.receiver)
        self._prices = PriceWatch()
        self._recent = Recent.of(settings)
        self._next_recheck = 0.0
        self._next_look_for_the_gone = 0.0
        self._next_look_at_all_notes = 0.0
        self._jobs: list[_Job] = []
        self._stopping = False
        self._ended = False
        self._give_up = threading.Event()
        self._alone = self._new_lane()
        # What each lane has under way, and what identities that can bring.
        self._free = [self._new_lane() for _ in range(settings.insert_lanes)] if may_be_side_by_side(settings) else []
        self._under_way: dict[Lane, frozenset[int] | None] = {}
        self._held_up = False
        self._failure: BaseException | None = None
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
        if self._recent is not None:
            self._recent.close()
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
        return self._enqueue(lambda: self._alone.once(work))

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
            self._alone.attempt(self._migrate)
            for batch in self._spool.batches():
                self._alone.finish(batch)
            self.progress.replayed = True
            while not self._give_up.is_set():
                if not self._step():
                    break
            self._wait_for_lanes()
        except (GaveUp, Stopping):
            logger.warning(
                "stopped with %d bytes in the spool; they are inserted at the next start", self._spool.bytes_waiting
            )
        except MigrationError as error:
            logger.critical("%s", error)
        except Exception:
            logger.critical("the inserter failed; what is acknowledged stays in the spool", exc_info=True)
        finally:
            self._refuse_jobs()
            self._see_lanes_out()

    def _step(self) -> bool:
        """One batch, the jobs, a recheck; False when stopping and nothing waits."""
        chosen = self._next_batch()
        if chosen.requests:
            self._begin(chosen)
        for job in self._jobs_when_alone():
            self._answer(job)
        if time.monotonic() >= self._next_recheck:
            self._recheck()
        return bool(chosen.requests) or not self._stopping

    def _migrate(self) -> None:
        applied = migrate(self._alone.connected())
        self.progress.migrated = True
        for migration in applied:
            logger.info("applied migration %04d_%s", migration.version, migration.name)
        if is_embedded(self._settings.dsn):
            unmap_code()

    def _next_batch(self) -> NextBatch:
        """Waits until a batch is worth inserting and may be, or something else is to be done; takes it out of the queue."""
        with self._spool.arrived:
            while True:
                self._raise_failure()
                if self._due() and self._may_begin(batch := self._spool.waiting.next_batch(self._bytes_max)):
                    self._spool.waiting.take(batch)
                    return batch
                if self._recheck_is_due():
                    return NextBatch()
                self._spool.arrived.wait(self._pause())

    def _due(self) -> bool:
        """Whether a batch should begin. Beside another only a full one does: an insert takes about as long however small."""
        waiting = self._spool.waiting
        if waiting.bytes >= self._bytes_max:
            return not self._under_way or (bool(self._free) and not self._held_up and self.progress.store_up)
        if self._under_way:
            return False
        age = time.monotonic() - waiting.oldest_since
        return self._stopping or bool(self._jobs) or self._recheck_is_due() or age >= self._settings.insert_interval_s

    def _recheck_is_due(self) -> bool:
        return not self._stopping and time.monotonic() >= self._next_recheck

    def _pause(self) -> float | None:
        """Seconds until something may be due without anything that is notified: an arrival, a job, a lane's end."""
        if self._stopping:
            return None
        until = self._next_recheck
        if not self._under_way:
            until = min(until, self._spool.waiting.oldest_since + self._settings.insert_interval_s)
        return max(until - time.monotonic(), 0.001)

    def _may_begin(self, batch: NextBatch) -> bool:
        """Whether this batch is proven to hold no copies of what is under way; else it waits until a lane ends."""
        self._held_up = not all(apart(batch.identities, others) for others in self._under_way.values())
        return not self._held_up

    def _begin(self, chosen: NextBatch) -> None:
        """Inserts a batch, in a lane of its own if others may begin beside it."""
        requests = chosen.requests
        batch = Batch(str(uuid.uuid4()), requests[0].signal, requests[0].id, requests[-1].id, self._fields)
        if not may_be_side_by_side(self._settings):
            self._alone.begin(batch)
            return
        identities = chosen.identities
        with self._spool.arrived:
            lane = self._free.pop()
            beside = bool(self._under_way)
            self._under_way[lane] = identities
        if beside:
            passing("batch_beside")
        threading.Thread(target=self._begin_in, args=(lane, batch), name="inserter-lane", daemon=True).start()

    def _begin_in(self, lane: Lane, batch: Batch) -> None:
        failure: BaseException | None = None
        try:
            lane.begin(batch)
        except BaseException as error:
            failure = error
        with self._spool.arrived:
            self._failure = self._failure or failure
            del self._under_way[lane]
            self._free.append(lane)
            self._held_up = False
            self._spool.arrived.notify_all()

    def _wait_for_lanes(self) -> None:
        """Waits until nothing is under way any more."""
        with self._spool.arrived:
            self._spool.arrived.wait_for(lambda: not self._under_way)
            self._raise_failure()

    def _see_lanes_out(self) -> None:
        """What else is under way when a stop has run out of time gives up, too, before the spool is closed."""
        with self._spool.arrived:
            self._spool.arrived.wait_for(lambda: not (self._under_way and self._give_up.is_set()))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _jobs_when_alone(self) -> list[_Job]:
        with self._spool.arrived:
            if self._jobs:
                self._wait_for_lanes()
            return self._take_jobs()

    def _take_jobs(self) -> list[_Job]:
        with self._spool.arrived:
            taken, self._jobs = self._jobs, []
        return taken

    def _answer(self, job: _Job) -> None:
        try:
            job.done.set_result(job.run())
        except (GaveUp, Stopping) as error:
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

    def _recheck(self) -> None:
        """Charges what was unpriced, if the price book changed."""
        if not self._stopping and self._alone.attempt(lambda: self._prices.changed(self._alone.connected())):
            self._wait_for_lanes()
            self._treat_all(Selection(reasons=("unpriced",)), Treatment())
        if not self._stopping:
            self._take_back_doubles()
        # Only where others may insert into the same store.
        if (
            not self._stopping
            and not is_embedded(self._settings.dsn)
            and time.monotonic() >= self._next_look_for_the_gone
        ):
            self._take_back_for_the_gone()
        if self._recent is not None:
            self._recent.prune()
        self._next_recheck = time.monotonic() + self._settings.recheck_interval_s

    def _void(self, event_id: str, treatment: Treatment) -> bool:
        charges = self._alone.attempt(lambda: charges_of(self._alone.connected(), [event_id]))
        # Of two charges the other one is a double, which is taken back anyhow.
        if not charges or charges[0].is_void:
            return False
        self._alone.begin(void_batch(charges[:1], treatment))
        return True

    def _take_back_doubles(self) -> None:
        alone, receiver, spool = self._alone, self._spool.receiver, self._spool
        # What is noted is taken back within seconds. All notes are looked at after a start, and now and then.
        looks_at_all = time.monotonic() >= self._next_look_at_all_notes
        within = {} if looks_at_all else {"noted_within_s": _NOTED_LATELY_S}
        doubles = alone.attempt(lambda: doubles_to_take_back(alone.connected(), receiver, spool.batches(), **within))
        if doubles:
            # A batch that has begun meanwhile is not among the unfinished ones above.
            self._wait_for_lanes()
        for start in range(0, len(doubles), VOIDS_MAX):
            alone.begin(double_batch(doubles[start : start + VOIDS_MAX], receiver))
        if looks_at_all:
            self._next_look_at_all_notes = time.monotonic() + _NOTED_LATELY_S / 4

    def _take_back_for_the_gone(self) -> None:
        """What other aggregators have left for so long that they must be gone; one charge a batch, whoever else does the same."""
        alone, bound_s = self._alone, self._settings.orphaned_after_s
        gone = alone.attempt(lambda: doubles_of_the_gone(alone.connected(), self._spool.receiver, bound_s))
        for receiver, doubles in gone.items():
            logger.warning("taking back %d double charges of aggregator %s, which is gone", len(doubles), receiver)
            self._wait_for_lanes()
            for double in doubles:
                alone.begin(double_batch([double], receiver))
        self._next_look_for_the_gone = time.monotonic() + bound_s / 4

    def _treat_all(self, selection: Selection, treatment: Treatment) -> int:
        """Every row that matches now, once; what is quarantined again by it is not tried a second time."""
        alone, receiver = self._alone, self._spool.receiver
        treatment = replace(treatment, estimated=self._on_estimates(selection))
        ids = alone.attempt(lambda: quarantined_ids(alone.connected(), receiver, selection, treatment))
        for start in range(0, len(ids), REPLAY_ROWS_MAX):
            alone.begin(replay_batch(ids[start : start + REPLAY_ROWS_MAX], treatment))
        return len(ids)

    def _on_estimates(self, selection: Selection) -> str:
        """What becomes of estimates among what is selected: who names them decides to charge them, and nothing drops them."""
        named = ESTIMATED in selection.reasons or selection.event_ids
        return "charge" if named or self._settings.estimated == "charge" else "quarantine"

    def _new_lane(self) -> Lane:
        return Lane(self._spool, self._settings, self.progress, self._give_up, self._recent)
