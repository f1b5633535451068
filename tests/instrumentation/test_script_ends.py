"""The end of a plain script: what is lost where no code can run, and that the spool leaves nothing to lose.

Real interpreters, and a real OTLP/gRPC receiver (`support.otlp_sink`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from otel_credits import configure
from support.otlp_sink import OtlpSink
from support.processes import wait_until

# Records ten usages and sees them leave by themselves, records five more, and ends.
SCRIPT = """
    import os, signal, sys, time
    from otel_credits import stats, track_compute_usage

    def record(first, end):
        for number in range(first, end):
            track_compute_usage(f"user-{number}", "a", credits=1)

    record(0, 10)
    deadline = time.monotonic() + 60
    while stats().waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    record(10, 15)
    END
"""
ENDS = {
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
    "_exit": "os._exit(3)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
}
ALL = {f"user-{number}" for number in range(15)}


def run(end: str, endpoint: str, **env: str) -> None:
    """Run the script to its end."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "OTEL_CREDITS_ENDPOINT": endpoint,
        "OTEL_CREDITS_CAPTURE_SPANS": "off",
        **env,
    }
    code = textwrap.dedent(SCRIPT).replace("END", end)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "Error" not in done.stderr


def users_of(sink: OtlpSink) -> list[str]:
    """The users of the received usages, copies included."""
    return [usage.attributes["user.id"] for usage in sink.usages()]


@pytest.mark.parametrize("end", ENDS)
def test_what_is_older_than_the_interval_arrives(sink: OtlpSink, end: str) -> None:
    """A script that ends without running any code of ours loses at most what it recorded since the last export."""
    run(ENDS[end], sink.endpoint)
    assert set(users_of(sink)) >= {f"user-{number}" for number in range(10)}
    assert len(users_of(sink)) == len(set(users_of(sink)))
    assert set(users_of(sink)) <= ALL


@pytest.mark.parametrize("end", ENDS)
def test_with_the_spool_nothing_is_lost(sink: OtlpSink, tmp_path: Path, end: str) -> None:
    """With the spool, the next process sends what such a script had recorded in its last moment: all of it, once."""
    run(ENDS[end], sink.endpoint, OTEL_CREDITS_SPOOL_DIR=str(tmp_path))
    configure(sink.endpoint, capture_spans=False, spool_dir=str(tmp_path))
    wait_until(lambda: not list(tmp_path.iterdir()), 60, "an empty folder")
    by_id = {usage.span_id: usage.attributes["user.id"] for usage in sink.usages()}
    assert sorted(by_id.values()) == sorted(ALL)


@pytest.mark.parametrize("end", ["", "sys.exit(1)", "raise SystemExit(2)", "1 / 0"])
def test_where_code_can_run_nothing_is_lost(sink: OtlpSink, end: str) -> None:
    """A script that returns, exits or raises delivers what it recorded last, without a spool."""
    env = {"OTEL_CREDITS_ENDPOINT": sink.endpoint, "OTEL_CREDITS_EXPORT_INTERVAL_S": "3600"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    code = "import sys\nfrom otel_credits import track_compute_usage\n"
    code += "for n in range(15): track_compute_usage(f'user-{n}', 'a', credits=1)\n" + end
    subprocess.run([sys.executable, "-c", code], env=inherited | env, capture_output=True, timeout=120, check=False)
    assert sorted(users_of(sink)) == sorted(ALL)
