"""The durable queue: what it promises to the receivers and to the inserter, in one process and across restarts."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.outcomes import SpoolFull, Stopping
from otel_credits_aggregator.spool import Batch, Spool
from support.processes import wait_until

BYTES_MAX = 10_000
RETRY_DELAY_S = 7.0


def opened(folder: Path, bytes_max: int = BYTES_MAX) -> Spool:
    return Spool(folder / "spool.sqlite", bytes_max, RETRY_DELAY_S)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An empty spool."""
    with opened(tmp_path) as new:
        yield new


def append(spool: Spool, payload: bytes = b"payload", signal: Signal = Signal.TRACES, items: int = 1) -> int:
    return spool.append(signal, payload, items).result()


def batch_of(first_id: int, last_id: int, signal: Signal = Signal.TRACES) -> Batch:
    return Batch(str(uuid.uuid4()), signal, first_id, last_id, b"fields")


def payloads(spool: Spool, batch: Batch) -> list[bytes]:
    return [payload for payload, *_ in spool.payloads(batch)]


def test_a_request_waits_until_it_is_forgotten(spool: Spool) -> None:
    """What was appended waits, with its size and signal, and is gone with the batch that took it."""
    number = append(spool, b"12345")
    assert [(one.id, one.signal, one.bytes) for one in spool.waiting] == [(number, Signal.TRACES, 5)]
    assert spool.bytes_waiting == 5
    assert not spool.is_empty()
    batch = batch_of(number, number)
    spool.compose(batch)
    assert payloads(spool, batch) == [b"12345"]
    spool.forget(batch)
    assert spool.is_empty()
    assert spool.bytes_waiting == 0
    assert spool.batches() == []


def test_a_batch_takes_only_its_own_signal(spool: Spool) -> None:
    """Requests of other signals between the first and the last of a batch are neither inserted nor forgotten."""
    first = append(spool, b"span 1")
    between = append(spool, b"point", Signal.METRICS)
    last = append(spool, b"span 2", items=3)
    batch = batch_of(first, last)
    spool.compose(batch)
    assert payloads(spool, batch) == [b"span 1", b"span 2"]
    assert spool.request_ids(batch) == [(first, 1), (last, 3)]
    spool.forget(batch)
    assert payloads(spool, batch_of(between, between, Signal.METRICS)) == [b"point"]
    assert spool.bytes_waiting == len(b"point")


def test_a_split_batch_becomes_its_parts(spool: Spool) -> None:
    """Splitting replaces a batch by its parts, which hold the same requests."""
    numbers = [append(spool, bytes([number])) for number in range(4)]
    whole = batch_of(numbers[0], numbers[3])
    spool.compose(whole)
    parts = [batch_of(numbers[0], numbers[1]), batch_of(numbers[2], numbers[3])]
    spool.split(whole, parts)
    assert spool.batches() == parts
    assert [payloads(spool, part) for part in parts] == [[b"\0", b"\1"], [b"\2", b"\3"]]
    spool.forget(parts[0])
    assert spool.batches() == parts[1:]
    assert spool.bytes_waiting == 2


def test_a_full_spool_takes_nothing_until_something_is_forgotten(spool: Spool) -> None:
    """At its limit the spool refuses, says for how long, and takes requests again when the store has some."""
    number = append(spool, bytes(BYTES_MAX - 10))
    with pytest.raises(SpoolFull, match="OTEL_CREDITS_SPOOL_BYTES_MAX") as refused:
        append(spool, bytes(11))
    assert refused.value.retry_delay_s == RETRY_DELAY_S
    append(spool, bytes(10))
    spool.forget(batch_of(number, number))
    append(spool, bytes(BYTES_MAX - 10))
    assert spool.bytes_waiting == BYTES_MAX


def test_a_reopened_spool_goes_on_where_it_was(tmp_path: Path) -> None:
    """After a restart the same requests wait, unfinished batches are there with the same bytes, and counts go on."""
    with opened(tmp_path) as spool:
        taken, waiting = append(spool, b"taken", items=2), append(spool, b"waiting", items=3)
        batch = batch_of(taken, taken)
        spool.compose(batch)
        before, receiver = spool.payloads(batch), spool.receiver
        spool.count(Signal.LOGS, 5)
    with opened(tmp_path) as spool:
        assert spool.batches() == [batch]
        assert spool.payloads(batch) == before
        assert [one.id for one in spool.waiting] == [waiting]
        assert spool.bytes_waiting == len(b"taken" + b"waiting")
        assert spool.receiver == receiver
        assert spool.received() == {Signal.TRACES: 5, Signal.LOGS: 5}


def test_an_id_is_never_used_again(tmp_path: Path) -> None:
    """A new request never gets the id of a forgotten one, or an old batch would take it for its own."""
    with opened(tmp_path) as spool:
        number = append(spool)
        spool.forget(batch_of(number, number))
    with opened(tmp_path) as spool:
        assert append(spool) > number


def test_each_spool_is_a_receiver_of_its_own(tmp_path: Path) -> None:
    """Two spools never share the id under which their items are accounted for."""
    (tmp_path / "other").mkdir()
    with opened(tmp_path) as one, opened(tmp_path / "other") as other:
        assert one.receiver != other.receiver


def test_a_spool_belongs_to_one_process(tmp_path: Path, spool: Spool) -> None:
    """A second opener is refused: two inserters of the same requests could both charge them."""
    with pytest.raises(BlockingIOError, match="another otel-credits"):
        opened(tmp_path)


def test_requests_that_come_together_share_a_commit(spool: Spool) -> None:
    """While one commit is under way, what arrives waits and is then committed together."""
    commits: list[str] = []
    spool._writer_connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    with ThreadPoolExecutor(16) as senders:
        numbers = list(senders.map(lambda _: append(spool), range(400)))
    assert sorted(numbers) == list(range(min(numbers), min(numbers) + 400))
    assert [one.id for one in spool.waiting] == sorted(numbers)
    assert len(commits) < 400


def test_who_waits_may_go_away_but_not_stop_the_writer(spool: Spool) -> None:
    """A sender that gives up while its request is written takes neither the request nor the writer with it."""
    abandoned: list[Future[int]] = [spool.append(Signal.TRACES, b"x", 1) for _ in range(50)]
    assert not any(future.cancel() for future in abandoned)
    assert append(spool, b"later") == abandoned[-1].result() + 1
    assert len(spool.waiting) == 51


def test_a_closed_spool_answers_everybody(tmp_path: Path) -> None:
    """Whoever appends while the spool is closed gets an id that is durable, or is told to try again; nobody hangs."""
    spool = opened(tmp_path, bytes_max=1 << 20)
    durable: list[int] = []
    refused = threading.Event()

    def send() -> None:
        while not refused.is_set():
            try:
                durable.append(append(spool))
            except Stopping:
                refused.set()

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    wait_until(lambda: len(durable) >= 20, 10, "some requests are durable")
    spool.close()
    for sender in senders:
        sender.join(10)
        assert not sender.is_alive()
    with opened(tmp_path, bytes_max=1 << 20) as reopened:
        assert {one.id for one in reopened.waiting} == set(durable)
