"""A backup that is taken while usage comes in is exact, and so is what is restored of it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from otel_credits_aggregator.ledger import NewGrant, NewPrice, Profile, RemoteLedger
from support.accounting import assert_exact, settle
from support.otlp_build import AMOUNT, USER, traces, usage_span
from support.otlp_clients import post
from support.processes import AggregatorProcess, clean_environment, free_port, wait_until
from support.samples import others_long

USERS = 3
SPANS = 30
COMMAND_TIMEOUT_S = 120.0

FAST = {"OTEL_CREDITS_INSERT_INTERVAL_S": "0.01"}
NEVER = {"OTEL_CREDITS_INSERT_INTERVAL_S": "3600", "OTEL_CREDITS_RECHECK_INTERVAL_S": "3600"}


def otel_credits(*arguments: str | Path, data_dir: Path, url: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own, beside a server or on a data folder without one."""
    where = {"OTEL_CREDITS_URL": url} if url else {"OTEL_CREDITS_API_PORT": str(free_port())}
    return subprocess.run(
        [sys.executable, "-m", "otel_credits_aggregator", *map(str, arguments)],
        env=clean_environment({"OTEL_CREDITS_DATA_DIR": str(data_dir), **where}),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


def succeed(*arguments: str | Path, data_dir: Path, url: str = "") -> str:
    """Run a command that must succeed; returns what it printed."""
    done = otel_credits(*arguments, data_dir=data_dir, url=url)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(*arguments: str | Path, data_dir: Path) -> str:
    """Run a command that must say in one line why it cannot; returns the line."""
    done = otel_credits(*arguments, data_dir=data_dir)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    return done.stderr


def request() -> bytes:
    """Usage of every user, and one that names nobody."""
    spans = [usage_span({USER: f"user-{number % USERS}", AMOUNT: "0.1"}) for number in range(SPANS)]
    return traces(*spans, usage_span({USER: None})).SerializeToString()


def expected(requests: int) -> dict[str, Decimal]:
    """What each user is charged for so many requests."""
    return {f"user-{number}": requests * Decimal(SPANS // USERS) / 10 for number in range(USERS)}


def send(aggregator: AggregatorProcess, *payloads: bytes) -> None:
    """Send requests, each of which must be acknowledged."""
    for payload in payloads:
        assert post(aggregator.http_endpoint, payload).is_success


class Load:
    """Sends usage and grants as long as the block lasts, and remembers what was acknowledged."""

    def __init__(self, aggregator: AggregatorProcess) -> None:
        self.acknowledged: list[bytes] = []
        self.grants = 0
        self._aggregator = aggregator
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(2)]
        self._threads.append(threading.Thread(target=self._grant))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, number: int) -> None:
        """Until so many more requests and a grant are acknowledged."""
        requests, grants = len(self.acknowledged) + number, self.grants
        wait_until(
            lambda: len(self.acknowledged) >= requests and self.grants > grants, 60, f"{number} more are acknowledged"
        )

    def _send(self) -> None:
        while not self._stop.is_set():
            payload = request()
            send(self._aggregator, payload)
            self.acknowledged.append(payload)

    def _grant(self) -> None:
        with RemoteLedger(self._aggregator.url) as ledger:
            while not self._stop.is_set():
                ledger.grant("user-0", NewGrant(credits=Decimal(1)))
                self.grants += 1


@pytest.mark.long
def test_a_backup_under_load_is_exact(tmp_path: Path) -> None:
    """Backed up under load and restored: each usage acknowledged before is charged once, the rest of the ledger is there, and
    all that is sent again is charged once in all."""
    live, copy, backup = tmp_path / "live", tmp_path / "copy", tmp_path / "backup"
    with AggregatorProcess(live, FAST) as aggregator, RemoteLedger(aggregator.url) as ledger:
        ledger.set_user("user-0", Profile(email="ada@example.com"))
        price = ledger.set_price(NewPrice(action_type="render", unit="call", credits_per_unit=Decimal("0.25")))
        with Load(aggregator) as load:
            load.wait_for_more(30)
            before, granted = list(load.acknowledged), load.grants
            succeed("backup", backup, data_dir=live, url=aggregator.url)
            load.wait_for_more(10)
        assert settle(aggregator).charged == len(load.acknowledged) * SPANS
        assert_exact(aggregator, expected(len(load.acknowledged)))
        assert [path.name for path in (live / "store" / "shadow").iterdir()] == ["increment.txt"]
    succeed("restore", backup, data_dir=copy)
    assert "agree" in succeed("reconcile", data_dir=copy)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "copy", "live"]
    with AggregatorProcess(copy, FAST) as restored, RemoteLedger(restored.url) as ledger:
        charged = settle(restored).charged
        requests = charged // SPANS
        assert len(before) <= requests < len(load.acknowledged)
        assert_exact(restored, expected(requests))
        assert sum(row.usages for row in ledger.quarantine_summary()) == requests
        assert granted <= ledger.balance("user-0").lifetime_granted < load.grants
        assert [row.email for row in ledger.users() if row.id == "user-0"] == ["ada@example.com"]
        assert price in ledger.prices()
        send(restored, *before)
        assert settle(restored).charged == charged
        send(restored, *load.acknowledged)
        assert settle(restored).charged == len(load.acknowledged) * SPANS
        assert_exact(restored, expected(len(load.acknowledged)))


