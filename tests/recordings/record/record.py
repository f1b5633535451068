"""Records what an instrumentation sends of real calls, with what was really used beside it.

    python record.py groq ollm             # all calls of the Groq SDK under OpenLLMetry's instrumentation
    python record.py litellm own --only openai_cached
    python record.py google ga__oi         # under two instrumentations at once

Run by the Python of an environment with the packages that README.md names; see there.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from calls import CALLS, Call  # noqa: E402
from chains import CHAINS  # noqa: E402
from further import FURTHER, speak_further  # noqa: E402
from opentelemetry import trace  # noqa: E402
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: E402
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: E402
from support.llm_server import LlmServer, Served  # noqa: E402
from wire import speak  # noqa: E402

# Emitter and SDK: the package, and its instrumentor. `own`: the SDK's own spans, which need no other package.
_OPENAI = {
    "ga": (
        "opentelemetry-instrumentation-genai-openai",
        "opentelemetry.instrumentation.genai.openai:OpenAIInstrumentor",
    ),
    "oi": ("openinference-instrumentation-openai", "openinference.instrumentation.openai:OpenAIInstrumentor"),
    "ollm": ("opentelemetry-instrumentation-openai", "opentelemetry.instrumentation.openai:OpenAIInstrumentor"),
    "v2": ("opentelemetry-instrumentation-openai-v2", "opentelemetry.instrumentation.openai_v2:OpenAIInstrumentor"),
}
_ANTHROPIC = {
    "ga": (
        "opentelemetry-instrumentation-genai-anthropic",
        "opentelemetry.instrumentation.genai.anthropic:AnthropicInstrumentor",
    ),
    "oi": (
        "openinference-instrumentation-anthropic",
        "openinference.instrumentation.anthropic:AnthropicInstrumentor",
    ),
    "ollm": (
        "opentelemetry-instrumentation-anthropic",
        "opentelemetry.instrumentation.anthropic:AnthropicInstrumentor",
    ),
}
EMITTERS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "ollm": {
        "openai": _OPENAI["ollm"],
        "anthropic": _ANTHROPIC["ollm"],
        "groq": ("opentelemetry-instrumentation-groq", "opentelemetry.instrumentation.groq:GroqInstrumentor"),
        "mistral": (
            "opentelemetry-instrumentation-mistralai",
            "opentelemetry.instrumentation.mistralai:MistralAiInstrumentor",
        ),
        "cohere": ("opentelemetry-instrumentation-cohere", "opentelemetry.instrumentation.cohere:CohereInstrumentor"),
        "google": (
            "opentelemetry-instrumentation-google-generativeai",
            "opentelemetry.instrumentation.google_generativeai:GoogleGenerativeAiInstrumentor",
        ),
        "langchain": (
            "opentelemetry-instrumentation-langchain",
            "opentelemetry.instrumentation.langchain:LangchainInstrumentor",
        ),
    },
    "oi": {
        "openai": _OPENAI["oi"],
        "anthropic": _ANTHROPIC["oi"],
        "groq": ("openinference-instrumentation-groq", "openinference.instrumentation.groq:GroqInstrumentor"),
        "mistral": (
            "openinference-instrumentation-mistralai",
            "openinference.instrumentation.mistralai:MistralAIInstrumentor",
        ),
        "google": (
            "openinference-instrumentation-google-genai",
            "openinference.instrumentation.google_genai:GoogleGenAIInstrumentor",
        ),
        "litellm": (
            "openinference-instrumentation-litellm",
            "openinference.instrumentation.litellm:LiteLLMInstrumentor",
        ),
        "langchain": (
            "openinference-instrumentation-langchain",
            "openinference.instrumentation.langchain:LangChainInstrumentor",
        ),
    },
    "ga": {
        "openai": _OPENAI["ga"],
        "anthropic": _ANTHROPIC["ga"],
        "google": (
            "opentelemetry-instrumentation-google-genai",
            "opentelemetry.instrumentation.google_genai:GoogleGenAiSdkInstrumentor",
        ),
        "langchain": (
            "opentelemetry-instrumentation-genai-langchain",
            "opentelemetry.instrumentation.genai.langchain:LangChainInstrumentor",
        ),
    },
    "v2": {"openai": _OPENAI["v2"]},
    # What a framework calls.
    **{f"{name}-openai": {"langchain": instrumentor} for name, instrumentor in _OPENAI.items()},
    "logfire": dict.fromkeys(("anthropic", "openai", "pydantic"), ("logfire", "")),
    # PydanticAI's own spans, in each of its formats; the one by default is `own`.
    **{f"format{number}": {"pydantic": ("pydantic-ai-slim", str(number))} for number in range(1, 7)},
    "openlit": dict.fromkeys(
        ("groq", "mistral", "cohere", "litellm", "anthropic", "openai", "langchain"), ("openlit", "")
    ),
    "own": {"litellm": ("litellm", ""), "pydantic": ("pydantic-ai-slim", ""), "anthropic": ("anthropic", "")},
}
SDK_PACKAGES = {
    "google": ("google-genai",),
    "groq": ("groq",),
    "mistral": ("mistralai",),
    "cohere": ("cohere",),
    "litellm": ("litellm",),
    "anthropic": ("anthropic",),
    "openai": ("openai",),
    "pydantic": ("pydantic-ai-slim",),
    "langchain": ("langchain-core", "langchain-anthropic", "langchain-openai"),
}
# Attributes that name places in the sources of the recording machine.
PLACES = re.compile(r"^(code|process|host|thread|exception)[.]")
TIMEOUT_S = 10.0


class Receiver(ThreadingHTTPServer):
    """Keeps the bodies of the trace requests that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where OTLP/HTTP traces go."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/v1/traces":
            self.server.bodies.append(body)
        self.send_response(200)
        self.end_headers()


