"""The tracking calls and what they put on the wire."""

from __future__ import annotations

import asyncio
import time
import uuid
import warnings
from collections.abc import Callable
from decimal import Decimal

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otel_credits import (
    ActionType,
    flush,
    get_task_credit_cost,
    set_task_credit_cost,
    stats,
    track_ai_usage,
    track_compute_usage,
    usage_context,
)
from support.otlp_sink import OtlpSink

Configured = Callable[..., OtlpSink]


def test_ai_usage_on_the_wire(configured: Configured) -> None:
    """Every argument of track_ai_usage arrives as the attribute that the conventions name."""
    sink = configured()
    user = uuid.uuid4()
    before_ns = time.time_ns()
    track_ai_usage(
        user_id=user,
        action_type=ActionType.AI_CHAT_MESSAGE,
        input_tokens=2697,
        output_tokens=61,
        model="claude-sonnet-4-5",
        description="AI chat message",
        resource_id=17,
        resource_type="chat_session",
        metadata={"plan": "pro", "tries": 2, "ratio": 0.5, "cached": True, "tags": ["a"], "none": None},
        idempotency_key="k-1",
        cache_read_tokens=2048,
        cache_write_tokens=512,
        reasoning_tokens=7,
        provider="anthropic",
        response_id="msg_01_the_first_one",
    )
    after_ns = time.time_ns()
    assert flush(60)
    (usage,) = sink.spans()
    assert usage.attributes == {
        "credits.action_type": "ai_chat_message",
        "user.id": str(user),
        "credits.description": "AI chat message",
        "credits.resource_id": "17",
        "credits.resource_type": "chat_session",
        "credits.idempotency_key": "k-1",
        "credits.metadata.plan": "pro",
        "credits.metadata.tries": 2,
        "credits.metadata.ratio": 0.5,
        "credits.metadata.cached": True,
        "credits.metadata.tags": '["a"]',
        "gen_ai.request.model": "claude-sonnet-4-5",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.response.id": "msg_01_the_first_one",
        "gen_ai.usage.input_tokens": 2697,
        "gen_ai.usage.output_tokens": 61,
        "gen_ai.usage.cache_read.input_tokens": 2048,
        "gen_ai.usage.cache_write.input_tokens": 512,
        "gen_ai.usage.reasoning.output_tokens": 7,
        "credits.seq": 1,
    }
    assert before_ns <= usage.end_ns <= after_ns
    assert usage.scope == "otel_credits"
    assert (len(usage.trace_id), len(usage.span_id)) == (32, 16)


def test_compute_usage_on_the_wire(configured: Configured) -> None:
    """Every argument of track_compute_usage arrives, the credits as a decimal string."""
    sink = configured()
    track_compute_usage(
        user_id=7,
        action_type="my_own_action",
        credits=0.005,
        description="a sync",
        resource_id="c-1",
        resource_type="channel",
        metadata={"videos_synced": 50, "comments_synced": 200},
        idempotency_key="k-2",
        response_id="chatcmpl-0001-of-the-llm",
    )
    assert flush(60)
    assert sink.spans()[0].attributes == {
        "credits.action_type": "my_own_action",
        "user.id": "7",
        "credits.amount": "0.005",
        "credits.description": "a sync",
        "credits.resource_id": "c-1",
        "credits.resource_type": "channel",
        "credits.idempotency_key": "k-2",
        "gen_ai.response.id": "chatcmpl-0001-of-the-llm",
        "credits.metadata.videos_synced": 50,
        "credits.metadata.comments_synced": 200,
        "credits.seq": 1,
    }


def test_compute_usage_without_credits(configured: Configured) -> None:
    """Without `credits` no amount is sent: the price book decides."""
    sink = configured()
    track_compute_usage("u", ActionType.WORKFLOW_EXECUTION)
    assert flush(60)
    assert sink.spans()[0].attributes == {"credits.action_type": "workflow_execution", "user.id": "u", "credits.seq": 1}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (0.005, "0.005"),
        (0.1 + 0.2, "0.3"),
        (1e-12, "0.000000000001"),
        (1e-13, "0"),
        (1e20, "100000000000000000000"),
        (Decimal("0.000000000001"), "0.000000000001"),
        (Decimal("1E+3"), "1000"),
        ("12.50", "12.5"),
        (3, "3"),
        (0, "0"),
    ],
)
def test_credits_are_exact(configured: Configured, given: object, sent: str) -> None:
    """A float counts as the decimal it prints as, rounded half-even to 12 places; the others are sent as they are."""
    sink = configured(strict=True)
    track_compute_usage("u", "a", credits=given)
    assert flush(60)
    assert sink.spans()[0].attributes["credits.amount"] == sent


