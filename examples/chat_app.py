"""A chat app that sells credits: FastAPI, the official Anthropic SDK, and otel-credits in the ways apps use it.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 uvicorn chat_app:app --app-dir examples

Every endpoint is one pattern of the README. Who is signed in comes from the ``X-User-Id`` header, which stands for the
session or token of a real app (a real one must verify it: whoever may choose this value chooses who pays).
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

import tasks
from anthropic import AsyncAnthropic
from anthropic.types import MessageParam, MetadataParam, RawMessageStreamEvent, TextBlockParam
from fastapi import Depends, FastAPI, Header
from fastapi.responses import StreamingResponse
from otel_credits import (
    ActionType,
    configure,
    track_ai_usage,
    track_compute_usage,
    track_credits,
    track_stream,
)
from otel_credits.fastapi import instrument_fastapi
from pydantic import BaseModel, Field
from tracing import set_up_tracing

DEFAULT_MODEL = os.environ.get("CHAT_MODEL", "claude-sonnet-5-5")
ANSWER_TOKENS_MAX = int(os.environ.get("CHAT_ANSWER_TOKENS_MAX", "700"))
HOUSE_RULES: list[TextBlockParam] = [
    {"type": "text", "text": "Be brief, unless asked not to be.", "cache_control": {"type": "ephemeral"}}
]

set_up_tracing()
configure()
app = FastAPI(title="chat app")
# The second argument is for usage that names nobody: the spans of an LLM SDK, say, where they are charged.
instrument_fastapi(app, user="header:x-user-id")
# The address and the key come from ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY.
anthropic = AsyncAnthropic()


@dataclass(frozen=True)
class User:
    """Who is signed in."""

    id: UUID


def signed_in_user(x_user_id: Annotated[UUID, Header()]) -> User:
    """Return the user of this request."""
    return User(x_user_id)


CurrentUser = Annotated[User, Depends(signed_in_user)]


class Ask(BaseModel):
    """A message of the user to the model."""

    message: str
    model: str = DEFAULT_MODEL
    session_id: UUID = Field(default_factory=uuid4)


class ModelRequest(TypedDict):
    """The part of a request to the Messages API that all endpoints have in common."""

    model: str
    max_tokens: int
    messages: list[MessageParam]
    metadata: MetadataParam


def model_request(ask: Ask, user: User) -> ModelRequest:
    """Return what the model is asked, and on whose behalf."""
    return {
        "model": ask.model,
        "max_tokens": ANSWER_TOKENS_MAX,
        "messages": [{"role": "user", "content": ask.message}],
        "metadata": {"user_id": str(user.id)},
    }


def text_of(event: RawMessageStreamEvent) -> str:
    """Return the text that an event of the stream carries, if it does."""
    if event.type == "content_block_delta" and event.delta.type == "text_delta":
        return event.delta.text
    return ""


def server_sent(text: str) -> str:
    """Encode a piece of the answer for the browser."""
    return f"data: {json.dumps({'text': text})}\n\n"


@app.post("/chat/tracked-after-stream")
async def chat_tracked_after_stream(ask: Ask, current_user: CurrentUser) -> StreamingResponse:
    """Pattern 1: the tokens are gathered from the events and tracked when the stream is over."""
    session_id = ask.session_id
    model = ask.model

    async def generate() -> AsyncIterator[str]:
        input_tokens = output_tokens = 0
        stream = await anthropic.messages.create(**model_request(ask, current_user), stream=True)
        async for event in stream:
            if event.type == "message_start":
                input_tokens = event.message.usage.input_tokens
            elif event.type == "message_delta":
                output_tokens = event.usage.output_tokens
            if text := text_of(event):
                yield server_sent(text)
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

    return StreamingResponse(generate(), media_type="text/event-stream")


@app.post("/chat")
async def chat(ask: Ask, current_user: CurrentUser) -> StreamingResponse:
    """The same, better: the stream is tracked itself, so a reader who leaves in the middle is charged for what came."""

    async def generate() -> AsyncIterator[str]:
        stream = await anthropic.messages.create(**model_request(ask, current_user), system=HOUSE_RULES, stream=True)
        tracked = track_stream(
            stream,
            user_id=current_user.id,
            action_type=ActionType.AI_CHAT_MESSAGE,
            description="AI chat message",
            resource_id=str(ask.session_id),
            resource_type="chat_session",
        )
        async for event in tracked:
            if text := text_of(event):
                yield server_sent(text)

    return StreamingResponse(generate(), media_type="text/event-stream")


@app.post("/chat/fails-afterwards")
async def chat_fails_afterwards(ask: Ask, current_user: CurrentUser) -> dict[str, str]:
    """A handler that raises after tracking: the answer was used, so it is charged, although the user sees an error."""
    answer = await anthropic.messages.create(**model_request(ask, current_user))
    await track_ai_usage(
        current_user.id,
        ActionType.AI_CHAT_MESSAGE,
        input_tokens=answer.usage.input_tokens,
        output_tokens=answer.usage.output_tokens,
        model=answer.model,
        description="AI chat message",
    )
    raise RuntimeError("the database of this example is never there")


@app.post("/comments/reply")
async def reply_to_comment(ask: Ask, current_user: CurrentUser) -> dict[str, Any]:
    """Pattern 5: positional arguments, and a call only on the branch that used the model."""
    if "?" not in ask.message:
        return {"reply": "Thank you!", "ai": False}
    user_id = current_user.id
    answer = await anthropic.messages.create(**model_request(ask, current_user))
    await track_ai_usage(
        user_id,
        ActionType.AI_COMMENT_RESPONSE,
        input_tokens=answer.usage.input_tokens,
        output_tokens=answer.usage.output_tokens,
        model=answer.model,
    )
    reply = "".join(block.text for block in answer.content if block.type == "text")
    return {"reply": reply, "ai": True}


@app.post("/comments/moderate")
async def moderate_comments(comments: list[str], current_user: CurrentUser) -> dict[str, int]:
    """Pattern 5: one call for a bulk operation, however many things it worked on."""
    await track_compute_usage(
        current_user.id,
        ActionType.BULK_OPERATION,
        credits=0.01,
        description="Moderated comments",
        metadata={"comments": len(comments)},
    )
    return {"moderated": len(comments)}


@app.post("/channel/sync")
async def sync_channel(current_user: CurrentUser) -> dict[str, int]:
    """Pattern 3: a sync of external data with metadata that can be queried in the ledger."""
    synced = {"videos_synced": 50, "comments_synced": 200}
    await track_compute_usage(
        user_id=current_user.id,
        action_type=ActionType.YOUTUBE_SYNC,
        credits=0.005,
        description="YouTube sync",
        metadata=synced,
    )
    return synced


@track_credits(action_type=ActionType.ANALYTICS_GENERATION, manual_credits=0.002, description="Analytics report")
async def generate_analytics(user_id: UUID, days: int) -> dict[str, Any]:
    """Pattern 4: the decorator finds ``user_id`` among the arguments and tracks when the function is done."""
    return {"user_id": str(user_id), "days": days, "views": 1000 * days}


@app.get("/analytics")
async def analytics(current_user: CurrentUser, days: int = 7) -> dict[str, Any]:
    """Return a report; generating it costs credits."""
    return await generate_analytics(user_id=current_user.id, days=days)


@app.post("/workflows", status_code=202)
def start_workflow(current_user: CurrentUser, style: str = "plain") -> dict[str, str]:
    """Pattern 2 happens in the Celery worker, in a plain task or in one that awaits; see ``tasks.py``."""
    workflow_id = f"workflow-{uuid4()}"
    task = tasks.run_workflow_async if style == "async" else tasks.run_workflow
    task.delay(str(current_user.id), workflow_id)
    return {"workflow_id": workflow_id}


@app.get("/healthz")
def healthz() -> dict[str, str]:
    """Answer when the app serves requests."""
    return {"status": "ok"}
