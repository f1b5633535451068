"""What each process says it recorded is compared with what arrived of it, exactly, whatever is sent again."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from otel_credits._queue import Stats
from otel_credits._reports import counters_request
from otel_credits_aggregator.replay import ASSIGN, Selection, Treatment, quarantined_ids, replay_batch, run_replay
from support.chain import Chain
from support.otlp_build import AMOUNT, KEY, USER, attribute_list, span, traces, usage_span

SEQ = "credits.seq"


def numbered(number: int, **attributes: Any) -> Span:
    return usage_span({SEQ: number, **attributes})


def sent_by(process: str, *spans: Span) -> ExportTraceServiceRequest:
    """A request of one process."""
    request = traces(*spans)
    request.resource_spans[0].resource.attributes.extend(attribute_list({"service.instance.id": process}))
    return request


def report(
    process: str, recorded: int, exported: int, failed: dict[str, int], waiting: int, at: int
) -> ExportMetricsServiceRequest:
    """The counters of one process, as the library sends them."""
    stats = Stats(recorded=recorded, exported=exported, failed_by_reason=failed, waiting=waiting)
    resource = Resource({"service.name": "test-service", "service.instance.id": process})
    return counters_request(stats, resource, started_ns=1_000, now_ns=at)


def clients(chain: Chain) -> dict[str, tuple[int, ...]]:
    """(recorded, exported, failed, waiting, received, charged, quarantined, missing) of each process."""
    columns = "recorded, exported, failed, waiting, received, charged, quarantined, missing"
    found = chain.rows(
        f"SELECT service_instance_id AS process, {columns} FROM client_completeness WHERE service_name = 'test-service'"
    )
    return {row.pop("process"): tuple(row.values()) for row in found}


def test_what_did_not_arrive_is_missing(chain: Chain) -> None:
    """A number that never arrived is missing, exactly, while copies, repetitions and what is quarantined are not."""
    one = [numbered(1), numbered(2, **{KEY: "k"}), numbered(3, **{KEY: "k"}), numbered(4, **{AMOUNT: "x"})]
    chain.send(sent_by("a", *one), sent_by("b", numbered(1), numbered(2)))
    chain.send(sent_by("a", *one))
    chain.send(report("a", 7, 5, {"rejected": 1}, 1, 2_000), report("b", 2, 2, {}, 0, 2_000))
    # Recorded are 7: 4 arrived (of which 2 were charged, 1 repeats a key, 1 is quarantined), 1 waits, 2 are missing.
    assert clients(chain) == {"a": (7, 5, 1, 1, 4, 2, 1, 2), "b": (2, 2, 0, 0, 2, 2, 0, 0)}
    chain.send(sent_by("a", numbered(5), numbered(6), numbered(7)))
    chain.send(report("a", 7, 7, {}, 0, 3_000))
    assert clients(chain)["a"] == (7, 7, 1, 0, 7, 5, 1, 0)
    # The counters themselves are data points that are no usage: 4 and 3, then 3 without a failure.
    assert chain.outcomes()["not_usage"] == 10
    chain.assert_sums_agree()


def test_a_process_that_is_gone_can_be_forgotten(chain: Chain) -> None:
    """Deleted from both tables it misses nothing, the others are as they were, and no charge changes."""
    chain.send(sent_by("a", numbered(1)), sent_by("b", numbered(1)))
    chain.send(report("a", 3, 1, {}, 0, 2_000), report("b", 2, 1, {}, 0, 2_000))
    charged = chain.charges()
    for table in ("client_usages", "client_counters"):
        chain.command(f"DELETE FROM {table} WHERE service_instance_id IN ('a')")
    assert clients(chain) == {"b": (2, 1, 0, 0, 1, 1, 0, 1)}
    assert chain.charges() == charged
    chain.assert_sums_agree()


def test_an_old_report_does_not_hide_a_new_one(chain: Chain) -> None:
    """A report that is delivered late or twice changes nothing."""
    late, newest = report("a", 3, 0, {}, 3, 2_000), report("a", 9, 8, {"shutdown": 1}, 0, 3_000)
    for request in (newest, late, newest):
        chain.send(request)
    assert clients(chain) == {"a": (9, 8, 1, 0, 0, 0, 0, 9)}


def test_a_gap_is_missing_without_a_report(chain: Chain) -> None:
    """A process that was killed before it reported what it recorded misses what is absent below its highest number; what it
    recorded after that nobody knows."""
    chain.send(sent_by("a", numbered(1), numbered(2), numbered(6)), sent_by("b", numbered(1)))
    assert clients(chain) == {"a": (6, 0, 0, 0, 3, 3, 0, 3), "b": (1, 0, 0, 0, 1, 1, 0, 0)}
    chain.send(sent_by("a", numbered(4), numbered(6)))
    assert clients(chain)["a"] == (6, 0, 0, 0, 4, 4, 0, 2)


def test_a_report_that_is_older_than_what_arrived(chain: Chain) -> None:
    """What waited when a process reported last does not hide what is missing of what it recorded since."""
    chain.send(report("a", 10, 2, {}, 8, 2_000))
    chain.send(sent_by("a", *map(numbered, [*range(1, 15), 20])))
    assert clients(chain) == {"a": (20, 2, 0, 8, 15, 15, 0, 5)}


def test_a_number_that_no_process_reaches(chain: Chain) -> None:
    """An absurd number says nothing of how much was recorded."""
    chain.send(sent_by("a", numbered(1), numbered(2**62)))
    assert clients(chain) == {"a": (0, 0, 0, 0, 2, 2, 0, 0)}


def test_what_is_charged_later_is_no_longer_quarantined(chain: Chain) -> None:
    """A numbered usage that waited in the quarantine is counted as charged when it is, under its own process."""
    chain.send(sent_by("a", numbered(1, **{USER: None}), numbered(2)), default_user="")
    assert clients(chain)["a"][4:7] == (2, 1, 1)
    ids = quarantined_ids(chain.client, chain.spool.receiver, Selection(), Treatment(ASSIGN, "ada"))
    run_replay(chain.client, replay_batch(ids, Treatment(ASSIGN, "ada")))
    assert clients(chain)["a"][4:7] == (2, 2, 0)
    chain.assert_sums_agree()


def test_usage_without_a_number_is_left_out(chain: Chain) -> None:
    """Apps that do not use the library have no row, and their usage is charged as ever."""
    chain.send(sent_by("a", usage_span()), traces(usage_span({SEQ: 1})))
    assert clients(chain) == {}
    assert chain.outcomes() == {"charged": 2}


def test_a_forwarded_span_that_is_no_usage_did_arrive(chain: Chain) -> None:
    """A numbered span that no rule matches is neither missing nor in quarantine, also if it is sent again; one that a rule
    charges, or puts into the quarantine, counts as that."""
    rule = ["routes", True, "work", {"http.route": "/priced"}]
    chain.client.insert("credit_rules", [rule], column_names=["rule_id", "enabled", "action_type", "attributes"])
    chain.command(
        "INSERT INTO credit_action_costs (action_type, unit, credits_per_unit, effective_from)"
        " VALUES ('work', 'call', 1, '1990-01-01')"
    )
    free = span({SEQ: 1, USER: "ada", "http.route": "/free"})
    priced = span({SEQ: 2, USER: "ada", "http.route": "/priced"})
    nobody = span({SEQ: 3, "http.route": "/priced"})
    forwarded = sent_by("a", free, priced, nobody, span({SEQ: 4}), numbered(5))
    chain.send(forwarded)
    chain.send(forwarded)
    chain.send(report("a", 6, 6, {}, 0, 2_000))
    assert clients(chain) == {"a": (6, 6, 0, 0, 5, 2, 1, 1)}
    chain.assert_sums_agree()