@pytest.mark.parametrize(
    "credits",
    [
        -1,
        -0.1,
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        "0.0000000000001",
        Decimal("1e-13"),
        "a lot",
        "",
        True,
        [1],
        1e26,
    ],
)
def test_bad_credits(configured: Configured, caplog: pytest.LogCaptureFixture, credits: object) -> None:
    """Negative, infinite, too precise or non-numeric credits are logged once, counted, and never raised."""
    sink = configured()
    for _ in range(3):
        track_compute_usage("u", "a", credits=credits)
    assert flush(60)
    assert sink.spans() == []
    assert stats().failed_by_reason == {"bad_argument": 3}
    assert stats().recorded == 3
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


@pytest.mark.parametrize("tokens", [-1, 1.5, "12", True, 2**63])
def test_bad_tokens(configured: Configured, tokens: object) -> None:
    """A token count that is not an integer of 64 bits from zero up is counted as a bad argument."""
    configured()
    track_ai_usage("u", "a", input_tokens=tokens, output_tokens=1)
    assert stats().failed_by_reason == {"bad_argument": 1}


def test_strict_mode_raises(configured: Configured) -> None:
    """In strict mode a bad argument is raised, as ValueError and as TypeError."""
    configured(strict=True)
    with pytest.raises(ValueError, match="credits"):
        track_compute_usage("u", "a", credits=-1)
    with pytest.raises(TypeError, match="input_tokens"):
        track_ai_usage("u", "a", input_tokens="many")
    with pytest.raises(ValueError, match="user_id"):
        track_ai_usage(None, "a", input_tokens=1)
    with pytest.raises(ValueError, match="action_type"):
        track_ai_usage("u", None, input_tokens=1)


@pytest.mark.parametrize("user", [None, "", "  ", True, 1.5, object()])
def test_usage_without_a_user_does_not_vanish(configured: Configured, user: object) -> None:
    """A usage whose user is missing or no use is sent without one, for the aggregator to quarantine."""
    sink = configured()
    track_compute_usage(user, "a", credits=1)
    assert flush(60)
    assert sink.spans()[0].attributes == {"credits.action_type": "a", "credits.amount": "1", "credits.seq": 1}


def test_bad_metadata_does_not_cost_the_usage(configured: Configured) -> None:
    """Metadata that is no mapping is left out; the usage is recorded."""
    sink = configured()
    track_compute_usage("u", "a", credits=1, metadata=[1, 2])
    assert flush(60)
    assert sink.spans()[0].attributes["credits.amount"] == "1"


def test_unknown_tokens_are_not_zero(configured: Configured) -> None:
    """A model call without any token count is marked as unknown usage, not sent as a free one."""
    sink = configured()
    track_ai_usage("u", "a", model="m")
    track_ai_usage("u", "a", input_tokens=0, output_tokens=0, model="m")
    assert flush(60)
    first, second = sink.spans()
    assert first.attributes["credits.usage_unknown"] is True
    assert "credits.usage_unknown" not in second.attributes


def test_input_tokens_that_exclude_cached_ones(configured: Configured) -> None:
    """More cached tokens than input tokens proves a wrong input count: the usage is marked as unknown."""
    sink = configured()
    track_ai_usage("u", "a", input_tokens=137, output_tokens=61, cache_read_tokens=2048)
    assert flush(60)
    assert sink.spans()[0].attributes["credits.usage_unknown"] is True


