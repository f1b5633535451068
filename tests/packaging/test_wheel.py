"""The wheel, as a stranger installs it."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*command: object, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON"))}
    words = [str(word) for word in command]
    return subprocess.run(
        words, cwd=cwd, env={**kept, **environ}, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, REPOSITORY, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an empty environment with nothing but the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    constraints = ("--constraint", REPOSITORY / "constraints.txt")
    done = run(python, "-m", "pip", "install", "--quiet", *constraints, wheel, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def test_the_wheel_has_the_sql_and_the_types(wheel: Path) -> None:
    """Both packages are typed, and every migration, query and the schema travel in the wheel."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"otel_credits/py.typed", "otel_credits_aggregator/py.typed"} <= names
    for folder in ("migrations", "queries"):
        for path in (REPOSITORY / "clickhouse" / folder).glob("*.sql"):
            assert f"otel_credits_aggregator/_clickhouse/{folder}/{path.name}" in names
    assert "otel_credits_aggregator/_clickhouse/otlp.proto" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]


def test_the_plain_install_is_light(light: Path) -> None:
    """An app that tracks usage gets no ClickHouse client, no web framework and no Celery with it."""
    done = run(light, "-m", "pip", "list", "--format=freeze", cwd=light.parent)
    installed = {line.partition("==")[0].lower() for line in done.stdout.splitlines()}
    assert "otel-credits" in installed
    heavy = {"clickhouse-connect", "chdb", "fastapi", "starlette", "uvicorn", "celery", "pydantic", "typer"}
    assert not installed & heavy


def test_the_plain_install_tracks(light: Path) -> None:
    """The library works from the wheel alone; with nothing set up a call is a no-op."""
    code = (
        "from otel_credits import ActionType, track_compute_usage; track_compute_usage('u', ActionType.BULK_OPERATION)"
    )
    done = run(light, "-c", code, cwd=light.parent)
    assert done.returncode == 0, done.stderr


def test_the_command_says_what_to_install(light: Path) -> None:
    """Without the server's packages the command names the extra instead of a traceback."""
    done = run(light.with_name("otel-credits"), "serve", cwd=light.parent)
    assert done.returncode == 1
    assert "pip install 'otel-credits[embedded]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_ledger_works_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """The installed copy migrates an embedded store and answers from it, with no repository around."""
    installed = tmp_path / "installed"
    done = run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", installed, wheel, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    environ = {"PYTHONPATH": str(installed), "OTEL_CREDITS_DATA_DIR": str(tmp_path / "data")}
    where = run(sys.executable, "-c", "import otel_credits_aggregator as o; print(o.__file__)", cwd=tmp_path, **environ)
    assert where.stdout.startswith(str(installed))
    for words in (["migrate"], ["grant", "ada", "1.5", "--reason", "test"], ["balance", "ada", "--json"]):
        done = run(sys.executable, "-m", "otel_credits_aggregator", *words, cwd=tmp_path, **environ)
        assert done.returncode == 0, done.stderr
    assert '"current_balance": "1.5"' in done.stdout
