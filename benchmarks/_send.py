"""The program that sends: OTLP/gRPC from several threads, in a process of its own. `_sender.py` starts and drives it.

It prints a line when it is ready. For each line with a port that it reads, it sends to that port and prints what it did
as JSON. It sends bytes that are serialised already, so that its share of the processor is small and the same whoever
receives. A request that is refused as to be tried again is tried again after a pause, as an exporter does.
"""

import argparse
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import grpc

from benchmarks._spans import POOL_SPANS, Load

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_TIMEOUT_S = 120.0
_RETRY_PAUSE_S = 1.0
_RETRYABLE = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
# Prepared requests get the times they would have if they came at this rate, so that a second has about as many usages
# as it would have.
_SPANS_PER_S = 200_000

Request = Callable[[int], bytes]


class Sender:
    """Sends requests one after the other from each thread, until there are none or the time is over."""

    def __init__(self, port: int, request: Request) -> None:
        self._port = port
        self._request = request
        self._numbers = itertools.count()
        self._sent: list[int] = []
        self._refused = 0
        self._lock = threading.Lock()

    def run(self, threads: int, requests: int | None, duration_s: float) -> dict[str, float]:
        """Sends and says how it went. Either limit may end it."""
        began, cpu = time.monotonic(), time.process_time()
        until = began + duration_s
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _: self._send(requests, until), range(threads)))
        return {
            "began": began,
            "ended": time.monotonic(),
            "cpu_s": time.process_time() - cpu,
            "requests": len(self._sent),
            "refused": self._refused,
        }

    def _send(self, requests: int | None, until: float) -> None:
        # A connection for each thread: that is what several exporters are.
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options=options) as channel:
            export = channel.unary_unary(_METHOD)
            while time.monotonic() < until:
                with self._lock:
                    number = next(self._numbers)
                if requests is not None and number >= requests:
                    return
                self._deliver(export, self._request(number))
                self._sent.append(number)

    def _deliver(self, export: Callable[..., bytes], payload: bytes) -> None:
        while True:
            try:
                export(payload, timeout=_TIMEOUT_S)
                return
            except grpc.RpcError as error:
                if error.code() not in _RETRYABLE:
                    raise
            with self._lock:
                self._refused += 1
            time.sleep(_RETRY_PAUSE_S)


def _prepared(load: Load, requests: int, spans: int) -> Request:
    now_ns = time.time_ns()
    ready = [
        load.request(number, now_ns + number * spans * 1_000_000_000 // _SPANS_PER_S) for number in range(requests)
    ]
    return ready.__getitem__


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spans", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--senders", type=int, required=True)
    parser.add_argument("--requests", type=int, help="so many, prepared before the start; else made while sending")
    parser.add_argument("--duration-s", type=float, default=3600.0)
    return parser.parse_args()


def main() -> None:
    """One run for each line of stdin."""
    options = _arguments()
    wanted = options.requests * options.spans if options.requests else POOL_SPANS
    load = Load(options.spans, options.seed, min(wanted, POOL_SPANS))
    request: Request = lambda number: load.request(number, time.time_ns())  # noqa: E731
    if options.requests is not None:
        request = _prepared(load, options.requests, options.spans)
    print("ready", flush=True)
    for line in sys.stdin:
        report = Sender(int(line), request).run(options.senders, options.requests, options.duration_s)
        totals = load.totals(int(report["requests"]))
        print(json.dumps(report | {"totals": asdict(totals)}), flush=True)


if __name__ == "__main__":
    main()