async def test_await_is_optional(configured: Configured) -> None:
    """Each call has recorded before it returns; awaiting gives None, and not awaiting warns of nothing."""
    configured()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        track_ai_usage("u", "a", input_tokens=1)
        assert stats().recorded == 1
        assert await track_ai_usage("u", "a", input_tokens=1) is None
        assert await track_compute_usage("u", "a") is None
        await asyncio.create_task(track_compute_usage("u", "a"))
        await asyncio.gather(track_compute_usage("u", "a"), track_compute_usage("u", "a"))
    assert stats().recorded == 6


def test_asyncio_run(configured: Configured) -> None:
    """asyncio.run() takes a call's result, as plain tasks of the hand-made module did."""
    configured()
    assert asyncio.run(track_compute_usage("u", "a")) is None
    assert stats().recorded == 1


def test_usage_is_part_of_the_trace(configured: Configured) -> None:
    """A usage is a child of the current span, in its trace; without one it starts a trace of its own."""
    sink = configured()
    tracer = TracerProvider().get_tracer("app")
    with tracer.start_as_current_span("request") as span:
        track_compute_usage("u", "a")
    track_compute_usage("u", "a")
    assert flush(60)
    child, root = sink.spans()
    context = span.get_span_context()
    assert child.trace_id == trace.format_trace_id(context.trace_id)
    assert child.parent_span_id == trace.format_span_id(context.span_id)
    assert root.parent_span_id == ""
    assert root.trace_id != child.trace_id


def test_ids_do_not_follow_the_apps_random(configured: Configured) -> None:
    """An app that seeds Python's random twice alike does not get two usages with one identity."""
    import random

    sink = configured()
    for _ in range(2):
        random.seed(42)
        track_compute_usage("u", "a")
    assert flush(60)
    assert len({(span.trace_id, span.span_id) for span in sink.spans()}) == 2


def test_usage_context_fills_in(configured: Configured) -> None:
    """What a call leaves out comes from the usage contexts around it, the inner one first."""
    sink = configured()
    with usage_context("outer", action_type="a", resource_type="session", metadata={"x": 1}):
        track_compute_usage(credits=1)
        with usage_context("inner", resource_id=5, metadata={"y": 2}):
            track_compute_usage(credits=2)
        track_compute_usage("explicit", "b", credits=3)
    assert flush(60)
    first, second, third = (span.attributes for span in sink.spans())
    assert (first["user.id"], first["credits.action_type"], first["credits.metadata.x"]) == ("outer", "a", 1)
    assert (second["user.id"], second["credits.resource_id"], second["credits.resource_type"]) == (
        "inner",
        "5",
        "session",
    )
    assert (second["credits.metadata.x"], second["credits.metadata.y"]) == (1, 2)
    assert (third["user.id"], third["credits.action_type"]) == ("explicit", "b")
    assert context_api.get_current() == {}


def test_predefined_costs() -> None:
    """The predefined costs are exact decimals, can be overridden, and an unknown action is an error, not zero."""
    assert get_task_credit_cost("workflow_execution") == Decimal("0.001")
    assert get_task_credit_cost(ActionType.YOUTUBE_SYNC) == Decimal("0.005")
    assert get_task_credit_cost("analytics_generation") == Decimal("0.002")
    assert get_task_credit_cost("bulk_operation") == Decimal("0.01")
    set_task_credit_cost("workflow_execution", "0.25")
    assert get_task_credit_cost(ActionType.WORKFLOW_EXECUTION) == Decimal("0.25")
    with pytest.raises(KeyError, match="no credit cost"):
        get_task_credit_cost("never_heard_of")
    with pytest.raises(ValueError, match="negative"):
        set_task_credit_cost("a", -1)


def test_action_types() -> None:
    """The values of ActionType are the lower-case names, and each is a plain string."""
    assert [action.value for action in ActionType] == [name.lower() for name in ActionType.__members__]
    assert ActionType.AI_CHAT_MESSAGE == "ai_chat_message"


def test_recorded_is_logged(configured: Configured, caplog: pytest.LogCaptureFixture) -> None:
    """With debug logging on, a line says that a usage was recorded, and a later one that it was exported."""
    caplog.set_level("DEBUG", logger="otel_credits")
    configured()
    track_compute_usage("u", "my_action")
    assert flush(60)
    assert "recorded my_action" in caplog.text
    assert "exported 1 usages" in caplog.text
