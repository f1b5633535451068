"""rotel: an OpenTelemetry Collector in Rust (PyPI, `rotel`), here as a receiver that discards what it gets."""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Self

from otel_credits_aggregator.demo.processes import Process, accepts_connections, free_port

__all__ = ["Rotel", "rotel_version"]

_READY_TIMEOUT_S = 30.0
_RECEIVED_MIB_MAX = 64


def rotel_version() -> str:
    """The version that is installed."""
    return importlib.metadata.version("rotel")


class Rotel(Process):
    """A rotel agent that receives OTLP and discards it; it is ready inside the block."""

    def __init__(self, folder: Path) -> None:
        self.grpc_port, http_port = free_port(), free_port()
        options = {
            "otlp-grpc-endpoint": f"127.0.0.1:{self.grpc_port}",
            "otlp-http-endpoint": f"127.0.0.1:{http_port}",
            # The default of 4 MiB is less than 8,192 spans.
            "otlp-grpc-max-recv-msg-size-mib": str(_RECEIVED_MIB_MAX),
            "exporter": "blackhole",
            "pid-file": str(folder / "rotel.pid"),
            "log-file": str(folder / "rotel-agent.log"),
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        super().__init__("rotel", [str(_binary()), "start", *arguments], log_dir=folder)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.wait_for(lambda: accepts_connections(self.grpc_port), _READY_TIMEOUT_S, "rotel listens")
        except BaseException:
            self.terminate()
            raise
        return self


def _binary() -> Path:
    spec = importlib.util.find_spec("rotel")
    if spec is None or spec.origin is None:
        raise RuntimeError("rotel is not installed: make install")
    return Path(spec.origin).parent / "rotel-agent"
