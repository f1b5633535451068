"""The recordings of both indexes in one form: what was served, call by call, and which conventions tell of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.more_recordings import CASES, FOLDER, spans_of
from support.provider_bills import Served

# A scope, the first version of the row, the provider of the row: what names a row of credit_conventions.
Convention = tuple[str, str, str]
_LLM_PREFIXES = ("gen_ai.", "llm.", "openinference.")
_PROVIDER_ATTRIBUTES = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")
_SNAPSHOT = re.compile(r"-20\d\d-?\d\d-?\d\d$")


@dataclass(frozen=True)
class Golden:
    """A recording of calls that all completed."""

    case: str
    calls: tuple[Served, ...]
    streams: bool
    embeddings: bool
    requests: tuple[bytes, ...]

    def spoken_for(self) -> set[tuple[str, str, str]]:
        """Scope, version and provider of its spans that say anything of an LLM."""
        return {found for request in self.requests for found in _told_by(request)}

    def features(self) -> set[str]:
        """What its calls use that is counted or priced in a way of its own."""
        found = {"stream"} if self.streams else set()
        for call in self.calls:
            counts = vars(call)
            found |= {name for name, number in counts.items() if isinstance(number, int) and number}
            found |= {call.tier} - {"standard"}
        return (found - {"output", "input"}) | ({"embeddings"} if self.embeddings else {"plain"})


def golden_cases() -> Iterator[Golden]:
    """Every recording with completed calls and something that was sent of them."""
    yield from _of_the_first_index()
    for case, entry in CASES.items():
        payload = spans_of(case)
        if payload is not None and entry["calls"] and all(call.get("completed") for call in entry["calls"]):
            yield _golden(case, entry["calls"], map(_served_later, entry["calls"]), [payload])


def _of_the_first_index() -> Iterator[Golden]:
    folder = FOLDER.parent
    for entry in json.loads((folder / "index.json").read_text("utf-8"))["cases"]:
        calls = entry["true_usage"]["calls"]
        files = [file["path"] for file in entry["files"] if file["signal"] == "traces"]
        if calls and files and all(call["completed"] for call in calls):
            payloads = [(folder / path).read_bytes() for path in files]
            yield _golden(entry["id"], calls, map(_served_first, calls), payloads)


def _golden(case: str, calls: list[dict[str, Any]], served: Iterable[Served], requests: list[bytes]) -> Golden:
    embeddings = any(call["api"] in ("embeddings", "embedContent") for call in calls)
    return Golden(case, tuple(served), any(call.get("stream") for call in calls), embeddings, tuple(requests))


def _served_first(call: Mapping[str, Any]) -> Served:
    return Served(
        provider=call["provider"],
        model=_SNAPSHOT.sub("", call["response_model"]),
        input=call["input_uncached"],
        cache_read=call["cache_read"],
        write_5m=call["cache_write"],
        output=call["output_total"] or 0,
        reasoning=call["reasoning_in_output"] or 0,
    )


def _served_later(call: Mapping[str, Any]) -> Served:
    audio = {name: call.get(name, 0) for name in ("audio_in", "audio_out")}
    return Served(
        provider=call["provider"],
        model=_SNAPSHOT.sub("", call["model"]),
        tier=call.get("tier", "standard"),
        input=call["input"] - audio["audio_in"],
        output=call.get("output", 0) - audio["audio_out"],
        **{name: call.get(name, 0) for name in ("cache_read", "write_5m", "write_1h", "reasoning")},
        **audio,
    )


def _told_by(request: bytes) -> Iterator[tuple[str, str, str]]:
    for resource in ExportTraceServiceRequest.FromString(request).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                told = {attribute.key: attribute.value.string_value for attribute in span.attributes}
                if any(key.startswith(_LLM_PREFIXES) for key in told):
                    provider = next(filter(None, map(told.get, _PROVIDER_ATTRIBUTES)), "")
                    yield scope.scope.name, scope.scope.version, provider.lower()


def convention_of(told: tuple[str, str, str], rows: Iterable[Mapping[str, Any]]) -> Convention | None:
    """The row of credit_conventions that says what the numbers of a scope in a version, with a provider, mean."""
    scope, version, provider = told
    fitting = [
        row
        for row in rows
        if row["scope_name"] == scope
        and row["provider"] in ("", provider)
        and _parts(version) >= _parts(row["version_from"])
        and (not row["version_until"] or _parts(version) < _parts(row["version_until"]))
    ]
    best = max(fitting, key=lambda row: (_parts(row["version_from"]), row["provider"] != ""), default=None)
    return None if best is None else (best["scope_name"], best["version_from"], best["provider"])


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall("[0-9]+", version)]
