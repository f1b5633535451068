"""What the figures were measured on."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir

__all__ = ["LOAD_HIGH_PER_CORE", "description", "load_per_core"]

# Above this, others use the machine so much that the figures say little.
LOAD_HIGH_PER_CORE = 0.25


def load_per_core() -> float:
    """How many processes wanted each core in the last minute, on average."""
    return os.getloadavg()[0] / _cores()


def description() -> list[tuple[str, str]]:
    """Name and value of what matters."""
    return [
        ("processor", f"{_cpu_model()}, {_cores()} cores"),
        ("memory", f"{_memory_gib():.0f} GiB"),
        ("file system of the stores", _file_system(Path(gettempdir()))),
        ("system", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        ("ClickHouse (chDB)", _clickhouse_version()),
        ("grpcio", importlib.metadata.version("grpcio")),
        ("OpenTelemetry SDK", importlib.metadata.version("opentelemetry-sdk")),
        ("otel-credits", importlib.metadata.version("otel-credits")),
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def _file_system(folder: Path) -> str:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(holding, key=lambda mount: len(mount[1]))[2] if holding else "unknown"


def _clickhouse_version() -> str:
    # In another process: the engine would stay in this one.
    code = "import chdb; print(chdb.engine_version)"
    return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
