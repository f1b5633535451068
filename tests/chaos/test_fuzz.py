"""Mutated requests over every door, at a real aggregator: it lives, does not grow, and its sums agree after each thousand."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
from support.accounting import Accounting, accounting, settle
from support.chaos import new_seed
from support.figures import record
from support.otlp_clients import GrpcClient
from support.otlp_fuzz import Fuzz, Mangled
from support.processes import AggregatorProcess

# Requests in the long run; `make fuzz` asks for 1,000,000.
REQUESTS = int(os.environ.get("OTEL_CREDITS_TEST_FUZZ", "20000"))
ROUND = 1_000
SENDERS = 8
# So many aggregators at once, as one alone leaves a core idle: it either receives, or isolates what the store refuses.
AT_ONCE = int(os.environ.get("OTEL_CREDITS_TEST_FUZZ_AT_ONCE", "2"))
# One aggregator gets so many; the next ones go to a new one, drawn from a seed of their own.
REQUESTS_A_PROCESS = min(50_000, max(ROUND, REQUESTS // AT_ONCE // ROUND * ROUND))
# The process may not grow after the first rounds, in which caches fill. How much an insert takes for a moment is up to the
# engine and the machine, so the least of the last rounds is looked at: a leak lifts that, too.
WARM_UP_ROUNDS, LAST_ROUNDS, GROWTH_BYTES_MAX = 5, 5, 200 << 20
MEMORY_BYTES_MAX = 2 << 30
# No pause between attempts: what the store refuses is halved until it is alone, hundreds of times a round.
SETTINGS = {"OTEL_CREDITS_STORE_RETRY_MAX_S": "0.001", "OTEL_CREDITS_INSERT_INTERVAL_S": "0.1"}


class Sender:
    """Sends over all doors, and counts the answers."""

    def __init__(self, aggregator: AggregatorProcess) -> None:
        self._grpc = GrpcClient(aggregator.grpc_port, is_patient=True)
        self._http = httpx.Client(
            base_url=aggregator.http_endpoint, timeout=200, transport=httpx.HTTPTransport(retries=5)
        )

    def close(self) -> None:
        """Closes its connections."""
        self._grpc.close()
        self._http.close()

    def send(self, request: Mangled) -> str:
        """The answer: accepted, or the code of the refusal. Raises AssertionError for an answer that blames the server."""
        return self._call(request) if request.over_grpc else self._post(request)

    def _call(self, request: Mangled) -> str:
        try:
            self._grpc.export(request.body, request.signal.value, timeout_s=200)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
            assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED), (code, request)
            return code.name
        return "accepted"

    def _post(self, request: Mangled) -> str:
        headers = {"content-type": request.content_type, "content-encoding": request.encoding or "identity"}
        response = self._http.post(f"/v1/{request.signal}", content=request.body, headers=headers)
        assert response.status_code in (200, 400, 413, 415), (response.status_code, response.text, request)
        return "accepted" if response.is_success else str(response.status_code)


def memory_bytes(aggregator: AggregatorProcess) -> int:
    """Resident memory of the process."""
    return int(Path(f"/proc/{aggregator.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def received(aggregator: AggregatorProcess) -> tuple[Accounting, ...]:
    """What became of everything, all three signals, once nothing waits."""
    settle(aggregator, timeout_s=300)
    metrics = aggregator.metrics()
    return tuple(accounting(metrics, what) for what in ("spans", "data_points", "log_records"))


def fuzz(folder: Path, requests: int, seed: str) -> None:
    answers: Counter[str] = Counter()
    memory: list[int] = []
    began = time.monotonic()
    maker = Fuzz(seed)
    with AggregatorProcess(folder, SETTINGS) as aggregator, ThreadPoolExecutor(SENDERS) as pool:
        sender, pid = Sender(aggregator), aggregator.pid
        for number in range(ROUND, requests + 1, ROUND):
            mangled = [maker.request() for _ in range(ROUND)]
            told = list(pool.map(sender.send, mangled))
            answers.update(told)
            for sums in received(aggregator):
                assert sums.is_balanced, sums
            memory.append(memory_bytes(aggregator))
            progress = f"{number:,} of {requests:,} requests, {memory[-1] >> 20} MiB, {time.monotonic() - began:.0f} s"
            print(f"fuzz {seed}: {progress}, {dict(answers)}", file=sys.stderr, flush=True)
            assert aggregator.is_running
            assert aggregator.pid == pid
        sender.close()
        assert aggregator.request("GET", "/api/v1/reconcile") == []
        assert max(memory) < MEMORY_BYTES_MAX
        if len(memory) >= WARM_UP_ROUNDS + LAST_ROUNDS:
            assert min(memory[-LAST_ROUNDS:]) <= max(memory[:WARM_UP_ROUNDS]) + GROWTH_BYTES_MAX
        assert aggregator.terminate() == 0
    record(
        "fuzz",
        seed=seed,
        requests=requests,
        accepted=answers["accepted"],
        crashes=0,
        memory_mib=[memory[0] >> 20, memory[-1] >> 20],
    )


@pytest.mark.timeout(600)
def test_a_thousand_mutated_requests(tmp_path: Path) -> None:
    """1,000 requests that no sender sends neither end the aggregator nor upset its sums."""
    fuzz(tmp_path, ROUND, new_seed())


@pytest.mark.long
@pytest.mark.timeout(max(1_800, REQUESTS))
def test_many_mutated_requests(tmp_path: Path) -> None:
    """The same with 20,000 (or as many as OTEL_CREDITS_TEST_FUZZ says), and no process grows."""
    seed = new_seed()

    def part(number: int) -> None:
        requests = min(REQUESTS_A_PROCESS, REQUESTS - number * REQUESTS_A_PROCESS)
        fuzz(tmp_path / str(number), requests, f"{seed}/{number}")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(part, range(-(-REQUESTS // REQUESTS_A_PROCESS))))
