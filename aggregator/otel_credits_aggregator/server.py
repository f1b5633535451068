"""``otel-credits serve``: builds the parts, starts them in order, and stops them so that nothing acknowledged is lost."""

import asyncio
import contextlib
import importlib.util
import logging
import os
import resource
import shutil
import signal
import socket
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import grpc
import uvicorn
from starlette.types import ASGIApp

from otel_credits_aggregator.access import (
    Gate,
    TlsFiles,
    TlsFilesError,
    TokensFileError,
    Unprotected,
    check_listening,
    tls_files,
    uvicorn_options,
)
from otel_credits_aggregator.allocator import give_memory_back
from otel_credits_aggregator.api import create_app
from otel_credits_aggregator.fault_points import passing
from otel_credits_aggregator.grpc_receiver import start_grpc
from otel_credits_aggregator.http_receiver import create_http_receiver
from otel_credits_aggregator.inserter import Inserter
from otel_credits_aggregator.intake import Intake
from otel_credits_aggregator.metrics import AggregatorMetrics
from otel_credits_aggregator.otlp import Signal
from otel_credits_aggregator.replay import Selection, Treatment
from otel_credits_aggregator.settings import Settings
from otel_credits_aggregator.spool import Spool
from otel_credits_aggregator.store import Client, is_embedded

__all__ = ["Aggregator", "serve"]

T = TypeVar("T")

logger = logging.getLogger(__name__)
_GRPC_GRACE_S = 3.0
_HTTP_GRACE_S = 3
# How long a connection may rest. The SDK's span processor rests for 5 s between its exports, which is also uvicorn's default: an
# export on a connection that is closed just then fails, and is sent once more for nothing.
_HTTP_KEEP_ALIVE_S = 120
_THREADS_END_S = 3.0


class Aggregator:
    """The running parts. Receives from :meth:`start` on, whether or not the store answers."""

    def __init__(self, settings: Settings, gate: Gate) -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.gate = gate
        self.spool = Spool(settings.data_dir / "spool.sqlite", settings.spool_bytes_max, settings.retry_delay_s)
        # Only now, because until the spool is open the folder may be another process's.
        _use_temporary_folder(settings.data_dir / "tmp")
        self.intake = Intake(self.spool, settings, gate)
        self.inserter = Inserter(self.spool, settings)
        self.metrics = AggregatorMetrics(settings, self.spool, self.intake, self.inserter)
        self.tls: TlsFiles | None = None
        self._grpc: grpc.Server | None = None

    def start(self) -> None:
        """Starts OTLP/gRPC and inserting.

        Raises:
            RuntimeError: the port is taken; nothing was started.
            TlsFilesError: the certificate cannot be used; nothing was started.
        """
        try:
            self.tls = tls_files(self.settings)
            self._grpc = start_grpc(self.intake, self.settings, self.tls)
        except (RuntimeError, TlsFilesError):
            self.spool.close()
            raise
        self.inserter.start()

    def readiness(self) -> dict[str, bool]:
        """What must hold before the aggregator calls itself ready, and whether it does."""
        progress = self.inserter.progress
        return {
            "migrated": progress.migrated,
            "replayed": progress.replayed,
            "inserting": self.inserter.is_running,
            "receiving": self._grpc is not None,
        }

    def treat(self, selection: Selection, treatment: Treatment) -> "Future[int]":
        """See :meth:`Inserter.treat`."""
        return self.inserter.treat(selection, treatment)

    def void(self, event_id: str, treatment: Treatment) -> "Future[bool]":
        """See :meth:`Inserter.void`."""
        return self.inserter.void(event_id, treatment)

    def between_batches(self, work: Callable[[Client], T]) -> "Future[T]":
        """See :meth:`Inserter.between_batches`."""
        return self.inserter.between_batches(work)

    def accept(self, signal: Signal, payload: bytes, binding: bytes) -> "Future[int]":
        """See :meth:`Intake.accept`."""
        return self.intake.accept(signal, payload, binding)

    def stop(self) -> bool:
        """Refuses what is new, finishes what is under way, inserts what waits; returns whether the spool is empty."""
        self.intake.close()
        if self._grpc is not None:
            self._grpc.stop(_GRPC_GRACE_S).wait()
        passing("stop_begun")
        empty = self.inserter.stop(self.settings.stop_timeout_s)
        passing("stop_inserted")
        self.spool.close()
        return empty


