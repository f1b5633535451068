"""The model server of the examples: what the official SDK reads from it is what it says it served."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from support import plain_http
from support.processes import Process, free_port, wait_until
from support.samples import others_long

SERVER = Path(__file__).parents[2] / "examples" / "llm_server.py"
MODEL = "claude-haiku-4-5"
CACHED_SYSTEM = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
READY_TIMEOUT_S = 30.0


class ModelServer(Process):
    """The model server on a free port; with ``upstream``, the proxy in front of another one."""

    def __init__(self, log_dir: Path, name: str, upstream: str | None = None) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        env = {"ANTHROPIC_API_KEY": "a-key", "ANTHROPIC_UPSTREAM_URL": upstream} if upstream else {}
        super().__init__(name, [sys.executable, str(SERVER), "--port", str(port)], log_dir=log_dir, env=env)

    def served(self) -> list[dict[str, Any]]:
        """Return its record."""
        rows: list[dict[str, Any]] = plain_http.get(f"{self.url}/_served").json()
        return rows

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            return plain_http.get(f"{self.url}/_served").is_success
        except httpx.HTTPError:
            return False


@pytest.fixture(params=others_long(["direct", "proxied"], short={"direct"}))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModelServer]:
    """The model server, and the proxy that stands before the real API (here before a model server)."""
    with ModelServer(tmp_path, "model-server") as direct:
        direct.wait_for(direct.is_up, READY_TIMEOUT_S, "the model server answers")
        if request.param == "direct":
            yield direct
            return
        with ModelServer(tmp_path, "proxy", upstream=direct.url) as proxy:
            proxy.wait_for(proxy.is_up, READY_TIMEOUT_S, "the proxy answers")
            yield proxy


@pytest.fixture
def client(server: ModelServer) -> Iterator[anthropic.Anthropic]:
    """The official SDK, pointed at the server."""
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0) as sdk:
        yield sdk


def ask(text: str, *, user_id: str = "u-1", caching: bool = True) -> dict[str, Any]:
    """Return the arguments of a request."""
    messages = [{"role": "user", "content": text}]
    more = {"system": CACHED_SYSTEM} if caching else {}
    return {"model": MODEL, "max_tokens": 200, "messages": messages, "metadata": {"user_id": user_id}, **more}


def figures(message: anthropic.types.Message) -> dict[str, Any]:
    """Return what the SDK says was used, in the words of the server's record."""
    usage = message.usage
    return {
        "message_id": message.id,
        "model": message.model,
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": usage.cache_read_input_tokens,
        "cache_write_tokens": usage.cache_creation_input_tokens,
        "output_tokens": usage.output_tokens,
    }


@pytest.mark.parametrize("streamed", [False, True])
def test_the_sdk_reads_what_was_served(server: ModelServer, client: anthropic.Anthropic, streamed: bool) -> None:
    """Id, model and every figure that the official SDK reads equal the record, streamed or not, with the user."""
    for number in range(8):
        if streamed:
            with client.messages.stream(**ask(f"Question {number}")) as stream:
                message = stream.get_final_message()
        else:
            message = client.messages.create(**ask(f"Question {number}"))
        assert server.served()[-1] == figures(message) | {"user_id": "u-1", "status": "completed"}
        assert message.stop_reason == "end_turn"
    assert any(row["cache_read_tokens"] for row in server.served())


def test_a_hang_up_is_noticed_and_recorded(server: ModelServer, client: anthropic.Anthropic) -> None:
    """A client that leaves a long answer is recorded as aborted, with the last figures that were on the wire."""
    for number in range(6):
        stream = client.messages.create(**ask(f"LONG_ANSWER {number}"), stream=True)
        seen: dict[str, int] = {}
        texts = 0
        for event in stream:
            if event.type == "message_start":
                seen = {"input_tokens": event.message.usage.input_tokens}
                seen["output_tokens"] = event.message.usage.output_tokens
            elif event.type == "message_delta":
                seen["output_tokens"] = event.usage.output_tokens
            texts += event.type == "content_block_delta"
            if texts == 6:
                break
        stream.close()
        wait_until(lambda: server.served()[-1]["status"] == "aborted", 10, "the hang-up is noticed")
        assert server.served()[-1].items() >= seen.items()


def test_the_same_question_costs_the_same(server: ModelServer, client: anthropic.Anthropic) -> None:
    """Usage depends on seed, user and prompt only; without cache_control there are no cached tokens."""
    questions = [ask("Hello", caching=False), ask("Hello", caching=False), ask("Hello", user_id="u-2", caching=False)]
    answers = [figures(client.messages.create(**question)) for question in questions]
    for answer in answers:
        del answer["message_id"]
    assert answers[0] == answers[1] != answers[2]
    assert answers[0]["cache_read_tokens"] == answers[0]["cache_write_tokens"] == 0


def test_a_wrong_request_is_refused_as_the_api_does(server: ModelServer, client: anthropic.Anthropic) -> None:
    """A request without a model raises the SDK's BadRequestError, and nothing is served."""
    with pytest.raises(anthropic.BadRequestError, match="model"):
        client.messages.create(**(ask("Hello") | {"model": ""}))
    assert server.served() == []
