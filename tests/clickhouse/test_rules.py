"""Billing rules: a span that matches one is a usage of the rule's action, without a change to the app."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otel_credits_aggregator.replay import quarantined_ids, replay_batch, run_replay
from otel_credits_aggregator.store import DatabaseError
from support.chain import Chain
from support.otlp_build import (
    AMOUNT,
    FINISH_REASONS,
    INPUT,
    KEY,
    METADATA,
    OPERATION,
    OUTPUT,
    RESPONSE_ID,
    SOME_TIME_NS,
    USER,
    attribute_list,
    span,
    traces,
    usage_span,
)
from support.rules import CLIENT, CONSUMER, ERROR, INTERNAL, OK, ROUTE, SERVER, charged_names, set_price, set_rule

QUERY = {USER: "ada", "db.system.name": "postgresql", "db.query.summary": "SELECT films"}


MATCHES: dict[str, tuple[dict[str, Any], Span]] = {
    "attribute": ({"attributes": {ROUTE: "/a"}}, span({USER: "ada", ROUTE: "/a"})),
    "number": ({"attributes": {"rows": "200"}}, span({USER: "ada", "rows": 200})),
    "flag": ({"attributes": {"cached": "true"}}, span({USER: "ada", "cached": True})),
    "list of one": ({"attributes": {"header": "x"}}, span({USER: "ada", "header": ["x"]})),
    "attribute prefix": ({"attribute_prefixes": {ROUTE: "/a/"}}, span({USER: "ada", ROUTE: "/a/b"})),
    "attribute is there": ({"attribute_prefixes": {ROUTE: ""}}, span({USER: "ada", ROUTE: ""})),
    "name": ({"span_name": "GET /a"}, span({USER: "ada"}, name="GET /a")),
    "name prefix": ({"span_name_prefix": "run/"}, span({USER: "ada"}, name="run/task")),
    "kind": ({"kind": "consumer"}, span({USER: "ada"}, kind=CONSUMER)),
    "internal": ({"kind": "internal"}, span({USER: "ada"}, kind=INTERNAL)),
    "scope": ({"scope_name": "tests"}, span({USER: "ada"})),
    "service": ({"service_name": "test-service"}, span({USER: "ada"})),
    "unset": ({"status": "unset"}, span({USER: "ada"})),
    "ok": ({"status": "ok"}, span({USER: "ada"}, status={"code": OK})),
    "error": ({"status": "error", "charge_failed": True}, span({USER: "ada"}, status={"code": ERROR})),
    "all at once": (
        {"attributes": {ROUTE: "/a", "x": "1"}, "kind": "server", "span_name_prefix": "GET", "scope_name": "tests"},
        span({"x": 1, USER: "ada", ROUTE: "/a"}, name="GET /a", kind=SERVER),
    ),
}


MISSES: dict[str, tuple[dict[str, Any], Span]] = {
    "another text": ({"attributes": {ROUTE: "/a"}}, span({USER: "ada", ROUTE: "/a/b"})),
    "no such attribute": ({"attributes": {ROUTE: ""}}, span({USER: "ada"})),
    "another prefix": ({"attribute_prefixes": {ROUTE: "/a/"}}, span({USER: "ada", ROUTE: "/b/a/"})),
    "attribute is not there": ({"attribute_prefixes": {ROUTE: ""}}, span({USER: "ada"})),
    "another name": ({"span_name": "GET"}, span({USER: "ada"}, name="GET /a")),
    "another case": ({"span_name": "get"}, span({USER: "ada"}, name="GET")),
    "another name prefix": ({"span_name_prefix": "run/"}, span({USER: "ada"}, name="apply_async/task")),
    "another kind": ({"kind": "server"}, span({USER: "ada"}, kind=CLIENT)),
    "no kind": ({"kind": "internal"}, span({USER: "ada"})),
    "another scope": ({"scope_name": "test"}, span({USER: "ada"})),
    "another service": ({"service_name": "test"}, span({USER: "ada"})),
    "another status": ({"status": "ok"}, span({USER: "ada"})),
    "one of two": ({"attributes": {ROUTE: "/a"}, "kind": "server"}, span({USER: "ada", ROUTE: "/a"}, kind=CLIENT)),
    "switched off": ({"kind": "client", "enabled": False}, span({USER: "ada"}, kind=CLIENT)),
    "not yet": ({"kind": "client", "created_at": datetime(2199, 1, 1, tzinfo=UTC)}, span({USER: "ada"}, kind=CLIENT)),
}


def send_cases(chain: Chain, cases: dict[str, tuple[dict[str, Any], Span]]) -> None:
    """Sets the rule of each case, which asks for the name of the case, too, and sends the span of each in one request."""
    spans = []
    for name, (conditions, one) in cases.items():
        set_rule(chain, name, **{**conditions, "attributes": {**conditions.get("attributes", {}), "case": name}})
        spans.append(Span())
        spans[-1].CopyFrom(one)
        spans[-1].attributes.extend(attribute_list({"case": name}))
    chain.send(traces(*spans))


def test_a_span_that_matches_is_a_usage(priced: Chain) -> None:
    """Each kind of condition makes a span that meets it a usage of the rule's action: one call, to its user."""
    send_cases(priced, MATCHES)
    found = {event["rule_id"]: event for event in priced.events()}
    assert set(found) == set(MATCHES)
    for name, event in found.items():
        assert (event["user_id"], event["action_type"], event["identity"]) == ("ada", "work", "span")
        assert (event["units"], event["credits_charged"]) == ({"call": Decimal(1)}, Decimal(2))
        assert event["span_id"] == MATCHES[name][1].span_id.hex()
    priced.assert_sums_agree()


