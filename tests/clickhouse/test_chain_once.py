"""Promise 2: a usage is charged exactly once, however often its span is delivered."""

from decimal import Decimal
from itertools import combinations
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otel_credits_aggregator.spool import Batch
from support.chain import STORED_TABLES, Chain
from support.otlp_build import (
    ACTION,
    AMOUNT,
    DESCRIPTION,
    FINISH_REASONS,
    INPUT,
    KEY,
    METADATA,
    OPERATION,
    OUTPUT,
    RESPONSE_ID,
    SOME_TIME_NS,
    UNITS,
    USER,
    USER_EMAIL,
    metric,
    metrics,
    point,
    span,
    traces,
    usage_span,
)

HOUR_NS = 3_600 * 10**9
MONTH_NS = 30 * 24 * HOUR_NS
OFFICIAL_SCOPE = "opentelemetry.instrumentation.genai.anthropic"
SDK_SCOPE = "com.anthropic.sdk.python"


def five_usages() -> list[Span]:
    """Five spans of one credit each, of four users."""
    return [usage_span({USER: f"user-{number % 4}"}) for number in range(5)]


def llm_call(response_id: str, **fields: Any) -> Span:
    """The span of an LLM call as a GenAI instrumentation emits it."""
    attributes = {
        OPERATION: "chat",
        INPUT: 10,
        OUTPUT: 5,
        FINISH_REASONS: ["stop"],
        RESPONSE_ID: response_id,
        USER: "someone",
    }
    return span(attributes, **fields)


def price_tokens(chain: Chain) -> None:
    """Gives input and output tokens of any action and model a price, for all time."""
    chain.command(
        "INSERT INTO credit_action_costs (unit, credits_per_unit, effective_from)"
        " SELECT arrayJoin(['input_token', 'output_token']), 0.01, '2000-01-01'"
    )


def test_the_same_request_twice(chain: Chain) -> None:
    """An exporter that repeats a request, because the answer came too late, is not charged for it."""
    request = traces(*five_usages())
    for _ in range(3):
        chain.send(request)
    assert chain.charges() == [Decimal(1)] * 5
    assert chain.outcomes() == {"charged": 5, "duplicate": 10}
    chain.assert_sums_agree()


def test_the_same_request_twice_in_one_insert(chain: Chain) -> None:
    """Copies that wait in the spool together and are inserted together are one usage."""
    request = traces(*five_usages())
    chain.send(request, request)
    assert chain.outcomes() == {"charged": 5, "duplicate": 5}
    chain.assert_sums_agree()


def test_the_same_spans_in_another_request(chain: Chain) -> None:
    """A Collector that batches spans anew, in another order and with others, causes no second charge."""
    first, others = five_usages(), five_usages()
    chain.send(traces(*first))
    chain.send(traces(*others, *reversed(first)))
    assert chain.outcomes() == {"charged": 10, "duplicate": 5}
    chain.assert_sums_agree()


def test_half_of_a_batch_is_resent(chain: Chain) -> None:
    """Of a batch that is resent in part, only what was not there yet is charged."""
    usages = five_usages() + five_usages()
    chain.send(traces(*usages[:6]))
    chain.send(traces(*usages[3:]))
    assert chain.outcomes() == {"charged": 10, "duplicate": 3}
    chain.assert_sums_agree()


def test_the_same_span_twice_in_one_request(chain: Chain) -> None:
    """Two copies in one request are one usage."""
    usages = five_usages()
    chain.send(traces(*usages, *usages[:2], usages[0]))
    assert chain.outcomes() == {"charged": 5, "duplicate": 3}
    chain.assert_sums_agree()