def switch_on(emitters: list[str], sdk: str, receiver: Receiver) -> SpanProcessor:
    """Switches instrumentations on, sending to the receiver. Returns what sends, to flush it."""
    sending = BatchSpanProcessor(OTLPSpanExporter(receiver.url))
    provider = TracerProvider()
    provider.add_span_processor(sending)
    for emitter in emitters:
        if emitter == "logfire":
            logfire = importlib.import_module("logfire")
            logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[sending])
            getattr(logfire, "instrument_pydantic_ai" if sdk == "pydantic" else f"instrument_{sdk}")()
        else:
            _switch_on(emitter, sdk, provider)
    return sending


def _switch_on(emitter: str, sdk: str, provider: TracerProvider) -> None:
    package, how = EMITTERS[emitter][sdk]
    if package == "pydantic-ai-slim":
        agents = importlib.import_module("pydantic_ai")
        chosen = {"version": int(how)} if how else {}
        settings = agents.InstrumentationSettings(tracer_provider=provider, **chosen)
        agents.Agent.instrument_all(settings)
        if hasattr(agents, "Embedder"):
            agents.Embedder.instrument_all(settings)
    elif package == "anthropic":
        trace.set_tracer_provider(provider)  # The SDK's own spans take no other.
    elif emitter == "own":
        litellm = importlib.import_module("litellm")
        otel = importlib.import_module("litellm.integrations.opentelemetry")
        litellm.callbacks = [otel.OpenTelemetry(tracer_provider=provider)]
    elif emitter == "openlit":
        trace.set_tracer_provider(provider)  # It takes no other.
        names = importlib.import_module("openlit._instrumentors").MODULE_NAME_MAP
        prices = Path(tempfile.mkdtemp(), "prices.json")
        prices.write_text("{}", "utf-8")  # Or it asks the network for them.
        kept = {"disable_metrics": True, "disable_events": True, "pricing_json": str(prices)}
        others = [name for name in names if name != sdk]
        init = importlib.import_module("openlit").init
        known = inspect.signature(init).parameters  # Releases before 1.40 have no disable_events.
        init(disabled_instrumentors=others, **{name: value for name, value in kept.items() if name in known})
    else:
        module, _, name = how.partition(":")
        getattr(importlib.import_module(module), name)().instrument(tracer_provider=provider)


