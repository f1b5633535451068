"""Resident memory of the aggregator while spans come in as fast as it takes them."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks._process import memory_bytes
from benchmarks._report import Figure, Report, Target, median
from benchmarks._sender import Sender
from benchmarks._server import Server

__all__ = ["run"]

_TARGET = Target(1.2)
_REQUEST_SPANS = 8192
_SENDERS = 16
_SAMPLE_INTERVAL_S = 0.25
_SETTLE_TIMEOUT_S = 600.0
_GB = 1e9


def run(quick: bool) -> Report:
    """Full rate for a while, and what the system says the process took."""
    duration_s = 1.0 if quick else 75.0
    with TemporaryDirectory(prefix="otel-credits-bench-") as folder, Server(Path(folder)) as server:
        started = memory_bytes(server.pid)["VmRSS"]
        with Sender(_REQUEST_SPANS, 1, _SENDERS, duration_s=duration_s) as sender:
            began = sender.go(server.grpc_port)
            samples = _samples(server, duration_s)
            rate = server.events() / (time.monotonic() - began)
            spooled = server.metric("otel_credits_spool_bytes")
            sent = sender.sent()
        server.wait_committed(sent.totals.spans, _SETTLE_TIMEOUT_S)
        server.check(sent.totals)
        peak = memory_bytes(server.pid)["VmHWM"]
    steady = [sample["VmRSS"] for sample in samples[len(samples) // 2 :]]
    own = [sample["RssAnon"] for sample in samples[len(samples) // 2 :]]
    return Report(
        "Memory at full rate",
        [
            Figure("**peak resident (VmHWM)**", peak / _GB, "GB", "", _TARGET),
            Figure("resident, median of the second half", median(steady) / _GB, "GB"),
            Figure("of that not backed by files (RssAnon)", median(own) / _GB, "GB"),
            Figure("resident when started", started / _GB, "GB"),
            Figure("committed, sustained", rate, "events/s", f"over {duration_s:g} s"),
            Figure(
                "waiting in the spool at the end",
                spooled / _GB,
                "GB",
                f"{sent.refused} requests were told to come later",
            ),
        ],
    )


def _samples(server: Server, duration_s: float) -> list[dict[str, int]]:
    samples: list[dict[str, int]] = []
    until = time.monotonic() + duration_s
    while time.monotonic() < until:
        samples.append(memory_bytes(server.pid))
        time.sleep(_SAMPLE_INTERVAL_S)
    return samples
