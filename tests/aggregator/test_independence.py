"""The proof that two requests hold no copies of one usage, against what the chain makes of them."""

from __future__ import annotations

import random
import re
import uuid
from collections import defaultdict
from itertools import combinations

import pytest
from otel_credits_aggregator.independence import ALONE_NAMES, apart, identities_of, may_be_side_by_side, union
from otel_credits_aggregator.migrations import migrations, statements
from otel_credits_aggregator.otlp import Signal, item_count, parse
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Batch
from support.chain import STORED_TABLES, Chain
from support.otlp_build import KEY, METADATA, metric, metrics, point, span, traces, usage_span

pytest_plugins = ("support.chain",)

TRACE_IDS = [bytes([number]) * 16 for number in range(1, 9)] + [b"", bytes(16), b"\1" * 15, b"\1" * 8]
SPAN_IDS = [bytes([number]) * 8 for number in range(1, 9)] + [b"", bytes(8), b"\1" * 7]


def told(payload: bytes, signal: Signal = Signal.TRACES) -> frozenset[int] | None:
    """What the proof says of a batch that is this request."""
    return union([identities_of(signal, parse(signal, payload), payload)])


def field(number: int, value: bytes) -> bytes:
    """A protobuf field of bytes."""
    length = bytes([len(value)]) if len(value) < 128 else bytes([len(value) & 0x7F | 0x80, len(value) >> 7])
    return bytes([number << 3 | 2]) + length + value


def request_of(spans: list[bytes], service: str) -> bytes:
    """A request of encoded spans, each under a resource of its own."""
    (resource,) = traces(span(), service=service).resource_spans
    head = field(1, resource.resource.SerializeToString())
    return b"".join(field(1, head + field(2, field(2, one))) for one in spans)


def an_encoded_span(rng: random.Random) -> bytes:
    """A usage with ids of small pools, valid or not, sometimes with a key, sometimes with an id that is sent twice."""
    key = {KEY: rng.choice(["key-1", "key-2"])} if rng.random() < 0.1 else {}
    ids = {"trace_id": rng.choice(TRACE_IDS), "span_id": rng.choice(SPAN_IDS)}
    encoded = usage_span(key, name=rng.choice("ab"), **ids).SerializeToString()
    # Of a field that is sent twice the last one counts.
    again = rng.choice([field(1, TRACE_IDS[0]), field(2, SPAN_IDS[0])])
    return encoded + (again if rng.random() < 0.2 else b"")


@pytest.fixture
def judged(chain: Chain) -> Chain:
    """A chain that tells which service brought which identity."""
    columns = "service_name String, identity String, event_id UUID, trace_id String, span_id String"
    chain.command(f"CREATE TABLE IF NOT EXISTS seen ({columns}) ENGINE = Memory")
    chain.command(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS seen_mv TO seen AS SELECT service_name, identity, event_id, "
        "candidate.trace_id AS trace_id, candidate.span_id AS span_id FROM judged_usages AS j WHERE j.reason = ''"
    )
    return chain


@pytest.mark.parametrize("seed", range(4))
def test_what_is_told_apart_has_no_identity_in_common(judged: Chain, seed: int) -> None:
    """Of any two requests that may be inserted side by side the chain computes different identities, if they can be charged."""
    rng = random.Random(seed)
    judged.command("TRUNCATE TABLE seen")
    requests = [request_of([an_encoded_span(rng) for _ in range(rng.randint(1, 3))], f"service-{n}") for n in range(80)]
    items = [item_count(Signal.TRACES, parse(Signal.TRACES, payload)) for payload in requests]
    ids = [judged.spool.append(Signal.TRACES, *one).result() for one in zip(requests, items, strict=True)]
    judged.insert(Batch(str(uuid.uuid4()), Signal.TRACES, ids[0], ids[-1], b""))
    seen = defaultdict(set)
    for row in judged.rows("SELECT service_name, event_id FROM seen"):
        seen[row["service_name"]].add(row["event_id"])
    pairs = list(combinations([(seen[f"service-{n}"], told(payload)) for n, payload in enumerate(requests)], 2))
    shared = [(one, other) for (ids_of_one, one), (ids_of_other, other) in pairs if ids_of_one & ids_of_other]
    assert shared
    assert not any(apart(one, other) for one, other in shared)
    # The other way round, it holds up little beside that.
    held_up = sum(not apart(one, other) for (_, one), (_, other) in pairs if one is not None and other is not None)
    assert held_up < len(pairs) / 4


