"""All settings of the library: their environment variables, units and defaults.

`configure(...)` takes the same names as arguments; an argument wins over the environment. A value that cannot be used
is logged as an error and the default is taken, because a typing mistake in a deployment may not stop an app (in
strict mode it is raised).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.trace import SpanKind

from otel_credits._destinations import TrustedHosts
from otel_credits._guard import note_fault

DEFAULT_ENDPOINT: Final = "http://localhost:4317"
# It is part of the resource that the SDK makes, where what the app says in its code wins over it.
_READ_BY_THE_SDK: Final = "OTEL_SERVICE_NAME"


def _switch(text: str) -> bool:
    value = text.strip().lower()
    if value in {"on", "true", "1", "yes"}:
        return True
    if value in {"off", "false", "0", "no"}:
        return False
    raise ValueError(f"{text!r} is neither on nor off")


def _positive_int(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise ValueError(f"{text!r} is not above zero")
    return value


def _positive_s(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a number of seconds above zero")
    return value


def _interval_s(text: str) -> float:
    return 0.0 if text.strip().lower() in {"0", "off"} else _positive_s(text)


def _hosts(text: str) -> str:
    TrustedHosts.parse(text)
    return text


def _kinds(text: str) -> frozenset[SpanKind]:
    names = {name.strip().upper() for name in text.split(",") if name.strip()}
    unknown = names - set(SpanKind.__members__)
    if unknown:
        raise ValueError(f"{text!r} is not a list of span kinds (server, consumer, client, producer, internal)")
    return frozenset(SpanKind[name] for name in names)


def _setting(env: str, default: Any, parse: Callable[[str], Any], doc: str) -> Any:
    return field(default=default, metadata={"env": env, "parse": parse, "doc": doc})


@dataclass(frozen=True, slots=True)
class Settings:
    """What `configure()` was told. Every field names its environment variable."""

    endpoint: str | None = _setting(
        "OTEL_CREDITS_ENDPOINT",
        None,
        str,
        "where usage is sent; without it, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or _ENDPOINT",
    )
    protocol: str | None = _setting(
        "OTEL_CREDITS_PROTOCOL",
        None,
        str,
        "grpc or http/protobuf; without it, told from the endpoint (see _endpoint.py)",
    )
    service_name: str | None = _setting(
        _READ_BY_THE_SDK, None, str, "service.name of the usage, where the app has no tracer provider that says it"
    )
    export_interval_s: float = _setting(
        "OTEL_CREDITS_EXPORT_INTERVAL_S",
        0.25,
        _positive_s,
        "how long a usage waits at most for others to share its request",
    )
    export_timeout_s: float = _setting(
        "OTEL_CREDITS_EXPORT_TIMEOUT_S", 10.0, _positive_s, "how long one attempt to send may take"
    )
    batch_spans_max: int = _setting("OTEL_CREDITS_BATCH_SPANS_MAX", 1000, _positive_int, "usages in one request")
    batch_bytes_max: int = _setting(
        "OTEL_CREDITS_BATCH_BYTES_MAX", 2_000_000, _positive_int, "estimated bytes in one request"
    )
    queue_spans_max: int = _setting(
        "OTEL_CREDITS_QUEUE_SPANS_MAX",
        100_000,
        _positive_int,
        "usages that wait in memory; then the newest are refused",
    )
    queue_bytes_max: int = _setting(
        "OTEL_CREDITS_QUEUE_BYTES_MAX", 128_000_000, _positive_int, "estimated bytes that wait in memory; then the same"
    )
    retry_initial_s: float = _setting(
        "OTEL_CREDITS_RETRY_INITIAL_S", 0.25, _positive_s, "wait after the first failed attempt; it doubles each time"
    )
    retry_max_s: float = _setting("OTEL_CREDITS_RETRY_MAX_S", 5.0, _positive_s, "longest wait between two attempts")
    shutdown_timeout_s: float = _setting(
        "OTEL_CREDITS_SHUTDOWN_TIMEOUT_S", 5.0, _positive_s, "how long the end of the process waits for delivery"
    )
    counters_interval_s: float = _setting(
        "OTEL_CREDITS_COUNTERS_INTERVAL_S",
        5.0,
        _interval_s,
        "how often the counters credits.client.* are sent with the usage, if they changed; 0 or off: never",
    )
    spool_dir: str | None = _setting(
        "OTEL_CREDITS_SPOOL_DIR",
        None,
        str,
        "a folder of this app alone, where usage waits on disk instead of in memory and outlives the process",
    )
    spool_bytes_max: int = _setting(
        "OTEL_CREDITS_SPOOL_BYTES_MAX",
        256_000_000,
        _positive_int,
        "bytes of usage that wait on disk, for each process; then the newest are refused",
    )
    charge_genai: bool = _setting(
        "OTEL_CREDITS_CHARGE_GENAI", False, _switch, "also send LLM spans of other instrumentations, which are charged"
    )
    capture_spans: bool = _setting(
        "OTEL_CREDITS_CAPTURE_SPANS",
        True,
        _switch,
        "see the app's own spans: send those with credits.action_type, name the user on all",
    )
    forward_spans: frozenset[SpanKind] = _setting(
        "OTEL_CREDITS_FORWARD_SPANS",
        frozenset(),
        _kinds,
        "kinds of the app's spans that are sent for billing rules to price: server, consumer, client, producer, internal",
    )
    trust_baggage: bool = _setting(
        "OTEL_CREDITS_TRUST_BAGGAGE",
        False,
        _switch,
        "take the user from inbound W3C baggage (credits.user_id): only behind senders you control",
    )
    user: str | Callable[..., Any] | None = _setting(  # noqa: RUF009  (a function is no mutable default)
        "OTEL_CREDITS_USER",
        None,
        str,
        "the user of a FastAPI request: header:NAME, state:NAME (or state:NAME.ATTRIBUTE), jwt:CLAIM",
    )
    trusted_hosts: str = _setting(
        "OTEL_CREDITS_TRUSTED_HOSTS",
        "",
        _hosts,
        "hosts that are told who the user is (W3C baggage): a list of hosts, host:port and .suffixes",
    )
    meter_interval_s: float = _setting(
        "OTEL_CREDITS_METER_INTERVAL_S", 5.0, _positive_s, "how long what meters count is added up before it is sent"
    )
    meter_series_max: int = _setting(
        "OTEL_CREDITS_METER_SERIES_MAX",
        100_000,
        _positive_int,
        "series that meters add up at a time; what is above is sent as a span for each addition",
    )
    thread_pools: bool = _setting(
        "OTEL_CREDITS_THREAD_POOLS", True, _switch, "what is submitted to a ThreadPoolExecutor keeps its usage context"
    )
    jwt_key_file: str | None = _setting(
        "OTEL_CREDITS_JWT_KEY_FILE", None, str, "what verifies tokens for jwt:CLAIM: a public key (PEM) or a JWKS"
    )
    jwt_audience: str | None = _setting(
        "OTEL_CREDITS_JWT_AUDIENCE", None, str, "the audience that a token has to name; without it, any"
    )
    jwt_issuer: str | None = _setting(
        "OTEL_CREDITS_JWT_ISSUER", None, str, "the issuer that a token has to name; without it, any"
    )
    strict: bool = _setting(
        "OTEL_CREDITS_STRICT", False, _switch, "raise bad arguments instead of logging them (tests)"
    )


def load_settings(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `given` (None means not given), else the environment, else the defaults."""
    env = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for name, spec in Settings.__dataclass_fields__.items():
        variable = spec.metadata["env"]
        if callable(given.get(name)):
            values[name] = given[name]
        elif given.get(name) is not None:
            _read(values, name, str(given[name]), f"configure({name}=)", spec.metadata["parse"])
        elif variable != _READ_BY_THE_SDK and env.get(variable, "").strip():
            _read(values, name, env[variable].strip(), f"environment variable {variable}", spec.metadata["parse"])
    return Settings(**values)


def _read(values: dict[str, Any], name: str, text: str, where: str, parse: Callable[[str], Any]) -> None:
    try:
        values[name] = parse(text)
    except ValueError as error:
        note_fault(where, ValueError(f"{error}; the default is used"))


def endpoint_in_environment(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the environment says where to send, so that `configure()` need not be called."""
    env = os.environ if environ is None else environ
    names = ("OTEL_CREDITS_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(env.get(name, "").strip() for name in names)


def sdk_disabled(environ: Mapping[str, str] | None = None) -> bool:
    """OpenTelemetry's own switch for everything: OTEL_SDK_DISABLED=true."""
    env = os.environ if environ is None else environ
    return env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
