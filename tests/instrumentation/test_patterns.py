"""The calls of the hand-made module, as its users wrote them: only the import lines differ."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from uuid import UUID, uuid4

from otel_credits import (
    ActionType,
    flush,
    get_task_credit_cost,
    track_ai_usage,
    track_compute_usage,
    track_credits,
)
from support.otlp_sink import OtlpSink, SinkSpan

Configured = Callable[..., OtlpSink]


def received(sink: OtlpSink) -> list[SinkSpan]:
    """What has arrived, after a flush."""
    assert flush(60)
    return sink.spans()


async def test_1_streaming_endpoint(configured: Configured) -> None:
    """Tokens gathered from a stream's events are tracked inside the generator, after the stream ended."""
    sink = configured()
    current_user, session_id, model = SimpleNamespace(id=uuid4()), uuid4(), "claude-sonnet-4-5"
    events = [SimpleNamespace(input=137, output=0), SimpleNamespace(input=0, output=61)]

    async def generate() -> AsyncIterator[str]:
        input_tokens = output_tokens = 0
        for event in events:
            input_tokens += event.input
            output_tokens += event.output
            yield "text"
        await track_ai_usage(
            user_id=current_user.id,
            action_type=ActionType.AI_CHAT_MESSAGE,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            model=model,
            description="AI chat message",
            resource_id=str(session_id),
            resource_type="chat_session",
        )

    assert [text async for text in generate()] == ["text", "text"]
    (usage,) = received(sink)
    assert usage.attributes["user.id"] == str(current_user.id)
    assert usage.attributes["gen_ai.usage.input_tokens"] == 137
    assert usage.attributes["gen_ai.usage.output_tokens"] == 61
    assert usage.attributes["credits.resource_id"] == str(session_id)


async def test_2_task_with_a_predefined_cost(configured: Configured) -> None:
    """A workflow is charged its predefined cost, with await and, in a plain task, without."""
    sink = configured()
    user_id, workflow_id = str(uuid4()), "wf-1"

    async def task() -> None:
        await track_compute_usage(
            user_id=UUID(user_id),
            action_type=ActionType.WORKFLOW_EXECUTION,
            credits=get_task_credit_cost("workflow_execution"),
            description="Workflow execution",
            resource_id=workflow_id,
            resource_type="workflow",
        )

    def plain_task() -> None:
        track_compute_usage(
            user_id=UUID(user_id),
            action_type=ActionType.WORKFLOW_EXECUTION,
            credits=get_task_credit_cost("workflow_execution"),
        )

    await task()
    plain_task()
    assert [(u.attributes["user.id"], u.attributes["credits.amount"]) for u in received(sink)] == [
        (user_id, "0.001")
    ] * 2


async def test_3_sync_of_external_data(configured: Configured) -> None:
    """A sync is charged a float exactly, and its metadata arrives as numbers."""
    sink = configured()
    await track_compute_usage(
        user_id="u",
        action_type=ActionType.YOUTUBE_SYNC,
        credits=0.005,
        description="YouTube sync",
        metadata={"videos_synced": 50, "comments_synced": 200},
    )
    (usage,) = received(sink)
    assert usage.attributes["credits.amount"] == "0.005"
    assert usage.attributes["credits.metadata.videos_synced"] == 50
    assert usage.attributes["credits.metadata.comments_synced"] == 200


async def test_4_decorator(configured: Configured) -> None:
    """The decorator charges an async function that has a `user_id` argument."""
    sink = configured()

    @track_credits(action_type=ActionType.ANALYTICS_GENERATION, manual_credits=0.002, description="Analytics report")
    async def generate_report(user_id: UUID, period: str) -> str:
        return period

    user = uuid4()
    assert await generate_report(user, "week") == "week"
    assert await generate_report(period="month", user_id=user) == "month"
    assert [(u.attributes["user.id"], u.attributes["credits.amount"]) for u in received(sink)] == [
        (str(user), "0.002")
    ] * 2


async def test_5_positional_bulk_and_branch(configured: Configured) -> None:
    """Positional arguments work; a bulk operation is one usage; a branch that did not use the AI is none."""
    sink = configured()

    async def answer(comment: str) -> None:
        if comment.endswith("?"):
            await track_ai_usage("u", ActionType.AI_COMMENT_RESPONSE, 10, 20, "gpt-5-mini")

    await track_ai_usage("u", ActionType.AI_CHAT_MESSAGE, input_tokens=1, output_tokens=2, model="gpt-5-mini")
    await track_compute_usage("u", ActionType.BULK_OPERATION, credits=0.01, description="100 replies")
    await answer("why?")
    await answer("ok")
    assert [u.attributes["credits.action_type"] for u in received(sink)] == [
        "ai_chat_message",
        "bulk_operation",
        "ai_comment_response",
    ]
    assert sink.spans()[2].attributes["gen_ai.usage.output_tokens"] == 20
