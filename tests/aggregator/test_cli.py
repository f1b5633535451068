"""The command: what it prints, its exit codes, and odd input. Processes and servers: test_cli_processes.py."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from otel_credits_aggregator.cli import app
from otel_credits_aggregator.store import Client
from support.processes import free_port
from support.store import Usage, insert_usages
from typer.main import get_command
from typer.testing import CliRunner, Result

Run = Callable[..., Result]


@pytest.fixture
def run(memory_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command in this process, on a store of the test's own and without any server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OTEL_CREDITS_URL", raising=False)
    monkeypatch.setenv("OTEL_CREDITS_STORE", memory_dsn)
    monkeypatch.setenv("OTEL_CREDITS_API_PORT", str(free_port()))
    monkeypatch.setenv("COLUMNS", "300")
    return lambda *arguments: CliRunner().invoke(app, arguments)


def _rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command that does something by itself."""
    children = getattr(command, "commands", None)
    if children is None or command.invoke_without_command:
        yield path
    for name, child in (children or {}).items():
        yield from _commands(child, (*path, name))


ALL_COMMANDS = [path for path in _commands(get_command(app)) if path]


def test_the_commands_are_those_of_the_design() -> None:
    """All commands that others script against are there."""
    assert {path[0] for path in ALL_COMMANDS} == {
        *("serve", "migrate", "demo", "sql", "balance", "events", "void", "grant"),
        *(
            "users",
            "prices",
            "rules",
            "aliases",
            "conventions",
            "quarantine",
            "reconcile",
            "rebuild",
            "backup",
            "restore",
            "tokens",
        ),
    }
    assert {("users", "set"), ("users", "list"), ("prices", "set"), ("prices", "list")} <= set(ALL_COMMANDS)


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: tuple[str, ...]) -> None:
    """--help says what a command does and shows it in use."""
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert f"otel-credits {' '.join(command)}" in result.stdout.partition("Example:")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("balance",),
        ("balance", ""),
        ("balance", "u", "v"),
        ("balance", "x" * 513),
        ("events", "--limit", "0"),
        ("events", "--limit", "many"),
        ("events", "--nonsense"),
        ("grant", "u"),
        ("grant", "u", "0"),
        ("grant", "u", "-1"),
        ("grant", "u", "--", "-1"),
        ("grant", "u", "abc"),
        ("grant", "u", "NaN"),
        ("grant", "u", "Infinity"),
        ("grant", "u", "0.0000000000001"),
        ("grant", "u", "1000000000000000001"),
        ("grant", "u", "1", "--id", ""),
        ("users", "set", "u"),
        ("users", "nonsense"),
        ("prices", "set", "render"),
        ("prices", "set", "render", "--", "-1"),
        ("prices", "set", "", "1"),
        ("prices", "set", "render", "1", "--unit", ""),
        ("prices", "set", "render", "1", "--from", "2026"),
        ("prices", "set", "render", "1", "--from", "tomorrow"),
        ("reconcile", "--by", "me"),
        ("reconcile", "--clients", "--fix"),
        ("reconcile", "--series", "--fix"),
        ("reconcile", "--series", "--clients"),
        ("reconcile", "--series", "--user", "u"),
        ("rebuild", "u"),
        ("backup",),
        ("restore",),
        ("rules", "set"),
        ("rules", "set", "r"),
        ("rules", "set", "r", "--action", "a"),
        ("rules", "set", "", "--action", "a", "--span-name", "x"),
        ("rules", "set", "r", "--action", "", "--span-name", "x"),
        ("rules", "set", "r", "--action", "a", "--kind", "SERVER"),
        ("rules", "set", "r", "--action", "a", "--status", "failed"),
        ("rules", "set", "r", "--action", "a", "--status", "error"),
        ("rules", "set", "r", "--action", "a", "--attribute", "no-equals-sign"),
        ("rules", "set", "r", "--action", "a", "--attribute", "=x"),
        ("rules", "set", "r", "--action", "a", "--attribute", "k=1", "--attribute", "k=2"),
        ("rules", "set", "r", "--action", "a", "--span-name", "x", "--quantity", "call=two"),
        ("rules", "set", "r", "--action", "a", "--span-name", "x", "--priority", "first"),
        ("aliases", "set", "gpt"),
        ("aliases", "set", "gpt", "gpt"),
        ("aliases", "set", "", "gpt"),
        ("aliases", "set", "gpt", ""),
        ("aliases", "remove"),
        ("conventions", "set"),
        ("conventions", "set", "acme.llm"),
        ("conventions", "set", "", "--input-includes-cache"),
        ("conventions", "set", "acme.llm", "--input-includes-cache", "--input", ""),
        ("conventions", "set", "acme.llm", "--input-includes-cache", "--input", "tokens", "--output", "tokens"),
        ("conventions", "set", "acme.llm", "--input-includes-cache", "--version-from", "newest"),
        (
            "conventions",
            "set",
            "acme.llm",
            "--input-includes-cache",
            "--version-from",
            "1.10",
            "--version-until",
            "1.9",
        ),
        ("conventions", "set", "acme.llm", "--input-includes-cache", "--stream-flaw", "output"),
        ("conventions", "set", "acme.llm", "--input-includes-cache", "--stream-flaw", "all", "--stream", "s"),
        ("conventions", "set", "acme.llm", "--input-includes-cache", "--stream-order", "one"),
        ("conventions", "set", "acme.llm", "--input-includes-cache", "--answers", "acme.reply#usage"),
        ("conventions", "set", "acme.llm", "--input-includes-cache", "--earlier-calls", "#/before"),
        ("conventions", "set", "acme.llm", "--input-includes-cache", "--stream-order", "a#", "--stream-order", "b"),
        ("conventions", "set", "acme.llm", "--input-includes-cache", "--preference", "256"),
        ("conventions", "remove"),
        ("rules", "on"),
        ("rules", "test", "fastapi-routes"),
        ("rules", "test", "fastapi-routes", "--otlp", "no-such-file"),
        ("rules", "test", "fastapi-routes", "--since", "1h"),
        ("rules", "test", "fastapi-routes", "--stored", "--since", "1 hour"),
        ("quarantine", "list", "--since", "yesterday"),
        ("quarantine", "list", "--until", "2026"),
        ("quarantine", "show"),
        ("quarantine", "show", "no-uuid"),
        ("quarantine", "replay", "no-uuid"),
        ("quarantine", "assign", "--reason", "no_user"),
        ("quarantine", "assign", "--user", "u"),
        ("quarantine", "assign", "--user", "", "--reason", "no_user"),
        ("quarantine", "assign", "no-uuid", "--user", "u"),
        ("quarantine", "discard", "--reason", "no_user"),
        ("quarantine", "discard", "--comment", "", "--reason", "no_user"),
        ("quarantine", "discard", "--comment", "why"),
        ("quarantine", "export"),
        ("quarantine", "import"),
        ("sql",),
        ("demo", "--users", "0"),
        ("demo", "--usages", "x"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_end_with_2(run: Run, memory_store: Client, arguments: tuple[str, ...]) -> None:
    """A wrong argument ends with 2, says on stderr what is wrong, and changes nothing."""
    prices = memory_store.command("SELECT count() FROM credit_action_costs")
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    if arguments:
        assert (result.stdout, "Error" in result.stderr) == ("", True)
    for table, count in {"credit_grants": 0, "user_profiles": 0, "credit_action_costs": prices}.items():
        assert memory_store.command(f"SELECT count() FROM {table}") == count


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("balance", "nobody"), "nobody"),
        (("balance", "nobody", "--json"), "nobody"),
        (("sql", "SELECT nonsense"), "nonsense"),
        (("sql", "DROP TABLE users"), "only reading"),
        (("rules", "on", "unheard-of"), "rules list"),
        (("conventions", "remove", "unheard-of"), "conventions list"),
        (("aliases", "remove", "unheard-of"), "aliases list"),
        (("quarantine", "replay"), "otel-credits serve"),
        (("reconcile", "--fix"), "otel-credits serve"),
        (("rebuild",), "otel-credits serve"),
        (("backup", "some-folder"), "ClickHouse's own BACKUP"),
        (("restore", "no-such-folder"), "OTEL_CREDITS_STORE"),
        (("quarantine", "show", "0d9e8a5c-5b1f-4a51-8f0e-2f6f1a1f4d3b"), "0d9e8a5c"),
        (("quarantine", "assign", "--reason", "no_user", "--user", "u"), "otel-credits serve"),
        (("quarantine", "discard", "--reason", "no_user", "--comment", "why"), "otel-credits serve"),
        (("quarantine", "import", "no-such-file"), "no-such-file"),
    ],
)
def test_what_could_not_be_done_ends_with_1(run: Run, arguments: tuple[str, ...], reason: str) -> None:
    """What could not be done ends with 1 and one line on stderr that says why."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("otel-credits: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ("events",),
        ("users", "list"),
        ("quarantine",),
        ("quarantine", "list"),
        ("quarantine", "summary"),
        ("reconcile",),
        ("reconcile", "--series"),
        ("prices", "list", "--model", "unheard-of"),
        ("sql", "SELECT 1 WHERE 0"),
    ],
    ids=" ".join,
)
def test_nothing_is_an_empty_array_or_a_sentence(run: Run, command: tuple[str, ...]) -> None:
    """With nothing to show, --json prints an empty array, and a person is told so."""
    assert _rows(run(*command, "--json")) == []
    assert run(*command).stdout.strip().count("\n") == 0


def test_grant_then_balance(run: Run) -> None:
    """What is granted is in the balance, once for an id, and printed without exponent or superfluous zeros."""
    granted = run("grant", "u", "100.50", "--reason", "welcome", "--id", "g")
    assert (granted.exit_code, granted.stdout) == (0, "granted 100.5 credits to u (grant g)\n")
    again = run("grant", "u", "100.5", "--id", "g")
    assert again.exit_code == 0
    assert "nothing was added" in again.stdout
    assert run("grant", "u", "1", "--id", "g").exit_code == 1
    (balance,) = _rows(run("balance", "u", "--json"))
    assert balance["current_balance"] == "100.5"
    assert "100.5 " in run("balance", "u").stdout


def test_tiny_amounts_are_written_out(run: Run, memory_store: Client) -> None:
    """The smallest amount is written with all its digits, in tables and in JSON."""
    insert_usages(memory_store, Usage("u", amount=Decimal("1e-12")))
    assert "0.000000000001" in run("events").stdout
    assert _rows(run("events", "--json"))[0]["credits_charged"] == "0.000000000001"
    assert "-0.000000000001" in run("balance", "u").stdout


def test_events_of_a_user(run: Run, memory_store: Client) -> None:
    """Events come newest first, of the user that was asked for, as many as asked for."""
    now = datetime.now(UTC)
    usages = [Usage("u", f"action_{n}", Decimal(n), now.replace(microsecond=n)) for n in range(1, 4)]
    insert_usages(memory_store, *usages, Usage("v", "other", Decimal(9), now.replace(microsecond=9)))
    rows = _rows(run("events", "--user", "u", "--limit", "2", "--json"))
    assert [row["action_type"] for row in rows] == ["action_3", "action_2"]
    assert "other" in run("events").stdout


def test_the_two_queries_of_the_design_work(run: Run, memory_store: Client) -> None:
    """The two queries that people have in their notebooks work word for word, as tables and as JSON."""
    run("users", "set", "u", "--email", "u@example.com")
    insert_usages(memory_store, Usage("u", "render", Decimal("0.5"), attributes={"credits.description": "a page"}))
    latest = """SELECT u.email, ce.action_type, ce.credits_charged, ce.description, ce.created_at