def test_copies_far_apart_in_a_large_insert(chain: Chain) -> None:
    """Copies are recognised over a whole insert, however many rows are between them: it must stay one block."""
    number = 100_000
    usages = [
        usage_span({USER: "one", AMOUNT: 1}, span_id=index.to_bytes(8), trace_id=b"0123456789abcdef")
        for index in range(1, number + 1)
    ]
    first, last = traces(*usages[: number // 2]), traces(*usages[number // 2 :])
    batch = chain.compose(first, last, first, last)
    chain.insert(batch)
    assert chain.outcomes() == {"charged": number, "duplicate": number}
    chain.assert_sums_agree()


def test_copies_among_many_small_requests(chain: Chain) -> None:
    """The same for copies that many requests are between: an insert of thousands of requests is one block too."""
    number = 5_000
    usages = [usage_span(span_id=index.to_bytes(8), trace_id=b"0123456789abcdef") for index in range(1, number + 1)]
    requests = [traces(usage) for usage in usages]
    chain.send(*requests, *requests)
    assert chain.outcomes() == {"charged": number, "duplicate": number}


def test_a_data_point_twice(chain: Chain) -> None:
    """A data point that is exported again is one usage; the next point of the series is another."""
    one, two = (point(7, {ACTION: "sync", USER: "u", AMOUNT: "0.5"}) for _ in range(2))
    chain.send(metrics(metric(one, one)))
    chain.send(metrics(metric(one), metric(two)))
    assert chain.outcomes() == {"charged": 2, "duplicate": 2}
    chain.assert_sums_agree()


def test_data_points_of_two_series_at_one_moment(chain: Chain) -> None:
    """Points that differ in an attribute, the scope or the resource are different usages, though their times agree."""
    points = [point(7, {ACTION: "sync", USER: user, AMOUNT: "0.5"}, end_ns=SOME_TIME_NS) for user in "ab"]
    chain.send(metrics(metric(*points)), metrics(metric(*points), scope="other"))
    chain.send(metrics(metric(*points), service="other"))
    assert chain.outcomes() == {"charged": 6}
    chain.assert_sums_agree()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", 1),
        (1, 1.0),
        (True, "true"),
        ([1, 2], [2, 1]),
        (["a"], "a"),
        (b"a", b"b"),
        ({"k": 1}, {"k": 2}),
        ("", None),
        (0.5, 0.25),
    ],
    ids=str,
)
def test_series_that_differ_in_an_attribute_of_any_type(chain: Chain, one: Any, other: Any) -> None:
    """Points that differ in an attribute of whatever type are different usages; in another order they are copies."""
    attributes = {ACTION: "sync", USER: "someone", AMOUNT: "1"}
    points = [point(7, {**attributes, "queue": value}, end_ns=SOME_TIME_NS) for value in (one, other)]
    reordered = point(7, {"queue": one, **attributes}, end_ns=SOME_TIME_NS)
    chain.send(metrics(metric(*points, reordered)))
    assert chain.outcomes() == {"charged": 2, "duplicate": 1}


def test_series_of_two_versions_of_a_scope(chain: Chain) -> None:
    """Two meters of one name and different versions are two series, which an SDK exports with the same times."""
    requests = [
        metrics(metric(point(7, {ACTION: "sync", USER: "u", AMOUNT: "1"}, end_ns=SOME_TIME_NS))) for _ in range(2)
    ]
    for number, request in enumerate(requests):
        request.resource_metrics[0].scope_metrics[0].scope.version = str(number)
    chain.send(*requests)
    assert chain.outcomes() == {"charged": 2}


def test_a_copy_that_cannot_be_charged_is_no_obstacle(chain: Chain) -> None:
    """Of copies in one insert the first that can be charged is charged, not the first."""
    good = usage_span()
    bad = usage_span({USER: None}, trace_id=good.trace_id, span_id=good.span_id)
    chain.send(traces(bad, good, bad))
    assert chain.outcomes() == {"charged": 1, "duplicate": 2}
    chain.assert_sums_agree()


def test_a_quarantined_copy_does_not_stop_a_later_good_one(chain: Chain) -> None:
    """What was quarantined was not charged, so a copy of it that can be charged is."""
    good = usage_span()
    bad = usage_span({USER: None}, trace_id=good.trace_id, span_id=good.span_id)
    for one in (bad, good, bad):
        chain.send(traces(one))
    assert chain.outcomes() == {"quarantined": 1, "charged": 1, "duplicate": 1}
    chain.assert_sums_agree()


def test_the_same_batch_again_changes_nothing(chain: Chain) -> None:
    """A batch that is inserted again with its token leaves every table as it was, however often."""
    usages = five_usages()
    chain.send(traces(usages[0]))
    unpriced = usage_span({AMOUNT: None})
    keyed = [usage_span({KEY: "k", AMOUNT: amount}) for amount in ("1", "1", "2")]
    batch = chain.compose(traces(*usages, usages[1], unpriced, span(), *keyed))
    chain.insert(batch)
    before = chain.contents()
    for _ in range(3):
        chain.insert(batch)
    assert chain.contents() == before
    assert chain.outcomes() == {"charged": 6, "duplicate": 3, "quarantined": 2, "not_usage": 1}


