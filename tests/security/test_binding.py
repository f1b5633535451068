"""An ingest token that is bound to services or actions charges for nothing else, and what it tries is kept."""

from __future__ import annotations

from decimal import Decimal

import pytest
from otel_credits_aggregator.batch_insert import quarantine_raw
from otel_credits_aggregator.envelope import allowed, binding_fields
from otel_credits_aggregator.ledger import LocalLedger
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.replay import quarantined_ids, replay_batch, run_replay
from otel_credits_aggregator.spool import Spool
from support.chain import Chain
from support.otlp_build import ACTION, AMOUNT, USER, metric, metrics, point, traces, usage_span

CHAT = binding_fields(["chat-app"], [])
RENDER = binding_fields([], ["render", "export"])
BOTH = binding_fields(["chat-app"], ["render"])


def usages(service: str, *actions: str, user: str = "u") -> object:
    """A request of a service with one usage of a credit for each action."""
    return traces(*(usage_span({ACTION: action, USER: user, AMOUNT: "1"}) for action in actions), service=service)


@pytest.mark.parametrize(
    ("binding", "service", "charged", "refused"),
    [
        (b"", "anything", ["render", "chat"], []),
        (CHAT, "chat-app", ["render", "chat"], []),
        (CHAT, "billing", [], ["render", "chat"]),
        (CHAT, "", [], ["render", "chat"]),
        (CHAT, "chat-app ", [], ["render", "chat"]),
        (CHAT, "Chat-App", [], ["render", "chat"]),
        (RENDER, "anything", ["export", "render"], ["chat", ""]),
        (BOTH, "chat-app", ["render"], ["export"]),
        (BOTH, "billing", [], ["render"]),
    ],
)
def test_usage_outside_the_binding_is_quarantined(
    chain: Chain, binding: bytes, service: str, charged: list[str], refused: list[str]
) -> None:
    """What the token may not charge for is quarantined as not_allowed; what it may, in the same request, is charged."""
    chain.send(usages(service, *charged, *refused), binding=binding)
    assert sorted(event["action_type"] for event in chain.events()) == sorted(charged)
    assert chain.reasons() == ["not_allowed"] * len(refused)
    chain.assert_sums_agree()


def test_each_request_of_a_batch_keeps_its_own_binding(chain: Chain) -> None:
    """Requests of different tokens share an insert, and each is held to its own token."""
    requests = [usages("chat-app", "a"), usages("chat-app", "a"), usages("chat-app", "a"), usages("billing", "a")]
    chain.send(*requests, binding=[b"", CHAT, RENDER, CHAT])
    assert chain.charges() == [Decimal(1), Decimal(1)]
    assert chain.reasons() == ["not_allowed", "not_allowed"]
    chain.assert_sums_agree()


def test_data_points_are_bound_too(chain: Chain) -> None:
    """A counter of another service or action is refused as a span is."""
    chain.send(metrics(metric(point(1))), binding=CHAT)
    assert chain.reasons() == ["not_allowed"]
    assert chain.events() == []


def test_a_copy_that_was_not_allowed_does_not_hold_the_usage_up(chain: Chain) -> None:
    """Whoever sends another app's span with a token that may not does not keep the app from charging it."""
    span = usages("billing", "a")
    chain.send(span, span, binding=[CHAT, b""])
    assert chain.charges() == [Decimal(1)]
    other = usages("billing", "b")
    chain.send(other, binding=CHAT)
    chain.send(other)
    assert chain.charges() == [Decimal(1), Decimal(1)]


def test_a_replay_stays_refused(chain: Chain) -> None:
    """The binding is kept with the quarantined row, so that a replay does not charge what the token might not."""
    chain.send(usages("billing", "a"), binding=BOTH)
    for _ in range(2):
        ids = quarantined_ids(chain.client, chain.spool.receiver)
        assert len(ids) == 1
        run_replay(chain.client, replay_batch(ids))
        assert (chain.reasons(), chain.events()) == (["not_allowed"], [])
    (row,) = chain.rows("SELECT allowed_services, allowed_actions FROM credit_quarantine")
    assert row == {"allowed_services": ["chat-app"], "allowed_actions": ["render"]}
    chain.assert_sums_agree()


@pytest.mark.parametrize(
    ("services", "actions"), [([], []), (["chat-app"], []), (["a", "ü" * 200], ["render", "x" * 20_000])]
)
def test_a_binding_is_read_as_it_was_written(services: list[str], actions: list[str]) -> None:
    """What a token allows is the same after it was kept as bytes."""
    assert allowed(binding_fields(services, actions)) == (services, actions)


def test_a_request_that_is_kept_raw_stays_bound(chain: Chain) -> None:
    """A request that the store refused keeps its sender's binding, and is given out with it."""
    for binding in (BOTH, b""):
        batch = chain.compose(usages("billing", "a"), binding=binding)
        quarantine_raw(chain.client, chain.spool, batch, ValueError("refused"))
        chain.spool.forget(batch)
    (database,) = chain.rows("SELECT currentDatabase() AS name")
    with LocalLedger(f"chdb://memory/{database['name']}") as ledger:
        kept = [ledger.quarantined_request(row.quarantine_id) for row in ledger.quarantined_requests()]
    assert [(request.allowed_services, request.allowed_actions) for request in kept] == [
        (("chat-app",), ("render",)),
        ((), ()),
    ]


def test_the_binding_is_durable(tmp_path: object) -> None:
    """A request that waits in the spool has its binding after a restart."""
    path = tmp_path / "spool.sqlite"  # type: ignore[operator]
    with Spool(path, 1 << 20, 1.0) as spool:
        spool.append(Signal.TRACES, b"x", 1, BOTH).result()
        spool.append(Signal.TRACES, b"y", 1).result()
    with Spool(path, 1 << 20, 1.0) as spool:
        from otel_credits_aggregator.spool import Batch

        first, last = (request.id for request in spool.waiting)
        bindings = [request.binding for request in spool.payloads(Batch("b", Signal.TRACES, first, last, b""))]
    assert bindings == [BOTH, b""]
