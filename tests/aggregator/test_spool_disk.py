"""The durable queue against SIGKILL right after the answer, and against a disk that takes no more."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import grpc
from otel_credits_aggregator.spool import Spool
from support.accounting import assert_exact, settle
from support.clickhouse_http import ClickHouseHttp
from support.otlp_build import AMOUNT, USER, traces, usage_span
from support.otlp_clients import GrpcClient, post, refusal, status_of
from support.processes import AggregatorProcess, clean_environment

USER_ID = "disk-user"

# Each line that it prints is a request that was answered. It is killed while it works.
_ANSWERS_FOR_EVER = """
import sys, threading
from pathlib import Path
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.spool import Spool

spool = Spool(Path(sys.argv[1]), 1 << 30, 1.0)
lock = threading.Lock()

def answer(sender):
    for number in range(1_000_000):
        payload = f"{sender}/{number}".encode() + bytes(number % 5_000)
        spool.append(Signal.TRACES, payload, 1).result()
        with lock:
            print(f"{sender}/{number}", flush=True)

for sender in range(4):
    threading.Thread(target=answer, args=(sender,)).start()
"""

# Appends until the disk takes no more, then makes room and appends once more.
_FILLS_THE_DISK = """
import resource, sys
from pathlib import Path
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.outcomes import SpoolFailed
from otel_credits_aggregator.spool import Spool

def limit_file_size(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

limit_file_size(4 << 20)
with Spool(Path(sys.argv[1]), 1 << 30, 3.0) as spool:
    written = 0
    try:
        while True:
            spool.append(Signal.TRACES, bytes(100_000), 1).result()
            written += 1
    except SpoolFailed as refusal:
        print("refused:", refusal, refusal.retry_delay_s)
    assert spool.bytes_waiting == written * 100_000
    try:
        spool.append(Signal.TRACES, bytes(100_000), 1).result()
    except SpoolFailed:
        print("refused again")
    limit_file_size(resource.RLIM_INFINITY)
    spool.append(Signal.TRACES, b"after", 1).result()
    assert len(spool.waiting) == written + 1
    print("written:", written + 1)
"""


def _python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    """Killed at any moment, a spool has every request whose sender was answered, in an undamaged file."""
    path = tmp_path / "spool.sqlite"
    for wanted in (1, 50, 400):
        with subprocess.Popen(
            _python(_ANSWERS_FOR_EVER, str(path)), stdout=subprocess.PIPE, env=clean_environment()
        ) as child:
            assert child.stdout is not None
            answered = {child.stdout.readline().strip() for _ in range(wanted)}
            child.kill()
            # What it printed before it died was answered, too; the last line may be cut off.
            answered |= set(child.stdout.read().split(b"\n")[:-1])
        with Spool(path, 1 << 30, 1.0) as spool:
            found = {payload.rstrip(b"\0") for (payload,) in spool._read("SELECT payload FROM requests")}
            assert answered <= found
            assert spool._read("PRAGMA integrity_check") == [("ok",)]
        path.unlink()


def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    """A full disk refuses requests as to be tried again; what was answered stays, and with room it goes on."""
    path = tmp_path / "spool.sqlite"
    done = subprocess.run(_python(_FILLS_THE_DISK, str(path)), capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stderr
    refused, again, written = done.stdout.splitlines()
    assert re.fullmatch(r"refused: the spool could not be written: .+ 3\.0", refused)
    assert again == "refused again"
    with Spool(path, 1 << 30, 1.0) as spool:
        assert len(spool.waiting) == int(written.removeprefix("written: "))
    # Said once when it began, and once when it was over.
    assert done.stderr.count("the spool cannot be written") == 1


def limit_file_size(aggregator: AggregatorProcess, size: int) -> None:
    """As a disk does that is full: no file of the process may grow beyond `size`."""
    resource.prlimit(aggregator.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def one_request() -> bytes:
    """Half a credit for `USER_ID`, in 50 kB."""
    return traces(usage_span({USER: USER_ID, AMOUNT: "0.5", "note": "x" * 50_000})).SerializeToString()


def send_until_refused(client: GrpcClient) -> int:
    """Send until the aggregator asks for a pause; return how many requests it took."""
    for taken in range(1_000):
        try:
            client.export(one_request())
        except grpc.RpcError as error:
            told = refusal(error)
            assert (told.code, told.retry_delay_s) == (grpc.StatusCode.UNAVAILABLE, 0.5)
            return taken
    raise AssertionError("1,000 requests of 50 kB fit into a file of 1 MiB")


def test_an_aggregator_on_a_full_disk_recovers(tmp_path: Path) -> None:
    """On a full disk it asks senders to wait; with room again it takes and inserts everything, without a restart."""
    with ClickHouseHttp(tmp_path / "store", migrated=True) as store:
        settings = {"OTEL_CREDITS_STORE": store.dsn(), "OTEL_CREDITS_RETRY_DELAY_S": "0.5"}
        settings["OTEL_CREDITS_STORE_RETRY_MAX_S"] = "0.2"
        with AggregatorProcess(tmp_path / "data", settings) as aggregator, GrpcClient(aggregator.grpc_port) as client:
            client.export(one_request())
            settle(aggregator)
            limit_file_size(aggregator, 1 << 20)
            taken = send_until_refused(client)
            response = post(aggregator.http_endpoint, one_request())
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert "the spool could not be written" in status_of(response).message
            limit_file_size(aggregator, resource.RLIM_INFINITY)
            client.export(one_request())
            settle(aggregator)
            assert_exact(aggregator, {USER_ID: (taken + 2) * Decimal("0.5")})
            assert "the spool can be written again" in aggregator.output()