def test_the_same_metrics_batch_again_changes_nothing(chain: Chain) -> None:
    """The same for data points."""
    points = [point(7, {ACTION: "sync", USER: "u", AMOUNT: "0.5"}) for _ in range(3)]
    batch = chain.compose(metrics(metric(*points, points[0]), metric(point(1), name="other"), metric(point(1))))
    chain.insert(batch)
    before = chain.contents()
    chain.insert(batch)
    assert chain.contents() == before
    assert chain.outcomes() == {"charged": 3, "duplicate": 1, "quarantined": 1, "not_usage": 1}


# What an insert that was cut off may have left out: any of the tables, since one view after the other is written.
IN_ORDER = [frozenset(STORED_TABLES[:number]) for number in range(1, len(STORED_TABLES) + 1)]
AGAINST_IT = [frozenset(STORED_TABLES[number:]) for number in range(1, len(STORED_TABLES))]
ALONE = [frozenset({table}) for table in STORED_TABLES[1:-1]]
# The tables of the apps' own processes and of intervals hold sets and newest values, which nothing can count twice, and
# what recognises LLM calls gets nothing here.
COUNTING = [
    table
    for table in STORED_TABLES
    if not table.startswith("client_") and table not in ("usage_intervals", "call_links")
]
ALL_SUBSETS = [frozenset(some) for size in range(1, 9) for some in combinations(COUNTING, size)]


def a_bit_of_everything() -> tuple[ExportTraceServiceRequest, ...]:
    """Two requests; the second repeats some usages of the first and has every outcome."""
    usages = [usage_span({USER: f"user-{number}", USER_EMAIL: f"{number}@example.org"}) for number in range(5)]
    keyed = [usage_span({KEY: "k", AMOUNT: amount}) for amount in ("1", "1", "2")]
    unpriced = usage_span({AMOUNT: None})
    return traces(*usages[:3], keyed[0]), traces(
        *usages, *usages[3:], *keyed[1:], unpriced, span(), usage_span({KEY: "l"})
    )


def leave_out(chain: Chain, tables: frozenset[str], batches: tuple[Batch, ...]) -> None:
    """Makes the store as if these tables had got nothing of the batches: rows and memory of tokens are gone."""
    for table in tables:
        chain.command(f"TRUNCATE TABLE {table}")
    for batch in batches:
        chain.insert(batch)


def completed(chain: Chain, subsets: list[frozenset[str]]) -> dict[frozenset[str], bool]:
    """For each subset of the tables: whether a batch that did not reach them is completed by repeating it."""
    batches = tuple(chain.compose(request) for request in a_bit_of_everything())
    for batch in batches:
        chain.insert(batch)
    assert chain.outcomes() == {"charged": 7, "duplicate": 6, "quarantined": 2, "not_usage": 1}
    whole = chain.contents()
    result = {}
    for subset in subsets:
        leave_out(chain, subset, batches)
        result[subset] = chain.contents() == whole
    return result


@pytest.mark.long
def test_a_half_applied_batch_is_completed(chain: Chain) -> None:
    """A batch that reached only some of its tables is completed by a repetition, and no table gets anything twice."""
    assert not [subset for subset, right in completed(chain, [*IN_ORDER, *AGAINST_IT, *ALONE]).items() if not right]


@pytest.mark.long
def test_a_half_applied_batch_is_completed_whatever_it_lacks(chain: Chain) -> None:
    """The same for each of the 255 sets of tables."""
    assert not [subset for subset, right in completed(chain, ALL_SUBSETS).items() if not right]


def test_a_key_hours_apart_is_charged_once(chain: Chain) -> None:
    """An idempotency key is known whenever it comes back, on whatever span."""
    for end_ns in (SOME_TIME_NS, SOME_TIME_NS + 5 * HOUR_NS, SOME_TIME_NS - 3 * MONTH_NS):
        chain.send(traces(usage_span({KEY: "order-17"}, end_ns=end_ns)))
    assert chain.outcomes() == {"charged": 1, "duplicate": 2}
    chain.assert_sums_agree()


def test_a_key_twice_in_one_insert_is_charged_once(chain: Chain) -> None:
    """Two spans with one idempotency key in one request are one usage."""
    chain.send(traces(*(usage_span({KEY: "order-17"}, end_ns=SOME_TIME_NS + hour * HOUR_NS) for hour in range(3))))
    assert chain.outcomes() == {"charged": 1, "duplicate": 2}
    chain.assert_sums_agree()


