"""A FastAPI request and a Celery task with otel-credits beside the same ones with the official instrumentation alone."""

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import otel_credits
from otel_credits_aggregator.demo.processes import accepts_connections, clean_environment, free_port, wait_until

from benchmarks._report import Figure, Report, Target, median, percentile, spread
from benchmarks._rotel import Rotel
from benchmarks._sender import REPOSITORY
from benchmarks.tracking import Discard, track

__all__ = ["run"]

_TARGET = Target(1.05)
_EXAMPLES = REPOSITORY / "examples"
_STARTED_TIMEOUT_S = 60.0
_USAGES = 2000
# The microseconds of so many requests or tasks.
Side = Callable[[int], list[float]]
Started = Callable[[str], AbstractContextManager[Side]]


class _Size(NamedTuple):
    starts: int
    rounds: int
    each: int


class _Round(NamedTuple):
    """The microseconds of each request or task."""

    plain: list[float]
    credits: list[float]
    plain_again: list[float]


def run(quick: bool) -> Report:
    """Rounds of the sides, one after the other, for requests and for tasks; then the memory of waiting usage."""
    size = _Size(1, 2, 20) if quick else _Size(6, 8, 300)
    figures: list[Figure] = []
    sides = {"request that asks a model": _asking, "empty request": _fastapi, "empty task": _celery}
    for what, started in sides.items():
        figures += _figures(what, _measured(started, size))
    with tempfile.TemporaryDirectory() as folder, Rotel(Path(folder)) as rotel:
        endpoint = f"@http://127.0.0.1:{rotel.grpc_port}"
        for what, started in sides.items():
            figures += _figures(f"{what}, spans exported", _measured(started, size, endpoint))
    return Report(
        "Overhead",
        [*figures, Figure("memory of a usage that waits", _bytes_of_a_usage(), "bytes")],
        [
            f"{size.starts} starts of each side, and {size.rounds} rounds of {size.each} requests or tasks in turn after each."
            " The official side runs twice: what the second says beside the first is how far apart two processes of the same"
            " program are; ours is compared with their mean. Each request or task makes one LLM span; with otel-credits that is a"
            " usage of the request's user, which its exporter gets beside the app's own. One that asks a model does so with the"
            " Anthropic SDK, and a server on this machine answers at once (a model takes seconds). An empty one does no more."
            " Spans are discarded, or where it says so exported to rotel over OTLP/gRPC: the app's own by the official exporter,"
            " the usages by ours beside it; if rotel does not take a batch of the app's own spans, the benchmark fails."
        ],
    )


def _measured(started: Started, size: _Size, endpoint: str = "") -> list[_Round]:
    """Two processes of the same program differ by more than what is looked for, so each side is started several times."""
    measured = []
    for _ in range(size.starts):
        with (
            started(f"plain{endpoint}") as plain,
            started(f"credits{endpoint}") as credits,
            started(f"plain{endpoint}") as again,
        ):
            sides = [plain, credits, again]
            for side in sides:
                side(size.each)  # a round that does not count
            measured += [_round(sides, size.each, number) for number in range(size.rounds)]
    return measured


def _round(sides: list[Side], each: int, number: int) -> _Round:
    """All sides once, each as often first as the others."""
    order = [(number + place) % len(sides) for place in range(len(sides))]
    took = {index: sides[index](each) for index in order}
    return _Round(took[0], took[1], took[2])


def _figures(what: str, measured: list[_Round]) -> Iterator[Figure]:
    for percent in (50, 99):
        plain, credits, again = ([percentile(side, percent) for side in sides] for sides in zip(*measured, strict=True))
        ratios = [2 * ours / (first + second) for first, ours, second in zip(plain, credits, again, strict=True)]
        same = [second / first for second, first in zip(again, plain, strict=True)]
        yield Figure(f"{what}, official alone, p{percent}", median(plain), "µs", spread(plain))
        yield Figure(f"{what}, with otel-credits, p{percent}", median(credits), "µs", spread(credits))
        yield Figure(f"{what}, official alone beside itself, ratio p{percent}", median(same), "", spread(same, 2))
        yield Figure(f"**{what}, ratio p{percent}**", median(ratios), "", spread(ratios, 2), _TARGET)


@contextmanager
def _fastapi(kind: str) -> Iterator[Side]:
    with _requests(kind, "fastapi", free_port()) as requests:
        yield requests


@contextmanager
def _asking(kind: str) -> Iterator[Side]:
    model_port = free_port()
    command = [sys.executable, str(_EXAMPLES / "llm_server.py"), "--port", str(model_port)]
    with subprocess.Popen(command, env=clean_environment(), stdout=subprocess.DEVNULL) as model:
        try:
            wait_until(lambda: accepts_connections(model_port), _STARTED_TIMEOUT_S, "the model listens")
            with _requests(kind, "asking", free_port(), f"http://127.0.0.1:{model_port}") as requests:
                yield requests
        finally:
            model.terminate()


@contextmanager
def _requests(kind: str, app: str, port: int, *arguments: str) -> Iterator[Side]:
    with _side(kind, app, str(port), *arguments):
        wait_until(lambda: accepts_connections(port), _STARTED_TIMEOUT_S, "uvicorn listens")
        client = http.client.HTTPConnection("127.0.0.1", port)

        def requests(count: int) -> list[float]:
            return [_request_us(client, number) for number in range(count)]

        yield requests
        client.close()


def _request_us(client: http.client.HTTPConnection, number: int) -> float:
    began = time.perf_counter()
    client.request("GET", f"/ask/{number}", headers={"x-user-id": f"user-{number}"})
    response = client.getresponse()
    body = response.read()
    took = time.perf_counter() - began
    if json.loads(body) != {"answer": number}:
        raise RuntimeError(f"{response.status} {body!r}")
    return took * 1e6


@contextmanager
def _celery(kind: str) -> Iterator[Side]:
    with _redis() as broker, _side(kind, "work", broker), _side(kind, "send", broker) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def tasks(count: int) -> list[float]:
            stdin.write(f"{count}\n")
            stdin.flush()
            times: list[float] = json.loads(stdout.readline())
            return times

        yield tasks


@contextmanager
def _redis() -> Iterator[str]:
    """A redis-server of this side's own, without persistence."""
    program, port = shutil.which("redis-server"), free_port()
    if program is None:
        raise RuntimeError("redis-server is not installed")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as server,
    ):
        try:
            wait_until(lambda: accepts_connections(port), _STARTED_TIMEOUT_S, "redis-server listens")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


@contextmanager
def _side(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks._overhead_side", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=clean_environment(), text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.terminate()


def _bytes_of_a_usage() -> float:
    """What Python allocates for a usage until it is sent."""
    otel_credits.configure(
        exporter=Discard(), capture_spans=False, export_interval_s=3600, batch_spans_max=10 * _USAGES
    )
    try:
        for _ in range(100):
            track()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(_USAGES):
            track()
        grown = tracemalloc.get_traced_memory()[0] - before
        if otel_credits.stats().waiting != _USAGES + 100:
            raise RuntimeError("the usages were sent while they were measured")
        return grown / _USAGES
    finally:
        tracemalloc.stop()
        otel_credits.shutdown()
