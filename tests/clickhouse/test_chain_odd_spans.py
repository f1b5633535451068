"""No span, however odd, makes an insert fail or is charged wrongly: it has its reason, or its right charge.

All odd spans travel in one request with good ones between them, so that each is also a neighbour of all the others.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.chain import Chain
from support.otlp_build import (
    ACTION,
    AMOUNT,
    CACHE_READ,
    CACHE_WRITE,
    CREDITS_USER,
    DESCRIPTION,
    END_USER,
    INPUT,
    KEY,
    METADATA,
    OUTPUT,
    REASONING,
    REQUEST_MODEL,
    RESOURCE_ID,
    RESOURCE_TYPE,
    RESPONSE_MODEL,
    SOME_TIME_NS,
    UNITS,
    USAGE_UNKNOWN,
    USER,
    USER_EMAIL,
    resource_spans,
    span,
    traces,
    usage_span,
)

DAY_NS = 86_400 * 10**9
YEAR_1999_END_NS = 946_684_799_999_999_999
YEAR_2500_NS = 16_725_225_600_000_000_000
# A clock that counts signed nanoseconds since 1970 and shows 1601-01-01, as it wraps in an unsigned fixed64.
YEAR_1601_NS = (-11_644_473_600 * 10**9) % 2**64
MEGABYTE = "x" * 1_000_000
NULL_CREDITS = Decimal(0)


@dataclass(frozen=True)
class Odd:
    """An odd span: how it differs from a good one (attributes, fields of the span), and what should become of it."""

    expected: str | Decimal
    attributes: dict[str, Any]
    fields: dict[str, Any]

    def span(self, case: str) -> Span:
        """The span; its resource id tells it from the others wherever it ends up."""
        return usage_span({RESOURCE_ID: case, **self.attributes}, **self.fields)


def odd(expected: str | int, attributes: dict[str, Any] | None = None, **fields: Any) -> Odd:
    """An odd span and what should become of it: a reason, or its charge."""
    return Odd(expected if isinstance(expected, str) else Decimal(expected), attributes or {}, fields)


def amount(expected: str | Decimal | int, value: Any) -> Odd:
    """A span with this amount."""
    return Odd(Decimal(expected) if isinstance(expected, int) else expected, {AMOUNT: value}, {})


def priced(expected: str | int, attributes: dict[str, Any]) -> Odd:
    """A span without an amount, so that its quantities are priced (each unit of PRICED_UNITS costs 1)."""
    return odd(expected, {AMOUNT: None, **attributes})


PRICED_UNITS = ("call", "input_token", "output_token", "cache_read_token", "cache_write_token", "x", "y")

IDS = {
    "trace id missing": odd("invalid_trace_id", trace_id=b""),
    "trace id of 15 bytes": odd("invalid_trace_id", trace_id=b"t" * 15),
    "trace id of 17 bytes": odd("invalid_trace_id", trace_id=b"t" * 17),
    "trace id as hex text": odd("invalid_trace_id", trace_id=b"0af7651916cd43dd8448eb211c80319c"),
    "trace id of a megabyte": odd("invalid_trace_id", trace_id=b"t" * 1_000_000),
    "trace id all zero": odd("invalid_trace_id", trace_id=bytes(16)),
    "span id missing": odd("invalid_span_id", span_id=b""),
    "span id of 7 bytes": odd("invalid_span_id", span_id=b"s" * 7),
    "span id of 9 bytes": odd("invalid_span_id", span_id=b"s" * 9),
    "span id all zero": odd("invalid_span_id", span_id=bytes(8)),
    "both ids odd": odd("invalid_trace_id", trace_id=b"t", span_id=b"s"),
    "ids with quotes and NUL": odd(1, trace_id=b"\0'\"\\`;--\n\r\t{}%s!", span_id=b"\0'\"\\`;-\n"),
    "ids all ones": odd(1, trace_id=b"\xff" * 16, span_id=b"\xff" * 8),
}

TIMES = {
    "end time 0": odd("time_missing", end_ns=0),
    "year 1601": odd("time_out_of_range", end_ns=YEAR_1601_NS),
    "year 1970": odd("time_out_of_range", end_ns=1),
    "year 1999": odd("time_out_of_range", end_ns=YEAR_1999_END_NS),
    "year 2000": odd(1, end_ns=YEAR_1999_END_NS + 1),
    "year 2500": odd("time_out_of_range", end_ns=YEAR_2500_NS),
    "year 2554": odd("time_out_of_range", end_ns=2**64 - 1),
    "seconds for nanoseconds": odd("time_out_of_range", end_ns=SOME_TIME_NS // 10**9),
    "start after end": odd(1, start_ns=SOME_TIME_NS + DAY_NS),
    "start in 2554": odd(1, start_ns=2**64 - 1),
}

WHO_AND_WHAT = {
    "no user": odd("no_user", {USER: None}),
    "empty user": odd("no_user", {USER: ""}),
    "three empty users": odd("no_user", {USER: "", CREDITS_USER: "", END_USER: ""}),
    "user without value": odd("no_user", {USER: None, CREDITS_USER: [], END_USER: {}}),
    "user of bytes": odd("no_user", {USER: b"someone"}),
    "user as list of one": odd(1, {USER: ["someone"]}),
    "user as list of two": odd("no_user", {USER: ["someone", "else"]}),
    "user as list of numbers": odd("no_user", {USER: [42]}),
    "user as list of lists": odd("no_user", {USER: [["someone"]]}),
    "action as list of two": odd("no_action_type", {ACTION: ["one", "two"]}),
    "amount as list of one text": odd(5, {AMOUNT: ["5"]}),
    "user in an attribute without a name": odd("no_user", {USER: None, "": "someone"}),
    "user as int": odd(1, {USER: 42}),
    "user in credits.user_id": odd(1, {USER: None, CREDITS_USER: "someone"}),
    "user in enduser.id": odd(1, {USER: None, END_USER: "someone"}),
    "user of a megabyte": odd("name_too_long", {USER: MEGABYTE}),
    "user of 512 bytes": odd(1, {USER: "u" * 512}),
    "user of 513 bytes": odd("name_too_long", {USER: "é" * 256 + "x"}),
    "empty action": odd("no_action_type", {ACTION: ""}),
    "action without value": odd("no_action_type", {ACTION: b""}),
    "action of a megabyte": odd("name_too_long", {ACTION: MEGABYTE}),
    "model of a megabyte": odd("name_too_long", {RESPONSE_MODEL: MEGABYTE}),
    "key of a megabyte": odd("name_too_long", {KEY: MEGABYTE}),
    "key with quotes and NUL": odd(1, {KEY: "'\0\"\\"}),
    "unknown model": odd("unpriced", {AMOUNT: None, UNITS + "z": 1, REQUEST_MODEL: "no-such-model"}),
    "no price": odd("unpriced", {AMOUNT: None, UNITS + "no_such_unit": "0.000000000001"}),
    "one of two units has no price": odd("unpriced", {AMOUNT: None, UNITS + "x": 1, UNITS + "no_such_unit": 1}),
    "unit without name": odd("unpriced", {AMOUNT: None, UNITS: 1}),
    "unit with quotes and NUL": odd("unpriced", {AMOUNT: None, UNITS + "'\0\"\\": 1}),
    "nothing but an action and a user": priced(1, {}),
}

AMOUNTS = {
    "amount as text": amount(Decimal("0.123456789012"), "0.123456789012"),
    "amount as double": amount(Decimal("0.1"), 0.1),
    "amount as int": amount(3, 3),
    "amount zero": amount(0, "0"),
    "amount double zero": amount(0, 0.0),
    "amount with exponent": amount(Decimal("1500"), "1.5e3"),
    "amount with plus": amount(Decimal("1.5"), "+1.5"),
    "amount with zeros": amount(Decimal("1.5"), "0001.5000000000000000"),
    "amount of the smallest": amount(Decimal("1e-12"), "0.000000000001"),
    "amount of the largest": amount(Decimal(10**15), "1000000000000000"),
    "amount with 13 decimals": amount("number_not_exact", "0.1234567890123"),
    "amount too small": amount("number_not_exact", "0.0000000000001"),
    "amount far too small": amount("number_not_exact", "1e-400"),
    "amount of 41 characters": amount("number_not_exact", "0." + "0" * 38 + "1"),
    "amount of a megabyte of digits": amount("number_out_of_range", "9" * 1_000_000),
    "amount too large": amount("number_out_of_range", "1000000000000000.000000000001"),
    "amount 1e400": amount("number_out_of_range", "1e400"),
    "amount 1e99999999999999999999": amount("number_out_of_range", "1e99999999999999999999"),
    "amount int max": amount("number_out_of_range", 2**63 - 1),
    "amount double max": amount("number_out_of_range", 1.7976931348623157e308),
    "amount double min": amount(0, 5e-324),
    "amount double rounds half to even, down": amount(Decimal("2e-12"), 2.5e-12),
    "amount double rounds half to even, up": amount(Decimal("4e-12"), 3.5e-12),
    "amount double with 17 digits": amount(Decimal("0.3"), 0.1 + 0.2),
    "amount nan": amount("not_a_number", float("nan")),
    "amount infinite": amount("not_a_number", float("inf")),
    "amount minus infinite": amount("not_a_number", float("-inf")),
    "amount nan as text": amount("not_a_number", "nan"),
    "amount inf as text": amount("not_a_number", "inf"),
    "amount negative": amount("negative_number", "-1"),
    "amount negative and small": amount("negative_number", "-0.000000000001"),
    "amount negative int": amount("negative_number", -1),
    "amount int min": amount("negative_number", -(2**63)),
    "amount negative double": amount("negative_number", -0.5),
    "amount of letters": amount("not_a_number", "one"),
    "amount true": amount("not_a_number", True),
    "amount list": amount("not_a_number", [1, 2]),
    "amount empty": amount("not_a_number", ""),
    "amount bytes": amount("not_a_number", b"1"),
    "amount map": amount("not_a_number", {"a": 1}),
    "amount with comma": amount("not_a_number", "1,5"),
    "amount with two points": amount("not_a_number", "1.2.3"),
    "amount with two exponents": amount("not_a_number", "1e1e1"),
    "amount hexadecimal": amount("not_a_number", "0x10"),
    "amount with underscore": amount("not_a_number", "1_000"),
    "amount in other digits": amount("not_a_number", "٣"),
    "amount with spaces": amount("not_a_number", " 1"),
    "amount with newline": amount("not_a_number", "1\n"),
    "amount with NUL": amount("not_a_number", "1\0"),
    "amount with currency": amount("not_a_number", "$1"),
    "amount as SQL": amount("not_a_number", "1); DROP TABLE credit_usage_events; --"),
    "amount of a point": amount("not_a_number", "."),
    "amount of a sign": amount("not_a_number", "-"),
    "amount of an exponent": amount("not_a_number", "e5"),
}

QUANTITIES = {
    "quantity as text": priced(3, {UNITS + "x": "3"}),
    "quantity as double": priced(3, {UNITS + "x": 3.0}),
    "quantities of two units": priced(7, {UNITS + "x": 3, UNITS + "y": "4.0"}),
    "quantity zero": priced(0, {UNITS + "x": 0}),
    "quantity zero without a price": priced(0, {UNITS + "no_such_unit": 0}),
    "quantity negative": priced("negative_number", {UNITS + "x": -1}),
    "quantity huge": priced("number_out_of_range", {UNITS + "x": "1e16"}),
    "quantity with 13 decimals": priced("number_not_exact", {UNITS + "x": "0.0000000000005"}),
    "quantity empty": priced("not_a_number", {UNITS + "x": ""}),
    "quantity bytes": priced("not_a_number", {UNITS + "x": b"5"}),
    "quantity empty beside a good one": priced("not_a_number", {UNITS + "x": "", UNITS + "y": "5"}),
    "quantity empty beside a negative amount": odd("not_a_number", {AMOUNT: "-5", UNITS + "x": ""}),
    "quantity of letters beside an amount": odd("not_a_number", {UNITS + "x": "many"}),
    "quantity negative beside an amount": odd("negative_number", {UNITS + "x": "-1"}),
    "quantity with two points": priced("not_a_number", {UNITS + "x": "1.2.3"}),
    "quantity with a megabyte of a name": priced("unpriced", {UNITS + MEGABYTE: 1}),
}

TOKENS = {
    "tokens": priced(15, {INPUT: 10, OUTPUT: 5}),
    "tokens zero": priced(0, {INPUT: 0, OUTPUT: 0}),
    "tokens as text": priced(15, {INPUT: "10", OUTPUT: "5"}),
    "tokens as whole doubles": priced(15, {INPUT: 10.0, OUTPUT: 5.0}),
    "tokens of the largest": priced(10**12, {INPUT: 10**12}),
    "tokens cached": priced(15, {INPUT: 10, CACHE_READ: 4, CACHE_WRITE: 6, OUTPUT: 5}),
    "tokens of reasoning": priced(5, {OUTPUT: 5, REASONING: 4}),
    "tokens negative": priced("negative_number", {INPUT: -5}),
    "tokens int min": priced("negative_number", {OUTPUT: -(2**63)}),
    "tokens huge": priced("number_out_of_range", {INPUT: 2**63 - 1}),
    "tokens one too many": priced("number_out_of_range", {OUTPUT: 10**12 + 1}),
    "tokens huge as text": priced("number_out_of_range", {INPUT: "9" * 30}),
    "tokens huge as double": priced("number_out_of_range", {INPUT: 1e300}),
    "tokens nan": priced("not_a_number", {INPUT: float("nan")}),
    "tokens infinite": priced("not_a_number", {INPUT: float("inf")}),
    "tokens and a half": priced("number_not_exact", {INPUT: 10.5}),
    "tokens of letters": priced("not_a_number", {INPUT: "ten"}),
    "tokens true": priced("not_a_number", {INPUT: True}),
    "tokens list": priced("not_a_number", {INPUT: [10, 5]}),
    "tokens empty": priced("not_a_number", {INPUT: ""}),
    "tokens bytes": priced("not_a_number", {OUTPUT: b"10"}),
    "tokens wrong beside an amount": odd("not_a_number", {INPUT: "ten"}),
    "tokens more cached than there are": priced("tokens_inconsistent", {INPUT: 5, CACHE_READ: 6}),
    "tokens cached without input": priced("tokens_inconsistent", {CACHE_READ: 6}),
    "tokens unknown": priced("usage_unknown", {INPUT: 5, USAGE_UNKNOWN: True}),
}

SHAPES = {
    "description of a megabyte": odd(1, {DESCRIPTION: MEGABYTE}),
    "metadata of a megabyte": odd(1, {METADATA + "big": MEGABYTE}),
    "metadata key of a megabyte": odd(1, {METADATA + MEGABYTE: "x"}),
    "name of a megabyte": odd(1, name=MEGABYTE),
    "metadata of every type": odd(
        1,
        {
            METADATA + str(n): value
            for n, value in enumerate(("", 0, -1, 0.5, True, b"b", {"k": 1}, [1, [2, [3]]], [{"k": 1}], [], ["one"]))
        },
    ),
    "attribute without value": odd(1, {"some.attribute": b""}),
    "attribute without key": odd(1, {"": "value"}),
    "map of maps": odd(1, {"some.attribute": {"a": {"b": {"c": [1, {"d": b"x"}]}}}}),
    "ten thousand attributes": odd(1, {f"attribute.{n}": n for n in range(10_000)}),
    "a thousand units without price": priced("unpriced", {f"{UNITS}unit{n}": n for n in range(1_000)}),
    "kind 99": odd(1, kind=99),
    "kind -1": odd(1, kind=-1),
    "status 99": odd(1, status={"code": 99}),
    "status of error": odd(1, status={"code": 2, "message": "no"}),
    "dropped attributes": odd(1, dropped_attributes_count=2**32 - 1),
    "quotes everywhere": odd(
        1,
        {
            USER: "o'\"\\`\0\n;--{x}",
            ACTION: "a'\"\\`\0\n;--{x}",
            REQUEST_MODEL: "m'\"\\`\0\n;--{x}",
            DESCRIPTION: "'\0",
            RESOURCE_TYPE: "'\0",
        },
    ),
    "emoji everywhere": odd(1, {USER: "🦊", ACTION: "日本", REQUEST_MODEL: "ñ\u202e", USER_EMAIL: "🦊@例え.jp"}),
}

CASES = IDS | TIMES | WHO_AND_WHAT | AMOUNTS | QUANTITIES | TOKENS | SHAPES

DUPLICATE_ATTRIBUTES = [
    [(AMOUNT, "1"), (AMOUNT, "2")],
    [(AMOUNT, "1"), (AMOUNT, "1")],
    [(AMOUNT, "1"), (USER, "someone else")],
    [(AMOUNT, "1"), (ACTION, "another")],
    [("other", "1"), ("other", 2)],
]


@pytest.fixture(scope="module")
def fates(shared_chain: Chain) -> dict[str, Any]:
    """What became of each case, by its name: its charge or its reason. All cases are inserted at once."""
    shared_chain.command(
        "INSERT INTO credit_action_costs (unit, credits_per_unit, effective_from)"
        f" SELECT arrayJoin({list(PRICED_UNITS)}), 1, '1990-01-01'"
    )
    spans = [one for case, the in CASES.items() for one in (the.span(case), usage_span({RESOURCE_ID: "good"}))]
    shared_chain.send(traces(*spans))
    charged = shared_chain.rows("SELECT resource_id AS name, credits_charged AS fate FROM credit_usage_events")
    refused = shared_chain.rows(f"SELECT attributes['{RESOURCE_ID}'] AS name, reason AS fate FROM credit_quarantine")
    return {row["name"]: row["fate"] for row in charged + refused}


def test_all_at_once(fates: dict[str, Any], shared_chain: Chain) -> None:
    """A request full of odd spans is inserted, every good span between them is charged, and the sums agree."""
    (good,) = shared_chain.rows(
        "SELECT count() AS n, sum(credits_charged) AS credits FROM credit_usage_events WHERE resource_id = 'good'"
    )
    assert good == {"n": len(CASES), "credits": len(CASES)}
    shared_chain.assert_sums_agree()


@pytest.mark.parametrize("case", CASES)
def test_odd_span(fates: dict[str, Any], case: str) -> None:
    """An odd span is quarantined with the documented reason, or charged exactly what it says."""
    assert fates[case] == CASES[case].expected


@pytest.mark.parametrize("pairs", DUPLICATE_ATTRIBUTES, ids=str)
def test_duplicate_attribute(chain: Chain, pairs: list[tuple[str, Any]]) -> None:
    """An attribute that is there twice makes a span ambiguous: it is quarantined, whichever value comes first."""
    for several in (pairs, pairs[::-1]):
        chain.send(traces(usage_span(), span([(ACTION, "some_action"), (USER, "someone"), *several]), usage_span()))
    assert chain.reasons() == ["duplicate_attribute"] * 2
    assert chain.charges() == [Decimal(1)] * 4
    chain.assert_sums_agree()


def test_requests_without_content(chain: Chain) -> None:
    """Requests, resources and scopes that are empty or missing are no obstacle, and what they hold is charged."""
    bare = ExportTraceServiceRequest(resource_spans=[{"scope_spans": [{"spans": [usage_span()]}]}])
    hollow = ExportTraceServiceRequest(
        resource_spans=[{}, {"scope_spans": [{}]}, {"resource": {}, "scope_spans": [{"scope": {}}]}]
    )
    hollow.resource_spans.append(resource_spans([usage_span()], service=None))
    chain.send(ExportTraceServiceRequest(), bare, hollow, traces(), traces(usage_span()))
    assert chain.outcomes() == {"charged": 3}
    assert sorted(event["service_name"] for event in chain.events()) == ["", "", "test-service"]
    chain.assert_sums_agree()


def test_an_insert_of_nothing(chain: Chain) -> None:
    """An insert whose only request is empty changes nothing."""
    chain.send(ExportTraceServiceRequest())
    assert not chain.outcomes()


def test_the_quarantine_keeps_what_is_needed(fates: dict[str, Any], shared_chain: Chain) -> None:
    """A quarantined span keeps its ids as received, its times and the attributes of the conventions."""
    (row,) = shared_chain.rows(
        "SELECT hex(trace_id) AS trace_id, end_time_unix_nano, attributes, receiver, service_name, scope_name, name"
        f" FROM credit_quarantine WHERE attributes['{RESOURCE_ID}'] = 'trace id as hex text'"
    )
    assert bytes.fromhex(row["trace_id"]) == b"0af7651916cd43dd8448eb211c80319c"
    assert row["attributes"] == {
        ACTION: "some_action",
        USER: "someone",
        AMOUNT: "1",
        RESOURCE_ID: "trace id as hex text",
    }
    assert (row["end_time_unix_nano"], row["service_name"], row["scope_name"]) == (
        SOME_TIME_NS,
        "test-service",
        "tests",
    )
    assert row["receiver"] == shared_chain.spool.receiver


def test_texts_arrive_as_they_were_sent(fates: dict[str, Any], shared_chain: Chain) -> None:
    """Quotes, NUL, control characters and any language survive in every text of an event."""
    (event,) = shared_chain.rows("SELECT * FROM credit_usage_events WHERE resource_id = 'quotes everywhere'")
    attributes = CASES["quotes everywhere"].attributes
    assert [event[column] for column in ("user_id", "action_type", "model", "description", "resource_type")] == [
        attributes[name] for name in (USER, ACTION, REQUEST_MODEL, DESCRIPTION, RESOURCE_TYPE)
    ]
    (event,) = shared_chain.rows("SELECT * FROM credit_usage_events WHERE resource_id = 'emoji everywhere'")
    assert (event["user_id"], event["action_type"]) == ("🦊", "日本")
    assert shared_chain.rows("SELECT email FROM users WHERE id = '🦊'") == [{"email": "🦊@例え.jp"}]


def test_metadata_of_every_type(fates: dict[str, Any], shared_chain: Chain) -> None:
    """Metadata is kept as text; what has no text, a list of several values too, is empty."""
    (event,) = shared_chain.rows(
        "SELECT metadata FROM credit_usage_events WHERE resource_id = 'metadata of every type'"
    )
    texts = ["", "0", "-1", "0.5", "true", "", "", "", "", "", "one"]
    assert event["metadata"] == {str(number): text for number, text in enumerate(texts)}