def test_a_span_that_misses_one_condition_is_none(priced: Chain) -> None:
    """A span that does not meet every condition of a rule that counts is not usage, and counted as that."""
    send_cases(priced, MISSES)
    assert priced.outcomes() == {"not_usage": len(MISSES)}
    priced.assert_sums_agree()


def test_seconds_are_exact_to_the_nanosecond(priced: Chain) -> None:
    """The seconds of a span are its nanoseconds, as a decimal; at 3 credits a second, the charge is that times 3."""
    lasted_ns = (1, 0, 1_500_000_000, 86_400 * 10**9 + 7, 10**18 // 3)
    set_rule(priced, kind="server", quantities={"second": "seconds"})
    priced.send(traces(*(span({USER: "ada"}, kind=SERVER, start_ns=SOME_TIME_NS - lasted) for lasted in lasted_ns)))
    seconds = sorted(Decimal(lasted).scaleb(-9) for lasted in lasted_ns)
    assert sorted(event["units"]["second"] for event in priced.events()) == seconds
    assert sorted(priced.charges()) == [3 * lasted for lasted in seconds]


def test_seconds_that_cannot_be_known_are_quarantined(priced: Chain) -> None:
    """A span without a start, or with one after its end, has no seconds to charge."""
    set_rule(priced, kind="server", quantities={"second": "seconds"})
    starts_ns = (0, 1, SOME_TIME_NS + 1)
    priced.send(traces(*(span({USER: "ada"}, kind=SERVER, start_ns=start_ns) for start_ns in starts_ns)))
    assert priced.reasons() == ["negative_number", "not_a_number", "not_a_number"]
    priced.assert_sums_agree()


def test_a_quantity_is_taken_from_an_attribute(priced: Chain) -> None:
    """A named attribute, sent as int, text or double, is the quantity of the unit that the rule names."""
    set_price(priced, "4", "row")
    set_rule(priced, kind="client", quantities={"row": "attribute:db.rows", "call": "one"})
    sent = {7: "7", "2.5": "2.5", 0.1: "0.1", 1e-13: "0", 0: "0", "1e3": "1000"}
    spans = [
        span({**QUERY, "db.rows": value}, kind=CLIENT, end_ns=SOME_TIME_NS + number * 1000)
        for number, value in enumerate(sent)
    ]
    priced.send(traces(*spans))
    quantities = [Decimal(text) for text in sent.values()]
    assert [event["units"] for event in priced.events()] == [{"row": rows, "call": Decimal(1)} for rows in quantities]
    assert priced.charges() == [4 * rows + 2 for rows in quantities]


def test_a_quantity_that_is_none_is_quarantined(priced: Chain) -> None:
    """A matching span whose attribute is missing or no quantity is kept with the reason, not charged as nothing."""
    set_rule(priced, kind="client", quantities={"row": "attribute:db.rows"})
    wrong: list[dict[str, Any]] = [{"db.rows": value} for value in ("many", [1, 2], -1, "0.0000000000001")]
    priced.send(traces(*(span({**QUERY, **attributes}, kind=CLIENT) for attributes in ({}, *wrong))))
    assert priced.reasons() == ["negative_number", "not_a_number", "not_a_number", "not_a_number", "number_not_exact"]
    priced.assert_sums_agree()


def test_failed_spans_are_charged_by_the_word_of_the_rule(priced: Chain) -> None:
    """A failed span is free, unless its rule charges failed ones; a rule that lets it go free keeps later ones away."""
    set_rule(priced, "free", kind="server", priority=1)
    set_rule(priced, "never asked", kind="server", priority=2, charge_failed=True)
    set_rule(priced, "strict", kind="client", charge_failed=True)
    failed = {"status": {"code": ERROR}}
    priced.send(
        traces(span({USER: "ada"}, kind=SERVER, name="good"), span({USER: "ada"}, kind=SERVER, name="bad", **failed)),
        traces(span({USER: "bob"}, kind=CLIENT, name="worse", end_ns=SOME_TIME_NS + 1000, **failed)),
    )
    assert charged_names(priced) == ["good", "worse"]
    assert [event["rule_id"] for event in priced.events()] == ["free", "strict"]
    assert priced.outcomes() == {"charged": 2, "not_usage": 1}
    priced.assert_sums_agree()


def test_one_span_is_one_usage_of_the_first_rule(priced: Chain) -> None:
    """Of several rules that match, the lowest priority decides, then the id; the others charge nothing."""
    for rule_id, priority in (("c", 5), ("b", 5), ("a", 6)):
        set_rule(priced, rule_id, kind="server", priority=priority, action_type=f"by {rule_id}")
    priced.send(traces(span({USER: "ada"}, kind=SERVER)))
    assert [(event["rule_id"], event["action_type"]) for event in priced.events()] == [("b", "by b")]


def test_a_span_that_says_so_itself_is_asked_about_no_rule(priced: Chain) -> None:
    """A usage of the app's own is charged as it says, also where a rule matches it, and where it is wrong."""
    set_rule(priced, kind="server")
    priced.send(traces(usage_span(kind=SERVER), usage_span({USER: None}, kind=SERVER)))
    assert [(event["rule_id"], event["credits_charged"]) for event in priced.events()] == [("", Decimal(1))]
    assert priced.reasons() == ["no_user"]
    assert priced.rows("SELECT rule_id FROM credit_quarantine") == [{"rule_id": ""}]


LLM_CALL = {
    USER: "ada",
    OPERATION: "chat",
    INPUT: 10,
    OUTPUT: 5,
    FINISH_REASONS: ["stop"],
    RESPONSE_ID: "msg_01_the_first_one",
}
LLM_SCOPE = "opentelemetry.instrumentation.genai.openai"


def test_an_llm_call_is_not_charged_again_by_a_rule(priced: Chain) -> None:
    """A call that is charged because LLM calls are is charged once, for its tokens; tool calls are left to rules."""
    for unit in ("input_token", "output_token"):
        set_price(priced, "1", unit)
    set_rule(priced, attribute_prefixes={OPERATION: ""})
    tool = span({USER: "ada", OPERATION: "execute_tool"}, end_ns=SOME_TIME_NS + 1000)
    priced.send(traces(span(LLM_CALL), tool, scope=LLM_SCOPE), charge_genai=True)
    found = [(event["action_type"], event["rule_id"], event["credits_charged"]) for event in priced.events()]
    assert found == [("ai_call", "", Decimal(15)), ("work", "rule", Decimal(2))]
    priced.assert_sums_agree()


def test_a_rule_may_price_llm_calls_while_they_are_not_charged_otherwise(priced: Chain) -> None:
    """With automatic charging off, a rule's quantities are all that is charged: tokens of the span do not add to them."""
    set_rule(priced, attributes={OPERATION: "chat"})
    priced.send(traces(span({**LLM_CALL, KEY: "key-1", AMOUNT: "100"}), scope=LLM_SCOPE))
    (event,) = priced.events()
    assert (event["units"], event["credits_charged"]) == ({"call": Decimal(1)}, Decimal(2))
    assert (event["input_tokens"], event["identity"]) == (0, "span")


def test_what_the_span_tells_is_kept_with_the_event(priced: Chain) -> None:
    """The event shows the span's name, or its own description, and its metadata."""
    set_rule(priced, kind="server")
    described = span(
        {USER: "ada", "credits.description": "films", METADATA + "page": 2}, kind=SERVER, end_ns=SOME_TIME_NS + 1000
    )
    priced.send(traces(span({USER: "ada"}, name="GET /films", kind=SERVER), described))
    assert charged_names(priced) == ["GET /films", "films"]
    assert [event["metadata"] for event in priced.events()] == [{}, {"page": "2"}]


def test_a_span_is_charged_once_however_often_it_is_sent(priced: Chain) -> None:
    """Copies of a span, in one insert and in a later one, also after the rule has changed, are one usage."""
    set_rule(priced, kind="server")
    one = span({USER: "ada"}, kind=SERVER)
    priced.send(traces(one, one), traces(one))
    set_rule(priced, kind="server", action_type="other", quantities={"second": "seconds"})
    priced.send(traces(one))
    assert [event["action_type"] for event in priced.events()] == ["work"]
    assert priced.outcomes() == {"charged": 1, "duplicate": 3}
    priced.assert_sums_agree()


def test_the_rule_counts_that_was_there_when_the_request_was_received(priced: Chain) -> None:
    """A change counts for what is received after it: what was received before, however late it is inserted, is by the old."""
    set_rule(priced, kind="server", action_type="old")
    before = priced.compose(traces(span({USER: "ada"}, kind=SERVER)))
    set_rule(priced, kind="server", action_type="new")
    between = priced.compose(traces(span({USER: "bob"}, kind=SERVER)))
    set_rule(priced, kind="server", enabled=False)
    after = priced.compose(traces(span({USER: "eve"}, kind=SERVER)))
    for batch in (after, between, before):
        priced.insert(batch)
    found = {event["user_id"]: event["action_type"] for event in priced.events()}
    assert found == {"ada": "old", "bob": "new"}
    priced.assert_sums_agree()


def test_a_repeated_insert_decides_the_same_again(priced: Chain) -> None:
    """A batch that is inserted again, after the rule was switched off, changes nothing: neither events nor sums."""
    set_rule(priced, kind="server")
    batch = priced.compose(traces(span({USER: "ada"}, kind=SERVER), span({USER: "ada"}, kind=CLIENT)))
    priced.insert(batch)
    stored = priced.contents()
    set_rule(priced, kind="server", enabled=False)
    priced.insert(batch)
    assert priced.contents() == stored
    priced.assert_sums_agree()


def replay_all(chain: Chain) -> None:
    """Replays the whole quarantine."""
    batch = replay_batch(quarantined_ids(chain.client, chain.spool.receiver))
    chain.spool.compose(batch)
    run_replay(chain.client, batch)
    chain.spool.forget(batch)


def test_a_usage_by_a_rule_is_charged_from_the_quarantine(chain: Chain) -> None:
    """What a rule made a usage stays one, by the same rule, when its price comes later, even if the rule is off by then."""
    set_rule(chain, kind="server", quantities={"mile": "attribute:trip.miles"})
    chain.send(traces(span({USER: "ada", "trip.miles": 0.5}, kind=SERVER)))
    assert chain.reasons() == ["unpriced"]
    set_rule(chain, kind="server", enabled=False)
    set_price(chain, "8", "mile")
    replay_all(chain)
    (event,) = chain.events()
    assert (event["credits_charged"], event["rule_id"], event["action_type"]) == (Decimal(4), "rule", "work")
    assert (chain.reasons(), chain.outcomes()) == ([], {"charged": 1})
    chain.assert_sums_agree()


def test_a_usage_by_a_rule_without_user_waits_for_one(priced: Chain) -> None:
    """A matching span that names nobody is kept, and charged to whom it is assigned to."""
    set_rule(priced, kind="server")
    priced.send(traces(span({}, kind=SERVER)))
    assert priced.reasons() == ["no_user"]
    priced.command(
        f"ALTER TABLE credit_quarantine UPDATE attributes = mapUpdate(attributes, map('{USER}', 'ada')) WHERE 1"
        " SETTINGS mutations_sync = 2"
    )
    replay_all(priced)
    assert [(event["user_id"], event["rule_id"]) for event in priced.events()] == [("ada", "rule")]
    priced.assert_sums_agree()


REFUSED = [
    "rule_id, span_name, action_type) VALUES ('', 'x', 'a'",
    "rule_id, span_name, action_type) VALUES ('r', 'x', ''",
    "rule_id, action_type) VALUES ('r', 'a'",
    "rule_id, kind, action_type) VALUES ('r', 'SERVER', 'a'",
    "rule_id, status, action_type) VALUES ('r', 'failed', 'a'",
    "rule_id, status, action_type) VALUES ('r', 'error', 'a'",
    "rule_id, attributes, action_type) VALUES ('r', {'': 'x'}, 'a'",
    "rule_id, attribute_prefixes, action_type) VALUES ('r', {'': ''}, 'a'",
    "rule_id, span_name, action_type, quantities) VALUES ('r', 'x', 'a', map()",
    "rule_id, span_name, action_type, quantities) VALUES ('r', 'x', 'a', {'call': 'two'}",
    "rule_id, span_name, action_type, quantities) VALUES ('r', 'x', 'a', {'': 'one'}",
    "rule_id, span_name, action_type, quantities) VALUES ('r', 'x', 'a', {'call': 'attribute:'}",
    f"rule_id, span_name, action_type) VALUES ('r', 'x', '{'a' * 513}'",
]


def test_a_rule_that_means_nothing_is_refused(chain: Chain) -> None:
    """The table itself takes no rule without id, action, condition or known words, whoever inserts it."""
    for columns in REFUSED:
        with pytest.raises(DatabaseError, match="VIOLATED_CONSTRAINT"):
            chain.command(f"INSERT INTO credit_rules ({columns})")


ODD_RULES: list[dict[str, Any]] = [
    {"span_name_prefix": "[(*", "attributes": {"(": "["}},
    {"attributes": {"k" * 70_000: "v" * 70_000}},
    {"span_name": "\0'\"\\;--", "service_name": "ß\n"},
    {"attributes": {"a": "1"}, "attribute_prefixes": {"a": "2"}},
    {"span_name": "odd", "quantities": {"u" * 9_000: "attribute:" + "x" * 9_000, "'": "one", "\0": "seconds"}},
    {"span_name": "odd", "priority": -(2**31), "quantities": {"attribute:": "attribute:attribute:"}},
]


def test_no_rule_makes_an_insert_fail(priced: Chain) -> None:
    """Whatever rules say, spans that have nothing to do with them are charged, and odd ones that match are quarantined."""
    for number, rule in enumerate(ODD_RULES):
        set_rule(priced, f"odd {number}", **rule)
    odd = [span({USER: "ada"}, name="odd", trace_id=b"", end_ns=0, start_ns=2**64 - 1), span({"a": None}, name="odd")]
    priced.send(traces(usage_span(), span({"a": "2"}), *odd))
    assert priced.outcomes() == {"charged": 1, "not_usage": 1, "quarantined": 2}
    priced.assert_sums_agree()