def test_what_waits_in_the_spool_is_in_a_backup(tmp_path: Path) -> None:
    """A stopped store is backed up with what was acknowledged and not inserted; restored, it is charged once."""
    live, copy, backup = tmp_path / "live", tmp_path / "copy", tmp_path / "backup"
    sent = [request() for _ in range(5)]
    with AggregatorProcess(live, NEVER) as aggregator:
        send(aggregator, *sent)
        aggregator.kill()
    succeed("backup", backup, data_dir=live)
    with closing(sqlite3.connect(backup / "spool.sqlite")) as spool:
        assert spool.execute("SELECT count(*) FROM requests").fetchone() >= (1,)
    succeed("restore", backup, data_dir=copy)
    with AggregatorProcess(copy, FAST) as restored:
        assert settle(restored).charged == len(sent) * SPANS
        send(restored, *sent)
        assert settle(restored).charged == len(sent) * SPANS
        assert_exact(restored, expected(len(sent)))


@pytest.mark.long
def test_tokens_are_in_a_backup(tmp_path: Path) -> None:
    """Who may do what is restored, readable by its owner alone; tokens that are in the new folder already stay."""
    live, backup = tmp_path / "live", tmp_path / "backup"
    succeed("migrate", data_dir=live)
    assert otel_credits("tokens", "add", "ops", "--role", "admin", data_dir=live).returncode == 0
    tokens = (live / "tokens.json").read_bytes()
    succeed("backup", backup, data_dir=live)
    for name, found in (("empty", None), ("guarded", b'{"tokens": []}')):
        copy = tmp_path / name
        if found:
            copy.mkdir()
            (copy / "tokens.json").write_bytes(found)
        succeed("restore", backup, data_dir=copy)
        assert (copy / "tokens.json").read_bytes() == (found or tokens)
    for path in (backup / "tokens.json", tmp_path / "empty" / "tokens.json"):
        assert path.stat().st_mode & 0o777 == 0o600
    (backup / "tokens.json").write_bytes(b'{"tokens": []}')
    assert "not as it was written" in refused("restore", backup, data_dir=tmp_path / "changed")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a migrated store with a grant, which no server has used."""
    data_dir = tmp_path_factory.mktemp("stopped") / "data"
    succeed("migrate", data_dir=data_dir)
    succeed("grant", "u", "5", data_dir=data_dir)
    return data_dir


@pytest.fixture(scope="module")
def backup(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it."""
    path = tmp_path_factory.mktemp("backups") / "first"
    succeed("backup", path, data_dir=stopped)
    return path


def test_a_backup_goes_only_into_a_new_folder(stopped: Path, backup: Path, tmp_path: Path) -> None:
    """Nothing is overwritten, no parents are made up, and nothing is put among the store's own files."""
    manifest = (backup / "manifest.json").read_bytes()
    assert "exists already" in refused("backup", backup, data_dir=stopped)
    assert (backup / "manifest.json").read_bytes() == manifest
    assert "no folder" in refused("backup", tmp_path / "missing" / "backup", data_dir=stopped)
    assert "in the data folder" in refused("backup", stopped / "backup", data_dir=stopped)
    assert "in the data folder" in refused("backup", stopped / "store" / "backup", data_dir=stopped)
    assert sorted(path.name for path in stopped.iterdir()) == ["store"]


def test_half_of_a_batch_is_not_backed_up(stopped: Path, tmp_path: Path) -> None:
    """A stopped store with a batch that may be half inserted is refused, because only this store knows which half."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "store").symlink_to(stopped / "store")
    with closing(sqlite3.connect(data_dir / "spool.sqlite")) as spool:
        spool.execute("CREATE TABLE batches (batch_id TEXT)")
        spool.execute("INSERT INTO batches VALUES ('b')")
        spool.commit()
    assert "start `otel-credits serve`" in refused("backup", tmp_path / "backup", data_dir=data_dir)
    assert list(tmp_path.iterdir()) == [data_dir]


@pytest.mark.long
def test_a_restore_goes_only_into_an_empty_folder(stopped: Path, backup: Path, tmp_path: Path) -> None:
    """A ledger that is there is never touched, also not by a restore beside a server that runs."""
    assert "not empty (store)" in refused("restore", backup, data_dir=stopped)
    running = tmp_path / "running"
    with AggregatorProcess(running):
        assert "is not empty" in refused("restore", backup, data_dir=running)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear", "utf-8")
    assert "not empty (letter.txt)" in refused("restore", backup, data_dir=tmp_path / "other")
    (tmp_path / "empty").mkdir()
    succeed("restore", backup, data_dir=tmp_path / "empty")
    (row,) = json.loads(succeed("balance", "u", "--json", data_dir=tmp_path / "empty"))
    assert row["current_balance"] == "5"


@pytest.mark.parametrize("harm", others_long(["missing", "changed", "manifest", "newer"], short={"changed"}))
def test_a_damaged_backup_is_not_restored(backup: Path, tmp_path: Path, harm: str) -> None:
    """A backup of which a file is missing or changed, or which a newer version wrote, leaves the folder empty and says why."""
    damaged, data_dir = tmp_path / "damaged", tmp_path / "data"
    subprocess.run(["cp", "-a", backup, damaged], check=True)
    file = next((damaged / "store" / "credit_grants").rglob("data.bin"))
    manifest = damaged / "manifest.json"
    if harm == "missing":
        file.unlink()
    elif harm == "changed":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif harm == "manifest":
        manifest.unlink()
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text("utf-8")) | {"migration": 9999}), "utf-8")
    reason = refused("restore", damaged, data_dir=data_dir)
    assert {"missing": "data.bin is missing", "changed": "data.bin is not as it was", "manifest": "is no backup"}.get(
        harm, "upgrade otel-credits"
    ) in reason
    assert not data_dir.exists() or os.listdir(data_dir) == ["spool.lock"]