def cleaned(bodies: list[bytes]) -> bytes:
    """One request of all; without events, status messages and whatever names places of this machine."""
    request = ExportTraceServiceRequest()
    for body in bodies:
        request.MergeFromString(body)
    for resource in request.resource_spans:
        _without_places(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                del span.events[:]
                span.status.message = ""
                _without_places(span.attributes)
    return request.SerializeToString()


def _without_places(attributes: Any) -> None:
    kept = [attribute for attribute in attributes if not PLACES.match(attribute.key)]
    del attributes[:]
    attributes.extend(kept)


def truth(served: Served) -> dict[str, Any]:
    """What the server really served, as index.json says it: cached tokens are not in `input`, what is 0 is left out."""
    provider, _, api = served.api.partition("-")
    usage = served.usage
    counts = {
        "input": usage.input + usage.tool_use,
        "tool_use": usage.tool_use,
        "cache_read": usage.cache_read,
        "write_5m": usage.cache_write - usage.cache_write_1h,
        "write_1h": usage.cache_write_1h,
        "output": usage.output,
        "reasoning": usage.reasoning,
    }
    named = {
        "chat": ("openai", "chat.completions"),
        "responses": ("openai", "responses"),
        "messages": ("anthropic", "messages"),
        "embeddings": ("openai", "embeddings"),
    }
    # What comes after the names of these is how the answer is told (wire.py), and no API of its own.
    provider, api = named.get(provider, (provider, api or "chat"))
    told = {"provider": provider, "api": api, "model": served.model, "id": served.id}
    told |= {"tier": usage.tier} if usage.tier else {}
    flags = {name: True for name in ("stream", "completed") if getattr(served, name)}
    return told | flags | {name: number for name, number in counts.items() if number}


def record(call: Call, server: LlmServer, receiver: Receiver, sending: SpanProcessor) -> tuple[bytes, list[Any]]:
    """Makes a call, and returns what was sent of it and what it used."""
    receiver.bodies.clear()
    server.served.clear()
    server.script = list(call.usage) if isinstance(call.usage, tuple) else [call.usage]
    call.do(server.url)
    until = time.monotonic() + TIMEOUT_S
    while not receiver.bodies and time.monotonic() < until:  # LiteLLM's callback runs in a thread of its own.
        sending.force_flush()
        time.sleep(0.2)
    time.sleep(0.5)
    sending.force_flush()
    return cleaned(receiver.bodies), [truth(served) for served in server.served if served.api != "messages-count"]


def main() -> None:
    """Record the calls of one SDK under one emitter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sdk", choices=CALLS | CHAINS)
    parser.add_argument("emitter", help=f"of {', '.join(EMITTERS)}; several, with __ between")
    parser.add_argument("--only", nargs="*", help="names of calls")
    parser.add_argument("--prefix", default="", help="before the name of each case, for other versions of the packages")
    parser.add_argument("--into", type=Path, default=HERE.parent / "more")
    options = parser.parse_args()
    os.environ |= {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Or LiteLLM asks the network for it.
    os.environ["OTEL_RESOURCE_ATTRIBUTES"] = "service.name=recorder"
    speak()
    speak_further()
    receiver = Receiver()
    emitters = options.emitter.split("__")
    sending = switch_on(emitters, options.sdk, receiver)
    installed = [EMITTERS[emitter][options.sdk][0] for emitter in emitters] + [*SDK_PACKAGES[options.sdk]]
    packages = {name: version(name) for name in dict.fromkeys(installed)}
    with LlmServer(unique_ids=True) as server:
        for name, call in (dict((CALLS | CHAINS)[options.sdk]) | dict(FURTHER.get(options.sdk, {}))).items():
            if options.only and name not in options.only:
                continue
            sent, calls = record(call, server, receiver, sending)
            case = f"{options.emitter}-{options.sdk}.{options.prefix}{name}"
            if sent:
                (options.into / f"{case}.bin").write_bytes(sent)
            print(json.dumps({"id": case, "packages": packages, "calls": calls}))


if __name__ == "__main__":
    main()