def test_requests_of_different_spans_are_apart() -> None:
    """Spans with ids of their own do not hold each other up, even of one trace; the same span does, and a key does."""
    one, sibling = usage_span(trace_id=TRACE_IDS[0]), usage_span(trace_id=TRACE_IDS[0])
    first, second = told(traces(one).SerializeToString()), told(traces(sibling).SerializeToString())
    assert apart(first, second)
    assert not apart(first, told(traces(usage_span(), one).SerializeToString()))
    keyed = told(traces(usage_span({KEY: "k"})).SerializeToString())
    assert keyed is None
    assert not apart(first, keyed)
    assert not apart(keyed, first)
    assert not apart(keyed, keyed)
    assert union([first, None]) is None
    # What is not known to be a name is taken for one.
    assert told(traces(usage_span({f"{METADATA}prompt": f"what is {KEY}?"})).SerializeToString()) is None


def test_data_points_are_never_side_by_side() -> None:
    """The series of a data point is known to the chain alone, so that its request is inserted alone."""
    assert told(metrics(metric(point(1))).SerializeToString(), Signal.METRICS) is None


def test_nothing_is_side_by_side_when_calls_are_recognised() -> None:
    """With OTEL_CREDITS_CHARGE_GENAI=on, or one lane, nothing is inserted side by side."""
    assert may_be_side_by_side(Settings(insert_lanes=2))
    assert not may_be_side_by_side(Settings(insert_lanes=2, charge_genai=True))
    assert not may_be_side_by_side(Settings(insert_lanes=1))


def chain_sql() -> list[str]:
    """The statements that make the chain's views."""
    found = [statement for migration in migrations() for statement in statements(migration.sql)]
    return [statement for statement in found if "MATERIALIZED VIEW" in statement]


def test_the_proof_knows_every_kind_of_identity() -> None:
    """An identity that the chain makes of anything new has to be thought of in independence.py, and here."""
    sql = "\n".join(chain_sql())
    (identity,) = re.findall(r"multiIf\(([^\n]*)\) AS identity,", sql)
    (event_id,) = re.findall(r"reinterpretAsUUID\(multiIf\(([^;]*?)\) AS event_id,", sql)
    assert set(re.findall(r"sipHash128\('(\w+)'", event_id)) == {"key", "response", "point", "span"}
    # A response id counts only with OTEL_CREDITS_CHARGE_GENAI=on, when nothing is side by side; a key always does.
    assert re.findall(r"([^,]+), '(\w+)',\s*", identity) == [
        ("idempotency_key != ''", "key"),
        ("candidate.charge_genai AND response_id != ''", "response"),
    ]
    (source,) = re.findall(r"attributes\['([^']+)'\] AS idempotency_key", sql)
    assert (source.encode(),) == ALONE_NAMES


def test_the_chain_looks_up_nothing_else_that_it_writes() -> None:
    """What one insert stores changes what another makes of a usage in the look for copies only."""
    looked_up = {
        table
        for statement in chain_sql()
        for table in re.findall(r"\b(?:FROM|JOIN)\s+(\w+)", statement.split(" AS\n", 1)[1])
        if table in STORED_TABLES
    }
    # Of user_profiles the newest row counts, so that it does no harm if two inserts add the same. Calls are recognised by
    # call_links with OTEL_CREDITS_CHARGE_GENAI=on only, when nothing is side by side.
    assert looked_up - {"call_links"} == {"event_ids_by_second", "event_ids_by_key", "user_profiles"}
