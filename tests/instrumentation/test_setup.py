"""Setting the library up: settings, endpoints, nothing set up, what an import brings in."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import otel_credits
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_credits import _counters, configure, flush, stats, track_ai_usage, track_compute_usage
from otel_credits._endpoint import Endpoint, resolve_endpoint
from otel_credits._settings import Settings, load_settings
from support.otlp_sink import OtlpSink

README = Path(__file__).parents[2] / "instrumentation" / "README.md"
HEAVY = {
    "grpc",
    "requests",
    "fastapi",
    "starlette",
    "celery",
    "pydantic",
    "anthropic",
    "openai",
    "httpx",
    "clickhouse_connect",
    "chdb",
}


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter with exactly this environment."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, env=env, check=False
    )


def test_light_import() -> None:
    """Importing otel_credits brings in no framework, no SDK of a provider, no network library and no aggregator."""
    done = run_python("""
        import sys, otel_credits
        print(*sorted({name.partition(".")[0] for name in sys.modules}))
    """)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert not loaded & (HEAVY | {"otel_credits_aggregator"})


def test_public_api_is_listed() -> None:
    """Everything that __init__ lists exists, and it defines nothing of its own."""
    assert all(hasattr(otel_credits, name) for name in otel_credits.__all__)
    source = Path(otel_credits.__file__).read_text()
    assert "def " not in source
    assert "class " not in source


def test_nothing_set_up_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """With nothing set up, calls do nothing and one warning says so."""
    for _ in range(3):
        track_ai_usage("u", "a", input_tokens=1)
        track_compute_usage("u", "a")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "NOT recorded" in caplog.text
    assert stats().recorded == 0


def test_the_environment_alone_sets_it_up(sink: OtlpSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard endpoint variable is enough: no call of configure() is needed."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint)
    monkeypatch.setenv("OTEL_CREDITS_CAPTURE_SPANS", "off")
    track_compute_usage("u", "a", credits=1)
    assert flush(60)
    assert len(sink.spans()) == 1


def test_usage_is_delivered_at_the_end_of_a_script(sink: OtlpSink) -> None:
    """A script that tracks and ends has delivered its usage, without a call of flush()."""
    done = run_python(
        """
        import otel_credits
        otel_credits.configure(export_interval_s=60)
        otel_credits.track_compute_usage("u", "a", credits=1)
        """,
        OTEL_CREDITS_ENDPOINT=sink.endpoint,
        OTEL_SERVICE_NAME="my-script",
    )
    assert (done.returncode, done.stderr) == (0, "")
    (span,) = sink.spans()
    assert span.resource["service.name"] == "my-script"


def test_sdk_disabled(sink: OtlpSink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """OTEL_SDK_DISABLED switches the library off too, and it says so."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    configure(sink.endpoint)
    track_compute_usage("u", "a")
    assert stats().recorded == 0
    assert "OTEL_SDK_DISABLED" in caplog.text


@pytest.mark.parametrize(
    ("argument", "env", "expected"),
    [
        (None, {}, Endpoint("http://localhost:4317", "grpc")),
        ("http://host:4317", {}, Endpoint("http://host:4317", "grpc")),
        ("http://host:4318", {}, Endpoint("http://host:4318/v1/traces", "http")),
        ("http://host:4318/", {}, Endpoint("http://host:4318/v1/traces", "http")),
        ("https://host/base/v1/traces", {}, Endpoint("https://host/base/v1/traces", "http")),
        ("https://host:443", {}, Endpoint("https://host:443", "grpc")),
        ("host:4317", {}, Endpoint("http://host:4317", "grpc")),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}, Endpoint("http://a:4318/v1/traces", "http")),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:4318/x"}, Endpoint("http://a:4318/x", "http")),
        (
            None,
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:9999", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            Endpoint("http://a:9999/v1/traces", "http"),
        ),
        (
            "http://own:4317",
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            Endpoint("http://own:4317", "grpc"),
        ),
        (
            "http://own:9999",
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            Endpoint("http://own:9999/v1/traces", "http"),
        ),
    ],
)
def test_endpoints(argument: str | None, env: dict[str, str], expected: Endpoint) -> None:
    """The endpoint and its protocol are told from the argument and the standard variables as documented."""
    assert resolve_endpoint(Settings(endpoint=argument), env) == expected


def test_protocol_given() -> None:
    """A protocol that is given decides, whatever the port."""
    settings = Settings(endpoint="http://host:4317", protocol="http/protobuf")
    assert resolve_endpoint(settings, {}) == Endpoint("http://host:4317/v1/traces", "http")


def test_settings_from_the_environment(caplog: pytest.LogCaptureFixture) -> None:
    """Arguments win over the environment; a value that is no use is logged and the default taken."""
    env = {
        "OTEL_CREDITS_ENDPOINT": "http://env:4317",
        "OTEL_CREDITS_EXPORT_INTERVAL_S": "0.5",
        "OTEL_CREDITS_QUEUE_SPANS_MAX": "many",
        "OTEL_CREDITS_CHARGE_GENAI": "on",
    }
    settings = load_settings({"endpoint": "http://arg:4317"}, env)
    assert settings.endpoint == "http://arg:4317"
    assert settings.export_interval_s == 0.5
    assert settings.charge_genai is True
    assert settings.queue_spans_max == Settings().queue_spans_max
    assert "OTEL_CREDITS_QUEUE_SPANS_MAX" in caplog.text


def test_arguments_that_are_no_use(caplog: pytest.LogCaptureFixture) -> None:
    """An argument of configure() that cannot be used is logged, and the default is taken."""
    settings = load_settings({"export_interval_s": -1, "batch_spans_max": 0, "charge_genai": True}, {})
    assert (settings.export_interval_s, settings.batch_spans_max) == (0.25, 1000)
    assert settings.charge_genai is True
    assert "export_interval_s" in caplog.text


def test_every_setting_is_documented() -> None:
    """The README names every environment variable, with its default."""
    text = README.read_text()
    missing = [
        spec.metadata["env"]
        for spec in Settings.__dataclass_fields__.values()
        if f"`{spec.metadata['env']}`" not in text
    ]
    assert missing == []


def test_every_public_name_is_documented() -> None:
    """The README says something about everything that can be imported."""
    text = README.read_text()
    assert [
        name for name in otel_credits.__all__ if name != "__version__" and not re.search(rf"`@?{name}\b", text)
    ] == []


def test_counters(configured: Callable[..., OtlpSink]) -> None:
    """credits.client.recorded, exported, failed and waiting tell through the app's meter provider what stats() tells."""
    configured()
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    meter = provider.get_meter("test")
    _counters.create_counters(meter, stats)
    track_compute_usage("u", "a", credits=1)
    track_compute_usage("u", "a", credits=-1)
    assert flush(60)
    data = reader.get_metrics_data()
    assert data is not None
    points = {
        metric.name: [(dict(point.attributes or {}), point.value) for point in metric.data.data_points]
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }
    assert points == {
        "credits.client.recorded": [({}, 2)],
        "credits.client.exported": [({}, 1)],
        "credits.client.failed": [({"credits.client.reason": "bad_argument"}, 1)],
        "credits.client.waiting": [({}, 0)],
    }
