"""Every benchmark works, in its quickest form. Nothing is said about speed here: this machine may be busy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import clean_environment

REPOSITORY = Path(__file__).resolve().parents[2]
# Name of the benchmark, and how many figures it gives.
BENCHMARKS = {
    "ingest": 12,
    "tracking": 3,
    "app_spool": 4,
    "metering": 2,
    "overhead": 49,
    "balance_under_load": 5,
    "balance_growth": 4,
    "latency": 3,
    "memory": 6,
}
TOTALS_FIGURES = 14
README = """Prose before.

<!-- figures: written by `make bench`, do not edit -->
old figures
<!-- end of figures -->

Prose after.
"""
README_TOTALS = """
<!-- figures: written by `make totals`, do not edit -->
<!-- end of the figures of totals -->
"""


def run(*arguments: str, program: str = "benchmarks") -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks`, from the repository root as `make bench` does."""
    command = [sys.executable, "-m", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=clean_environment(), timeout=280)


@pytest.mark.long
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_gives_its_figures(name: str, tmp_path: Path) -> None:
    """Each benchmark runs alone, checks its own counting, and gives all its figures; none of them is negative."""
    done = run(name, "--quick", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert report["title"] in done.stdout
    assert len(report["figures"]) == BENCHMARKS[name]
    assert all(figure["value"] >= 0 for figure in report["figures"])


def test_every_benchmark_is_tested() -> None:
    """A benchmark that is added is in this test, too: the help lists exactly those that are tested here."""
    shown = " ".join(run("--help").stdout.split())
    assert f"NAME {', '.join(BENCHMARKS)} options:" in shown


def test_the_figures_are_written_between_the_markers(tmp_path: Path) -> None:
    """The section of the README is replaced with the machine and the figures; the prose around it stays."""
    readme = tmp_path / "README.md"
    readme.write_text(README, "utf-8")
    done = run("tracking", "--quick", "--readme", str(readme))
    assert done.returncode == 0, done.stdout + done.stderr
    text = readme.read_text("utf-8")
    assert text.startswith("Prose before.\n\n<!-- figures")
    assert text.endswith("<!-- end of figures -->\n\nProse after.\n")
    assert "old figures" not in text
    for expected in ("| processor |", "| ClickHouse (chDB) |", "| load before the start |", "### Tracking"):
        assert expected in text


def test_a_readme_without_markers_is_left_alone(tmp_path: Path) -> None:
    """If the markers are missing, nothing is written and the run fails."""
    readme = tmp_path / "README.md"
    readme.write_text("No markers.", "utf-8")
    assert run("tracking", "--quick", "--readme", str(readme)).returncode != 0
    assert readme.read_text("utf-8") == "No markers."


@pytest.mark.long
def test_totals_are_measured_apart(tmp_path: Path) -> None:
    """`make totals` finds the total that it broke and no other, and writes its figures between its own markers only."""
    readme, figures = tmp_path / "README.md", tmp_path / "figures.json"
    readme.write_text(README + README_TOTALS, "utf-8")
    options = ("--events", "20000", "--readme", str(readme), "--json", str(figures))
    done = run(*options, program="benchmarks.totals")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(figures.read_text("utf-8"))
    assert report["title"] == "Totals of 20,000 events of 200 users"
    assert len(report["figures"]) == TOTALS_FIGURES
    assert all(figure["value"] >= 0 for figure in report["figures"])
    text = readme.read_text("utf-8")
    assert text.startswith(README)
    assert f"### {report['title']}" in text.removeprefix(README)


def test_the_readme_has_room_for_the_figures_of_totals() -> None:
    """The markers that `make totals` writes between are in the README, once, so that a run of half an hour is not lost."""
    text = (REPOSITORY / "benchmarks/README.md").read_text("utf-8")
    assert [text.count(marker) for marker in README_TOTALS.split("\n") if marker] == [1, 1]
