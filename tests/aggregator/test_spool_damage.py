"""A damaged spool: the aggregator starts, charges what can be read, and keeps, names and counts what cannot."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.spool import Batch, Spool
from support.accounting import settle
from support.clickhouse_http import ClickHouseHttp
from support.otlp_build import AMOUNT, USER, traces, usage_span
from support.otlp_clients import GrpcClient
from support.processes import AggregatorProcess, clean_environment

PAGE_BYTES = 1 << 16
REQUESTS = 40

# Leaves a spool as a kill does: what was acknowledged is in the write-ahead log.
_FILLS_AND_DIES = """
import os, random, signal, sys
from pathlib import Path
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.spool import Batch, Spool

rng = random.Random(1)
spool = Spool(Path(sys.argv[1]), 1 << 30, 1.0)
for number in range(int(sys.argv[2])):
    spool.append(Signal.TRACES, b"%6d " % number + rng.randbytes(rng.randrange(100_000)), 2).result()
    if number == 3:
        spool.compose(Batch("0b5e6f30-0000-4000-8000-000000000001", Signal.TRACES, 1, 3, b"fields"))
if sys.argv[3] == "checkpointed":
    spool.close()
os.kill(os.getpid(), signal.SIGKILL)
"""


def filled(folder: Path, checkpointed: bool) -> Path:
    """A spool of an aggregator that was killed; everything in its main file, or in the log."""
    path = folder / "spool.sqlite"
    command = [sys.executable, "-c", _FILLS_AND_DIES, str(path), str(REQUESTS)]
    command.append("checkpointed" if checkpointed else "log")
    subprocess.run(command, check=False, env=clean_environment())
    return path


def cut(file: Path, keep: float) -> None:
    os.truncate(file, int(file.stat().st_size * keep))


def overwrite(file: Path, begin: int, content: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(begin, os.SEEK_SET if begin >= 0 else os.SEEK_END)
        opened.write(content)


def scribble_over_the_last_page(path: Path) -> None:
    overwrite(path, -PAGE_BYTES, random.Random(2).randbytes(PAGE_BYTES))


def change_a_byte(path: Path) -> None:
    """Within the content of a request, where SQLite itself sees nothing."""
    overwrite(path, path.read_bytes().index(b"    20 ") + 50, b"not what was sent")


def scribble_in_the_log(path: Path) -> None:
    log = Path(f"{path}-wal")
    overwrite(log, log.stat().st_size // 2, random.Random(3).randbytes(2 * PAGE_BYTES))


# What happens to the file; whether everything was in the main file; how many requests must be readable at least.
DAMAGES: dict[str, tuple[Callable[[Path], None], bool, int]] = {
    "the file is cut off": (lambda path: cut(path, 0.5), True, 10),
    "its last page is zeroed": (lambda path: overwrite(path, -PAGE_BYTES, bytes(PAGE_BYTES)), True, REQUESTS - 3),
    "its last page is garbage": (scribble_over_the_last_page, True, REQUESTS - 3),
    "a byte of a request has changed": (change_a_byte, True, REQUESTS - 1),
    "it begins with garbage": (lambda path: overwrite(path, 0, b"garbage " * 100), True, 0),
    "it is empty": (lambda path: cut(path, 0.0), True, 0),
    "the log is cut off": (lambda path: cut(Path(f"{path}-wal"), 0.7), False, 20),
    "the log is damaged in its middle": (scribble_in_the_log, False, REQUESTS - 5),
    "the log is gone": (lambda path: Path(f"{path}-wal").unlink(), False, 0),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_can_be_read_is_taken_over(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever happens to the file, the spool opens, has each request unchanged or counts it as lost, and keeps the old file."""
    damage, checkpointed, readable_min = DAMAGES[name]
    path = filled(tmp_path, checkpointed)
    damage(path)
    damaged_bytes = path.read_bytes()
    with Spool(path, 1 << 30, 1.0) as spool:
        found = dict(spool._read("SELECT id, payload FROM requests"))
        assert len(found) >= readable_min
        rng = random.Random(1)
        sent = {number + 1: b"%6d " % number + rng.randbytes(rng.randrange(100_000)) for number in range(REQUESTS)}
        assert found.items() <= sent.items()
        damages = spool.damages()
        assert damages.files == 1
        # Where the counts cannot be read either, it takes the ids for it.
        assert damages.requests == REQUESTS - len(found) > 0 or not found
        (kept,) = tmp_path.glob("spool.damaged-*.sqlite")
        assert kept.read_bytes() == damaged_bytes
        assert kept.name in caplog.text
        assert spool.append(Signal.TRACES, b"new", 1).result() == REQUESTS + 1
        if readable_min:
            assert spool.received()[Signal.TRACES] == 2 * len(found) + damages.spans + 1
            assert [batch.first_id for batch in spool.batches()] == [1]
        batch = Batch("0b5e6f30-0000-4000-8000-000000000002", Signal.TRACES, 1, REQUESTS + 1, b"")
        spool.forget(batch)
        assert spool.is_empty()
    with Spool(path, 1 << 30, 1.0) as spool:
        assert spool.damages() == damages
        assert spool._read("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("checkpointed", [True, False], ids=["in the file", "in the log"])
def test_a_kill_is_no_damage(tmp_path: Path, checkpointed: bool) -> None:
    """A spool that a kill left has everything, and nothing is set aside."""
    path = filled(tmp_path, checkpointed)
    with Spool(path, 1 << 30, 1.0) as spool:
        assert len(spool._read("SELECT id FROM requests")) == REQUESTS
        assert spool.damages().files == 0
    assert not list(tmp_path.glob("*damaged*"))


def test_a_crash_while_damage_is_set_aside_loses_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever setting aside is cut off, the next start finishes it with the same requests."""
    rename = Path.rename
    for survived in range(4):
        folder = tmp_path / str(survived)
        folder.mkdir()
        path = filled(folder, checkpointed=False)
        scribble_in_the_log(path)
        left = [survived]

        def failing(self: Path, target: Path | str, left: list[int] = left) -> Path:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return rename(self, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", failing)
            with pytest.raises(KeyboardInterrupt):
                Spool(path, 1 << 30, 1.0)
        with Spool(path, 1 << 30, 1.0) as spool:
            assert len(spool._read("SELECT id FROM requests")) >= REQUESTS - 5
            assert spool.damages().files == 1


def test_an_aggregator_with_a_damaged_spool_starts_and_charges_the_rest(tmp_path: Path) -> None:
    """Started on a damaged spool, it charges what was readable, says what was not, and its sums agree."""
    with ClickHouseHttp(tmp_path / "store", migrated=True) as store:
        settings = {"OTEL_CREDITS_STORE": store.dsn(), "OTEL_CREDITS_STORE_RETRY_MAX_S": "0.2"}
        with AggregatorProcess(tmp_path / "data", settings) as aggregator:
            store.kill()
            with GrpcClient(aggregator.grpc_port) as client:
                for number in range(30):
                    span = usage_span({USER: f"user-{number}", AMOUNT: "0.5", "note": "x" * 50_000})
                    client.export(traces(span).SerializeToString())
            aggregator.kill()
            scribble_in_the_log(tmp_path / "data" / "spool.sqlite")
            store.restart()
            aggregator.start()
            aggregator.wait_ready()
            sums = settle(aggregator)
            assert sums.charged + sums.damaged == 30
            assert sums.charged >= 25
            credits = aggregator.sql("SELECT sum(credits_charged) AS credits FROM credit_usage_events")[0]["credits"]
            assert Decimal(credits) == sums.charged * Decimal("0.5")
            metrics = aggregator.metrics()
            assert metrics["otel_credits_spool_damaged_files_total"] == 1
            assert metrics["otel_credits_spool_requests_damaged_total"] == sums.damaged
            assert "the damaged spool is kept as spool.damaged-" in aggregator.output()


def test_a_spool_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A folder that cannot be written is an error at start, and nothing is changed."""
    (tmp_path / "spool.sqlite").mkdir()
    with pytest.raises(sqlite3.OperationalError):
        Spool(tmp_path / "spool.sqlite", 1 << 20, 1.0)