FROM credit_usage_events ce JOIN users u ON u.id = ce.user_id
ORDER BY ce.created_at DESC LIMIT 20;"""
    balances = """SELECT u.email, cb.current_balance, cb.current_month_consumed
FROM user_credit_balances cb JOIN users u ON u.id = cb.user_id;"""
    (event,) = _rows(run("sql", latest, "--json"))
    assert list(event) == ["email", "action_type", "credits_charged", "description", "created_at"]
    assert (event["email"], event["credits_charged"]) == ("u@example.com", "0.5")
    expected = {"email": "u@example.com", "current_balance": "-0.5", "current_month_consumed": "0.5"}
    assert _rows(run("sql", balances, "--json")) == [expected]
    assert all(text in run("sql", balances).stdout for text in (*expected, *expected.values()))


def test_profile_is_kept_and_listed(run: Run) -> None:
    """A profile is set piece by piece, and listed."""
    run("users", "set", "u", "--email", "u@example.com")
    assert _rows(run("users", "set", "u", "--name", "U", "--json")) == [
        {"id": "u", "email": "u@example.com", "name": "U"}
    ]
    assert "u@example.com" in run("users", "list").stdout


def test_price_is_set_and_listed(run: Run, memory_store: Client) -> None:
    """A price set from now on is listed as current and prices the next usage; an older one shows with --all."""
    assert run("prices", "set", "render", "0.25", "--unit", "page", "--source", "board").exit_code == 0
    assert run("prices", "set", "render", "0.50", "--unit", "page").exit_code == 0
    (current,) = _rows(run("prices", "list", "--action", "render", "--json"))
    assert (current["credits_per_unit"], current["model"], current["status"]) == ("0.5", "*", "current")
    both = _rows(run("prices", "list", "--action", "render", "--all", "--json"))
    assert [price["status"] for price in both] == ["past", "current"]
    insert_usages(memory_store, Usage("u", "render", attributes={"credits.units.page": "2"}))
    assert _rows(run("events", "--json"))[0]["credits_charged"] == "1"


def test_price_of_a_date_prices_usage_from_then_on(run: Run) -> None:
    """--from takes a date or a time; without a zone it is UTC."""
    run("prices", "set", "render", "1", "--from", "2026-01-31")
    run("prices", "set", "render", "2", "--model", "m", "--from", "2026-01-31T12:00:00+02:00")
    rows = _rows(run("prices", "list", "--action", "render", "--json"))
    assert [row["effective_from"] for row in rows] == ["2026-01-31T00:00:00Z", "2026-01-31T10:00:00Z"]


def test_starter_prices_are_listed(run: Run) -> None:
    """A fresh store has a price book, with the source of each price."""
    rows = _rows(run("prices", "list", "--json"))
    assert len(rows) > 10
    assert all(row["source"] for row in rows)


def test_quarantine_says_what_to_do(run: Run, memory_store: Client) -> None:
    """What could not be charged is listed with its reason, and each reason with what to do."""
    insert_usages(memory_store, Usage("u", "unheard_of"), Usage(None, "render"))
    shown = run("quarantine").stdout
    assert "otel-credits prices set" in shown
    assert shown == run("quarantine", "list").stdout
    assert [row["user_id"] for row in _rows(run("quarantine", "--reason", "unpriced", "--json"))] == ["u"]
    assert [row["reason"] for row in _rows(run("quarantine", "list", "--user", "u", "--json"))] == ["unpriced"]
    assert {row["reason"] for row in _rows(run("quarantine", "summary", "--json"))} == {"unpriced", "no_user"}


def test_reconcile_ends_with_1_if_a_total_is_wrong(run: Run, memory_store: Client) -> None:
    """A total that is not the sum of its entries is shown, and the exit code tells scripts."""
    run("grant", "u", "5")
    assert run("reconcile").exit_code == 0
    memory_store.command("TRUNCATE TABLE user_month_totals")
    result = run("reconcile", "--user", "u", "--json")
    assert result.exit_code == 1
    (row,) = json.loads(result.stdout)
    assert (row["total"], row["expected"], row["found"]) == ("granted", "5", "0")
    assert "1 totals differ" in result.stderr


def test_text_of_others_cannot_dress_up(run: Run) -> None:
    """Names from outside are shown as they are: no markup, no colours, no codes that a terminal would obey."""
    name = "[red]x[/red]\x1b[31m\r\nü🦊\u202e"
    run("users", "set", "u", "--name", name)
    shown = run("users", "list").stdout
    assert "[red]x[/red]\\x1b[31m\\r\\nü🦊\\u202e" in shown
    assert _rows(run("users", "list", "--json"))[0]["name"] == name


def test_all_faults_of_the_settings_are_told_together(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong settings end with 1 and are told all at once, by the names that people set, without secrets."""
    monkeypatch.setenv("OTEL_CREDITS_API_PORT", "x")
    monkeypatch.setenv("OTEL_CREDITS_GRPC_PORT", "0")
    monkeypatch.setenv("OTEL_CREDITS_STORE", "clickhouse://me:secret@host")
    for command in (("serve",), ("balance", "u"), ("migrate",)):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "OTEL_CREDITS_API_PORT" in result.stderr
        assert "OTEL_CREDITS_GRPC_PORT" in result.stderr
        assert "secret" not in result.stderr
