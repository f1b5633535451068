"""Ingest: OTLP/gRPC to committed events, beside rotel receiving the same requests and discarding them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks._process import cpu_seconds, wait_quiet
from benchmarks._report import Figure, Report, Target, median, spread
from benchmarks._rotel import Rotel, rotel_version
from benchmarks._sender import Sender
from benchmarks._server import Server
from benchmarks._spans import Totals

__all__ = ["run"]

_TARGET = Target(0.5, at_least=True, goal=1.0)
_REQUEST_SPANS = (512, 8192)
# What rotel receives most with; the aggregator has as many threads.
_SENDERS = 16
_COMMIT_TIMEOUT_S = 300.0
_QUIET_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class _Size:
    spans: int
    repetitions: int


@dataclass(frozen=True)
class _Pair:
    """The same requests at both receivers: spans a second, and processor time a span."""

    committed: float
    acknowledged: float
    rotel: float
    cpu_us: float
    rotel_cpu_us: float

    def __str__(self) -> str:
        rates = f"committed {self.committed:,.0f}/s, acknowledged {self.acknowledged:,.0f}/s, rotel {self.rotel:,.0f}/s"
        return f"{rates}; processor {self.cpu_us:.1f} and {self.rotel_cpu_us:.1f} µs a span"


def run(quick: bool) -> Report:
    """Measures both request sizes."""
    size = _Size(8192, 1) if quick else _Size(524_288, 5)
    figures: list[Figure] = []
    for spans in _REQUEST_SPANS:
        with TemporaryDirectory(prefix="otel-credits-bench-") as folder:
            figures += _figures(spans, _pairs(Path(folder), spans, size))
    return Report(
        "Ingest",
        figures,
        [
            f"Each run: {size.spans:,} spans from {_SENDERS} concurrent senders; rotel {rotel_version()}. "
            "Events, tokens, credits and balances were compared with what was sent after each run: exact.",
        ],
    )


def _pairs(folder: Path, spans: int, size: _Size) -> list[_Pair]:
    pairs: list[_Pair] = []
    so_far = Totals(0, 0, 0)
    with Server(folder / "aggregator") as server, Rotel(folder) as rotel:
        # One run that does not count: connections, caches, and the first parts of the tables.
        for seed in range(size.repetitions + 1):
            with Sender(spans, seed, _SENDERS, requests=size.spans // spans) as sender:
                pair, so_far = _pair(server, rotel, sender, so_far)
            print(f"  {spans} spans a request: {pair}", flush=True)
            pairs.append(pair)
    return pairs[1:]


def _pair(server: Server, rotel: Rotel, sender: Sender, so_far: Totals) -> tuple[_Pair, Totals]:
    cpu = cpu_seconds(server.pid)
    began = sender.go(server.grpc_port)
    ours = sender.sent()
    so_far += ours.totals
    committed_at = server.wait_committed(so_far.spans, _COMMIT_TIMEOUT_S)
    cpu = cpu_seconds(server.pid) - cpu
    server.check(so_far)
    # Else the merges that follow an ingest would slow rotel down.
    wait_quiet([server.pid], _QUIET_TIMEOUT_S)
    rotel_cpu = cpu_seconds(rotel.pid)
    sender.go(rotel.grpc_port)
    theirs = sender.sent()
    rotel_cpu = cpu_seconds(rotel.pid) - rotel_cpu
    spans = ours.totals.spans
    committed = spans / (committed_at - began)
    return _Pair(committed, ours.spans_per_s, theirs.spans_per_s, cpu / spans * 1e6, rotel_cpu / spans * 1e6), so_far


def _figures(spans: int, pairs: Sequence[_Pair]) -> list[Figure]:
    def figure(name: str, values: list[float], unit: str, digits: int = 0, target: Target | None = None) -> Figure:
        return Figure(f"{spans:,} spans a request: {name}", median(values), unit, spread(values, digits), target)

    ratios = [pair.committed / pair.rotel for pair in pairs]
    return [
        figure("otel-credits, committed", [pair.committed for pair in pairs], "events/s"),
        figure("otel-credits, acknowledged (durable in the spool)", [pair.acknowledged for pair in pairs], "spans/s"),
        figure("rotel, received and discarded", [pair.rotel for pair in pairs], "spans/s"),
        figure("otel-credits, processor time", [pair.cpu_us for pair in pairs], "µs/event", 1),
        figure("rotel, processor time", [pair.rotel_cpu_us for pair in pairs], "µs/span", 1),
        figure("**committed events per span that rotel receives**", ratios, "", 2, _TARGET),
    ]