CONFLICTS = [
    {AMOUNT: "2"},
    {USER: "other"},
    {ACTION: "other"},
    {UNITS + "second": 1},
    {AMOUNT: None, UNITS + "call": "1"},
]


@pytest.mark.parametrize("together", [True, False], ids=["one insert", "two inserts"])
def test_a_key_for_something_else_is_a_conflict(chain: Chain, together: bool) -> None:
    """A key that comes again with another user, action, amount or quantity is quarantined; the first charge stays."""
    chain.command(
        "INSERT INTO credit_action_costs (unit, credits_per_unit, effective_from) VALUES ('call', 1, '2000-01-01')"
    )
    spans = [usage_span({KEY: "k"}), *(usage_span({KEY: "k", **change}) for change in CONFLICTS)]
    for request in [traces(*spans)] if together else [traces(one) for one in spans]:
        chain.send(request)
    assert chain.reasons() == ["idempotency_conflict"] * len(CONFLICTS)
    assert chain.charges() == [Decimal(1)]
    chain.assert_sums_agree()


def test_a_key_with_another_description_is_a_copy(chain: Chain) -> None:
    """What does not decide the charge may differ between copies: description, metadata, the way a number is written."""
    chain.send(traces(usage_span({KEY: "k", AMOUNT: "0.1"})))
    copies = [{DESCRIPTION: "again"}, {METADATA + "try": 2}, {AMOUNT: 0.1}, {AMOUNT: "1e-1"}]
    chain.send(traces(*(usage_span({KEY: "k", AMOUNT: "0.10", **copy}) for copy in copies)))
    assert chain.outcomes() == {"charged": 1, "duplicate": 4}


@pytest.mark.parametrize("name", [KEY, RESPONSE_ID])
def test_what_is_not_a_name_is_not_an_identity(chain: Chain, name: str) -> None:
    """Keys that are lists, maps or bytes do not make copies of usages that have nothing in common."""
    odd = [["a", "b"], ["c", 1], [["d"]], {"e": 1}, {"f": 1}, b"g", b"h", ""]
    chain.send(traces(*(usage_span({name: value}) for value in odd)), charge_genai=True)
    assert "duplicate" not in chain.outcomes()
    chain.assert_sums_agree()


def test_a_response_across_traces_is_charged_once(chain: Chain) -> None:
    """The spans that two instrumentations emit for one LLM call are one usage, though they share no trace."""
    price_tokens(chain)
    chain.send(
        traces(llm_call("msg_01_the_first_one"), llm_call("msg_02_the_second_one"), scope=OFFICIAL_SCOPE),
        charge_genai=True,
    )
    chain.send(
        traces(llm_call("msg_01_the_first_one", end_ns=SOME_TIME_NS + HOUR_NS), scope=SDK_SCOPE), charge_genai=True
    )
    both = [traces(llm_call("msg_03_the_third_one"), scope=scope) for scope in (SDK_SCOPE, OFFICIAL_SCOPE)]
    chain.send(*both, charge_genai=True)
    assert chain.charges() == [Decimal("0.15")] * 3
    assert chain.outcomes() == {"charged": 3, "duplicate": 2}
    chain.assert_sums_agree()


def test_an_explicit_usage_goes_before_an_automatic_one(chain: Chain) -> None:
    """Of copies in one insert the app's own word counts, even if the instrumentation's span was sent first."""
    price_tokens(chain)
    explicit = usage_span({RESPONSE_ID: "msg_01_the_first_one", AMOUNT: "3"})
    chain.send(traces(llm_call("msg_01_the_first_one"), scope=OFFICIAL_SCOPE), traces(explicit), charge_genai=True)
    assert chain.charges() == [Decimal(3)]
    assert chain.outcomes() == {"charged": 1, "duplicate": 1}


def test_two_usages_of_one_trace_are_two(chain: Chain) -> None:
    """Neither the trace id alone nor the span id alone makes a copy."""
    ids = [(trace * 16, one * 8) for trace in (b"t", b"u") for one in (b"a", b"b")]
    chain.send(traces(*(usage_span(trace_id=trace_id, span_id=span_id) for trace_id, span_id in ids)))
    assert chain.outcomes() == {"charged": 4}
