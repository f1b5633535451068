"""A local server that speaks the wire formats of Anthropic's Messages API and OpenAI's Chat Completions and Responses
APIs, with and without SSE, and remembers what it really served.

    with LlmServer() as server:
        client = anthropic.Anthropic(api_key="x", base_url=server.url)

What the next answers use is set by `server.next = Usage(...)`; `server.served` lists each answer with its true usage.
`delay_s` is the pause between two events. Over HTTP, a request may choose its usage itself with the header
`x-llm-usage`, JSON of the fields of `Usage`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Event = tuple[str | None, dict[str, Any]]


@dataclass(frozen=True)
class Usage:
    """What an answer uses, in tokens. `input` excludes cached tokens, as Anthropic counts."""

    input: int = 137
    cache_read: int = 0
    cache_write: int = 0
    # Of what is written, how much lives an hour (Anthropic).
    cache_write_1h: int = 0
    output: int = 61
    reasoning: int = 0
    # The output count that Anthropic's message_start shows before anything is generated.
    placeholder: int = 4
    text_events: int = 5
    delay_s: float = 0.0
    # Break the connection off after this many text events.
    break_after: int | None = None
    # Answer with an error of the API instead.
    error_status: int | None = None
    # What the provider adds to the prompt of its own accord, beside `input` (Gemini: url_context; Anthropic: compaction).
    tool_use: int = 0
    # The service tier that the answer names.
    tier: str = ""
    # The function that the model asks to be called, in the place of an answer (Gemini).
    calls: str = ""

    @property
    def all_input(self) -> int:
        """Input tokens, cached ones included."""
        return self.input + self.cache_read + self.cache_write


@dataclass
class Served:
    """One answer: what it used, and how far it got."""

    id: str
    api: str
    model: str
    usage: Usage
    stream: bool
    completed: bool = False
    events_sent: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class LlmServer:
    """The server, on a free port of 127.0.0.1, in a thread of this process."""

    def __init__(self, port: int = 0, seed: int | None = None, *, unique_ids: bool = False) -> None:
        self.next = Usage()
        # Before that: what each of the next answers uses.
        self.script: list[Usage] = []
        self.unique_ids = unique_ids
        self.random = None if seed is None else random.Random(seed)
        self.served: list[Served] = []
        self.lock = threading.Lock()
        self.ids = itertools.count(1)
        self._http = _Server(("127.0.0.1", port), _Handler)
        self._http.llm = self

    @property
    def url(self) -> str:
        """Base URL for the Anthropic SDK; for OpenAI's, add `/v1`."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> LlmServer:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def serve_forever(self) -> None:
        """Serve in this thread (for running it as a program)."""
        self._http.serve_forever(0.05)

    def begin(self, api: str, body: dict[str, Any], headers: dict[str, str]) -> Served:
        """Decide what an answer uses, and remember it."""
        with self.lock:
            usage = self._choose(headers)
            number = uuid.uuid4().hex if self.unique_ids else f"{next(self.ids):08d}"
            model = str(body.get("model", "unknown"))
            served = Served(ID_PREFIXES[api] + number, api, model, usage, bool(body.get("stream")), headers=headers)
            self.served.append(served)
            return served

    def _choose(self, headers: dict[str, str]) -> Usage:
        if "x-llm-usage" in headers:
            return replace(self.next, **json.loads(headers["x-llm-usage"]))
        if self.script:
            return self.script.pop(0)
        if self.random is None:
            return self.next
        return replace(
            self.next,
            input=self.random.randint(1, 5000),
            output=self.random.randint(1, 3000),
            cache_read=self.random.choice((0, 0, 1024, 4096)),
            cache_write=self.random.choice((0, 0, 0, 2048)),
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    llm: LlmServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        if self.path == "/served":
            with self.server.llm.lock:
                self._json(200, [asdict(served) for served in self.server.llm.served])
        else:
            self._json(200, {"ok": True})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        path = self.path.split("?")[0]
        api = PATHS.get(path)
        if api is None:
            self._json(404, {"error": {"type": "not_found_error", "message": self.path}})
            return
        body |= TOLD_BY_PATH.get(path, {})
        served = self.server.llm.begin(api, body, {k.lower(): v for k, v in self.headers.items()})
        if served.usage.error_status is not None:
            self._json(
                served.usage.error_status, {"type": "error", "error": {"type": "api_error", "message": "told to"}}
            )
        elif served.stream:
            self._stream(served, EVENTS[api](served, body))
        else:
            self._json(200, WHOLE[api](served))
            served.completed = True

    def _json(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, served: Served, events: Iterator[Event]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for name, data in events:
            if data.get("break"):
                self._break_off()
                return
            self._chunk((f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n")
            served.events_sent += 1
            time.sleep(served.usage.delay_s)
        if served.api not in WITHOUT_DONE:
            self._chunk("data: [DONE]\n\n")
        served.completed = True
        self._chunk("")

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _break_off(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def _broken(served: Served, number: int) -> bool:
    return served.usage.break_after is not None and number >= served.usage.break_after


def _tier(usage: Usage) -> dict[str, Any]:
    return {"service_tier": usage.tier} if usage.tier else {}


def _anthropic_input(usage: Usage) -> dict[str, Any]:
    lifetimes = {
        "ephemeral_5m_input_tokens": usage.cache_write - usage.cache_write_1h,
        "ephemeral_1h_input_tokens": usage.cache_write_1h,
    }
    return {
        "input_tokens": usage.input,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write,
        **({"cache_creation": lifetimes} if usage.cache_write_1h else {}),
        **_tier(usage),
    }


def _anthropic_events(served: Served, body: dict[str, Any]) -> Iterator[Event]:
    usage = served.usage
    start = {
        "id": served.id,
        "type": "message",
        "role": "assistant",
        "model": served.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**_anthropic_input(usage), "output_tokens": usage.placeholder},
    }
    yield "message_start", {"type": "message_start", "message": start}
    block = {"type": "text", "text": ""}
    yield "content_block_start", {"type": "content_block_start", "index": 0, "content_block": block}
    for number in range(usage.text_events):
        if _broken(served, number):
            yield None, {"break": True}
        delta = {"type": "text_delta", "text": f"word{number} "}
        yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}
    yield "content_block_stop", {"type": "content_block_stop", "index": 0}
    # Two deltas: the count is cumulative, and the first one is not to be added to the second.
    for output in (usage.output // 2, usage.output):
        yield (
            "message_delta",
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": output},
            },
        )
    yield "message_stop", {"type": "message_stop"}


def _anthropic_whole(served: Served) -> dict[str, Any]:
    return {
        "id": served.id,
        "type": "message",
        "role": "assistant",
        "model": served.model,
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {**_anthropic_input(served.usage), "output_tokens": served.usage.output},
    }


def _chat_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.all_input,
        "completion_tokens": usage.output,
        "total_tokens": usage.all_input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def _chat_events(served: Served, body: dict[str, Any]) -> Iterator[Event]:
    base = {"id": served.id, "object": "chat.completion.chunk", "created": 1, "model": served.model}
    base |= _tier(served.usage)
    include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    for number in range(served.usage.text_events):
        if _broken(served, number):
            yield None, {"break": True}
        choice = {"index": 0, "delta": {"role": "assistant", "content": f"word{number} "}, "finish_reason": None}
        yield None, {**base, "choices": [choice]}
    yield None, {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    if include_usage:
        yield None, {**base, "choices": [], "usage": _chat_usage(served.usage)}


def _chat_whole(served: Served) -> dict[str, Any]:
    message = {"role": "assistant", "content": "hello"}
    return {
        "id": served.id,
        "object": "chat.completion",
        "created": 1,
        "model": served.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _chat_usage(served.usage),
        **_tier(served.usage),
    }


def _response(served: Served, status: str, with_usage: bool) -> dict[str, Any]:
    usage = served.usage
    reported = {
        "input_tokens": usage.all_input,
        "input_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.all_input + usage.output,
    }
    content = [{"type": "output_text", "text": "hello", "annotations": []}]
    message = {"id": "item_1", "type": "message", "role": "assistant", "status": "completed", "content": content}
    return {
        "id": served.id,
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": served.model,
        "output": [message] if with_usage else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": reported if with_usage else None,
        **_tier(usage),
    }


def _responses_events(served: Served, body: dict[str, Any]) -> Iterator[Event]:
    numbers = itertools.count()

    def event(kind: str, **fields: Any) -> Event:
        return kind, {"type": kind, "sequence_number": next(numbers), **fields}

    yield event("response.created", response=_response(served, "in_progress", False))
    item = {"id": "item_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    place = {"item_id": "item_1", "output_index": 0, "content_index": 0}
    yield event("response.output_item.added", output_index=0, item=item)
    yield event("response.content_part.added", part=part, **place)
    for number in range(served.usage.text_events):
        if _broken(served, number):
            yield None, {"break": True}
        yield event("response.output_text.delta", delta=f"word{number} ", logprobs=[], **place)
    yield event("response.completed", response=_response(served, "completed", True))


# What is spoken, by the path of a request. The recorder of tests/recordings adds to these tables.
PATHS = {"/v1/messages": "messages", "/v1/chat/completions": "chat", "/v1/responses": "responses"}
ID_PREFIXES = {"messages": "msg_", "chat": "chatcmpl_", "responses": "resp_"}
# What some APIs have in the path where others have it in the body.
TOLD_BY_PATH: dict[str, dict[str, Any]] = {}
# Streams that do not end with OpenAI's last word.
WITHOUT_DONE = {"messages"}
EVENTS: dict[str, Callable[[Served, dict[str, Any]], Iterator[Event]]] = {
    "messages": _anthropic_events,
    "chat": _chat_events,
    "responses": _responses_events,
}
WHOLE: dict[str, Callable[[Served], dict[str, Any]]] = {
    "messages": _anthropic_whole,
    "chat": _chat_whole,
    "responses": lambda served: _response(served, "completed", True),
}


def main() -> None:
    """Run as a program: `python llm_server.py --port N [--seed N] [--delay S]`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds between two events")
    options = parser.parse_args()
    server = LlmServer(options.port, options.seed)
    server.next = Usage(delay_s=options.delay)
    server.serve_forever()


if __name__ == "__main__":
    main()
