"""The demo as a person starts it: a command, in a folder of its own, against everything real that this machine has."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import pytest
from otel_credits_aggregator.demo import DemoOptions
from otel_credits_aggregator.demo._plan import make_users
from support import plain_http
from support.processes import Process, wait_until
from support.samples import others_long

DEMO_TIMEOUT_S = 150.0
ENDING_TIMEOUT_S = 90.0


def demo(folder: Path, *options: str, env: dict[str, str] | None = None) -> Process:
    """Return the command, ready to be started in ``folder``."""
    command = [sys.executable, "-m", "otel_credits_aggregator", "demo", *options]
    return Process("demo", command, log_dir=folder, cwd=folder, env={"TMPDIR": str(folder)} | (env or {}))


def children(pid: int) -> set[int]:
    """Return the ids of all processes under a process, their children included."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | children(child)
    return found


def aggregator_url(demo_pid: int) -> str:
    """Return the API address of the aggregator that a demo started, as its environment says."""
    for pid in children(demo_pid):
        variables = dict(v.split("=", 1) for v in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in v)
        if "OTEL_CREDITS_API_PORT" in variables:
            return f"http://127.0.0.1:{variables['OTEL_CREDITS_API_PORT']}"
    raise AssertionError("the demo has no aggregator")


def still_there(pids: Iterable[int]) -> set[int]:
    """Return those of the processes that have not ended."""
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def user_rows(output: str) -> list[list[str]]:
    """Return the rows of the table of users, a list of cells each."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines()]
    return [row for row in rows if row and "@example.com" in row[0]]


def test_every_balance_is_what_was_served(tmp_path: Path) -> None:
    """`otel-credits demo`: 300 usages or more of 20 users or more, by every pattern, end in exact balances; exit 0."""
    with demo(tmp_path) as running:
        code = running.wait(DEMO_TIMEOUT_S)
    output = running.output()
    assert code == 0, output
    rows = user_rows(output)
    assert len(rows) >= 20
    assert all(row[-1] == "yes" and float(row[1]) > 0 and float(row[2]) > 0 for row in rows)
    accounts = re.search(
        r"(\d+) spans received: (\d+) charged, (\d+) duplicate, (\d+) not usage, (\d+) quarant", output
    )
    assert accounts, output
    received, charged, duplicate, not_usage, quarantined = map(int, accounts.groups())
    assert charged >= 300
    assert quarantined == 0
    assert received == charged + duplicate + not_usage + quarantined
    for pattern in ("hangs up mid-stream", "raises after tracking", "plain Celery task", "async Celery task"):
        assert pattern in output
    assert list(tmp_path.iterdir()) == [running.log_path], "the demo left something behind"


@pytest.mark.long
def test_a_difference_in_the_last_decimal_is_a_failure(tmp_path: Path) -> None:
    """A balance that somebody changes by 0.000000000001 while the demo runs is printed with both figures; exit 1."""
    [user] = make_users(1, DemoOptions().seed)
    with demo(tmp_path, "--usages", "40", "--users", "20") as running:
        running.wait_for(lambda: "all ready" in running.output(), DEMO_TIMEOUT_S, "everything is started")
        # A float would not do: the demo compares decimals, and so it must notice the smallest there is.
        grant = {"credits": "0.000000000001", "reason": "not in the plan"}
        url = f"{aggregator_url(running.pid)}/api/v1/users/{user.id}/grants"
        assert plain_http.post(url, json=grant).status_code == 201
        code = running.wait(DEMO_TIMEOUT_S)
    output = running.output()
    assert code == 1, output
    granted = re.search(rf"DIFFERENCE {user.email}: granted is (\S+) in the ledger and must be (\S+)", output)
    assert granted is not None, output
    assert Decimal(granted[1]) - Decimal(granted[2]) == Decimal("0.000000000001")
    assert [row[0] for row in user_rows(output) if row[-1] == "NO"] == [user.email]
    assert "data and logs are left in" in output


@pytest.mark.long
def test_it_needs_no_redis(tmp_path: Path) -> None:
    """Without a redis-server in the PATH, the Celery worker gets a broker that needs no server, and all is the same."""
    with demo(tmp_path, "--usages", "60", "--users", "20", "--seed", "5", env={"PATH": "/nonexistent"}) as running:
        code = running.wait(DEMO_TIMEOUT_S)
    assert code == 0, running.output()
    assert "filesystem://" in running.output()
    assert all(row[-1] == "yes" for row in user_rows(running.output()))


def test_keep_leaves_it_running_until_ctrl_c(tmp_path: Path) -> None:
    """`--keep` prints addresses that answer; Ctrl-C ends every process, and the data stays where it was printed."""
    with demo(tmp_path, "--keep", "--usages", "40", "--users", "20") as running:
        running.wait_for(lambda: "until Ctrl-C" in running.output(), DEMO_TIMEOUT_S, "the demo is done")
        wait_until(lambda: "try:" in running.output(), 5, "the addresses are printed")
        url = re.search(r"OTEL_CREDITS_URL=(\S+)", running.output())
        assert url is not None
        assert plain_http.get(f"{url[1]}/readyz").status_code == 200
        started = children(running.pid)
        assert len(started) >= 5
        running.send_signal(signal.SIGINT)
        assert running.wait(ENDING_TIMEOUT_S) == 0, running.output()
    wait_until(lambda: not still_there(started), 5, "every process has ended")
    assert len(list((tmp_path / "otel-credits-data").glob("demo-*"))) == 1


@pytest.mark.parametrize("ending", others_long([signal.SIGINT, signal.SIGTERM], short=[signal.SIGINT]))
def test_an_interrupt_ends_every_process(tmp_path: Path, ending: signal.Signals) -> None:
    """Interrupted while the users are at it, the demo ends all it started, removes its data, and exits with 130."""
    with demo(tmp_path) as running:
        running.wait_for(lambda: "all ready" in running.output(), DEMO_TIMEOUT_S, "everything is started")
        started = children(running.pid)
        running.send_signal(ending)
        assert running.wait(ENDING_TIMEOUT_S) == 130, running.output()
    wait_until(lambda: not still_there(started), 5, "every process has ended")
    assert list(tmp_path.iterdir()) == [running.log_path]
