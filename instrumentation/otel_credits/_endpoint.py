"""Where usage goes and by which protocol.

The credits endpoint is, in this order: the argument, `OTEL_CREDITS_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`,
`OTEL_EXPORTER_OTLP_ENDPOINT`, http://localhost:4317. The protocol is what `protocol` or `OTEL_CREDITS_PROTOCOL` says.
Else an endpoint of our own is judged by itself (port 4318 or a path ending in /v1/traces is HTTP, port 4317 is gRPC),
as the app's traces may go elsewhere by another protocol; then `OTEL_EXPORTER_OTLP_(TRACES_)PROTOCOL`; then gRPC.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from otel_credits._guard import note_fault
from otel_credits._settings import DEFAULT_ENDPOINT, Settings

Protocol = Literal["grpc", "http"]
_TRACES_PATH = "/v1/traces"
_METRICS_PATH = "/v1/metrics"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL as the exporter of `protocol` wants it."""

    url: str
    protocol: Protocol


def resolve_endpoint(settings: Settings, environ: Mapping[str, str] | None = None) -> Endpoint:
    """The endpoint for these settings."""
    env = os.environ if environ is None else environ
    if settings.endpoint:
        url, own, final_path = settings.endpoint, True, False
    elif env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip():
        url, own, final_path = env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].strip(), False, True
    else:
        url, own, final_path = env.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip() or DEFAULT_ENDPOINT, False, False
    url = url if "://" in url else f"http://{url}"
    protocol = _named(settings.protocol) or _protocol(url, own, env)
    return Endpoint(url if protocol == "grpc" or final_path else _with_traces_path(url), protocol)


def _protocol(url: str, own: bool, env: Mapping[str, str]) -> Protocol:
    named = _named(env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL"))
    judged = _by_url(url)
    return (judged or named if own else named or judged) or "grpc"


def _by_url(url: str) -> Protocol | None:
    parts = urlsplit(url)
    if parts.path.rstrip("/").endswith(_TRACES_PATH) or parts.port == 4318:
        return "http"
    return "grpc" if parts.port == 4317 else None


def _named(text: str | None) -> Protocol | None:
    name = (text or "").strip().lower()
    if not name:
        return None
    if name == "grpc":
        return "grpc"
    if name not in {"http/protobuf", "http"}:
        note_fault("protocol", ValueError(f"{text!r} is not sent by this library; http/protobuf is used"))
    return "http"


def _with_traces_path(url: str) -> str:
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    path = path if path.endswith(_TRACES_PATH) else path + _TRACES_PATH
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, parts.fragment))


def metrics_url(traces_url: str) -> str | None:
    """Where the OTLP/HTTP receiver behind `traces_url` takes metrics. None if the path does not tell."""
    parts = urlsplit(traces_url)
    path = parts.path.rstrip("/")
    if not path.endswith(_TRACES_PATH):
        return None
    path = path.removesuffix(_TRACES_PATH) + _METRICS_PATH
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, parts.fragment))