def _use_temporary_folder(folder: Path) -> None:
    """Has temporary files written here, and removes what an earlier process left: the embedded store makes one an insert."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder.resolve())


def _allow_connections() -> None:
    """Takes as many files as the system allows: each connection is one, and a shell's limit is often 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code, with which the process must end soon afterwards."""
    give_memory_back()
    _allow_connections()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # What uvicorn says of starting and stopping is said below, once for both of its servers.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # While a server is away, these would tell each attempt again, with all parameters of the request.
    for name in ("urllib3", "clickhouse_connect"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if is_embedded(settings.dsn) and importlib.util.find_spec("chdb") is None:
        logger.critical(
            "the embedded store needs chdb: pip install 'otel-credits[embedded]', or name a server in OTEL_CREDITS_STORE"
        )
        return 1
    try:
        gate = Gate(settings.tokens_path, required=bool(settings.tokens_file))
        check_listening(settings, gate)
    except (TokensFileError, Unprotected) as error:
        logger.critical("%s", error)
        return 1
    try:
        aggregator = Aggregator(settings, gate)
    except (OSError, sqlite3.Error) as error:
        logger.critical("the spool in %s cannot be opened: %s", settings.data_dir, error)
        return 1
    try:
        aggregator.start()
    except TlsFilesError as error:
        logger.critical("%s", error)
        return 1
    except RuntimeError as error:
        logger.critical("port %d (OTEL_CREDITS_GRPC_PORT) cannot be listened on: %s", settings.grpc_port, error)
        return 1
    return asyncio.run(_serve_http(aggregator))


def _end_within(seconds: float, code: int) -> None:
    """Ends the process if a thread that waits for the store still holds it then: all is in the store or the spool."""
    watchdog = threading.Timer(seconds, os._exit, (code,))
    watchdog.daemon = True
    watchdog.start()


async def _serve_http(aggregator: Aggregator) -> int:
    settings, tls = aggregator.settings, aggregator.tls
    receiver = create_http_receiver(aggregator.intake, settings.receive_threads)
    servers = [
        _HttpServer(receiver, settings, settings.http_port, tls),
        _HttpServer(create_app(settings, aggregator, gate=aggregator.gate), settings, settings.api_port, tls),
    ]
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(server.serve()) for server in servers]
    stopped = asyncio.create_task(stop.wait())
    logger.info(
        "listening on %s%s: OTLP/gRPC %d, OTLP/HTTP %d, API %d",
        settings.host,
        " (TLS)" if settings.tls_cert_file else "",
        settings.grpc_port,
        settings.http_port,
        settings.api_port,
    )
    # A server that ends by itself could not listen; uvicorn has said why.
    await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
    failed = not stop.is_set()
    aggregator.intake.close()
    for server in servers:
        server.should_exit = True
    # Whatever the API still waits for, it does not keep what was acknowledged from being inserted.
    await asyncio.wait(tasks, timeout=_HTTP_GRACE_S + 1)
    empty = await asyncio.to_thread(aggregator.stop)
    logger.info("stopped; the spool %s", "is empty" if empty else "is inserted at the next start")
    _end_within(_THREADS_END_S, int(failed))
    return int(failed)


class _HttpServer(uvicorn.Server):
    """A uvicorn server that leaves signals to us."""

    def __init__(self, app: ASGIApp, settings: Settings, port: int, tls: TlsFiles | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=port,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=_HTTP_GRACE_S,
                timeout_keep_alive=_HTTP_KEEP_ALIVE_S,
                **uvicorn_options(settings),
            )
        )
        if tls is not None:
            self.config.load()
            assert self.config.ssl is not None
            tls.follow(self.config.ssl)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn calls sys.exit where it cannot listen; within a task that would tear down the loop.
        with contextlib.suppress(SystemExit):
            await super().serve(sockets)
