"""A script that asks OpenAI under an instrumentation and tracks each call itself, too. Run by test_tracked_calls.py.

It says the response id of every call, and tracks in the places where nothing else would tell: after the call's trace has
ended, in another thread, before the span was sent or after.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from otel_credits import flush, track_ai_usage, track_compute_usage, track_stream, usage_context

client = openai.OpenAI(api_key="x", base_url=os.environ["LLM_URL"] + "/v1", max_retries=0)
CHAT: dict[str, Any] = {"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}]}
ACTION = "chat_message"


def ask(user: str) -> Any:
    """A call whose span is the root of a trace of its own."""
    with usage_context(user_id=user):
        return client.chat.completions.create(**CHAT)


def track(user: str, answer: Any) -> None:
    """What an app writes after a call."""
    usage = answer.usage
    track_ai_usage(
        user,
        ACTION,
        usage.prompt_tokens,
        usage.completion_tokens,
        answer.model,
        cache_read_tokens=usage.prompt_tokens_details.cached_tokens,
        response_id=answer.id,
    )


def main() -> None:
    """One call of each user."""
    track("at-once", ask("at-once"))
    late = ask("late")
    flush(60)
    track("late", late)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(track, "thread", ask("thread")).result()
    track_compute_usage("amount", ACTION, credits="0.5", response_id=ask("amount").id)
    with usage_context(user_id="stream", action_type=ACTION):
        chunks = client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
        for _ in track_stream(chunks):
            pass
    if not flush(60):
        sys.exit("not everything was acknowledged")


if __name__ == "__main__":
    main()
