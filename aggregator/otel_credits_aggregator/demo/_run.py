"""The demo from start to end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from otel_credits_aggregator.demo._api import Api, served_requests
from otel_credits_aggregator.demo._drive import Driver
from otel_credits_aggregator.demo._examples import check_requirements, examples_dir
from otel_credits_aggregator.demo._options import DemoError, DemoOptions
from otel_credits_aggregator.demo._oracle import PriceBook, expected_accounts
from otel_credits_aggregator.demo._plan import Action, DemoUser, make_plan, make_users
from otel_credits_aggregator.demo._report import (
    Account,
    exactly,
    find_differences,
    make_console,
    patterns_table,
    users_table,
)
from otel_credits_aggregator.demo.processes import WaitTimeout, wait_until
from otel_credits_aggregator.demo.stack import Stack

DRAIN_TIMEOUT_S = 60.0
DRAIN_POLL_S = 0.25
# With the real API (ANTHROPIC_API_KEY) each answer costs real money, so the cheapest family is asked.
MODELS_PREFIX = "claude-"
REAL_MODELS_PREFIX = "claude-haiku-"
EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130


def run(options: DemoOptions) -> int:
    """Run the demo and return its exit code.

    Returns:
        0 if every balance is exactly what was really served, 1 if one is not or the demo could not be run (the
        reason is on stderr), 130 if it was interrupted before the comparison was made.
    """
    console = make_console()
    data_dir = _make_data_dir(options.keep)
    code = EXIT_FAILED
    try:
        with _sigterm_interrupts():
            code = _run_in(data_dir, options, console)
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has been ended")
        code = EXIT_INTERRUPTED
    except (DemoError, WaitTimeout, RuntimeError, OSError, httpx.HTTPError) as error:
        print(f"the demo could not be run: {error}", file=sys.stderr)
    finally:
        if options.keep or code == EXIT_FAILED:
            console.print(f"data and logs are left in {data_dir}", soft_wrap=True)
        else:
            shutil.rmtree(data_dir, ignore_errors=True)
    return code


def _make_data_dir(keep: bool) -> Path:
    """Return a new folder: under the current one if it is to be kept, else a temporary one."""
    if not keep:
        return Path(tempfile.mkdtemp(prefix="otel-credits-demo-"))
    folder = Path("otel-credits-data", f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}").resolve()
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that the children are ended in both cases."""

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_in(data_dir: Path, options: DemoOptions, console: Console) -> int:
    """Start everything, use it, compare; with ``keep``, wait for the interrupt."""
    check_requirements()
    examples = examples_dir()
    started_at = time.monotonic()
    console.print("starting the aggregator, the model server, the chat app and the Celery worker ...")
    with Stack(data_dir, examples, options.seed) as stack, contextlib.closing(Api(stack.api_url)) as api:
        console.print(f"all ready after {time.monotonic() - started_at:.1f} s; Celery's broker is {stack.broker_url}")
        users = make_users(options.users, options.seed)
        book = PriceBook(api.prices(), at=datetime.now(UTC))
        models = _models(book, console)
        plan = make_plan(users, models, options.usages, options.seed)
        month = datetime.now(UTC).month
        _use(stack, api, examples, users, plan, console)
        accounts = _read_accounts(api)
        expected = expected_accounts(users, plan, served_requests(stack.llm_url), book)
        console.print(patterns_table(plan), users_table(users, accounts, expected))
        differences = find_differences(users, accounts, expected, same_month=month == datetime.now(UTC).month)
        _print_sums(api, accounts, console)
        for difference in differences:
            console.print(f"DIFFERENCE {difference}", soft_wrap=True)
        seconds = time.monotonic() - started_at
        if not differences:
            console.print(f"all {len(users)} balances are exactly what was served ({seconds:.0f} s)")
        if options.keep:
            _keep(stack, console)
    return EXIT_FAILED if differences else EXIT_DONE


def _models(book: PriceBook, console: Console) -> list[str]:
    """Return the models that the users ask. Raises DemoError if the price book has none."""
    real = bool(os.environ.get("ANTHROPIC_API_KEY"))
    if real:
        console.print("ANTHROPIC_API_KEY is set: the real API answers, and its provider charges for it")
    models = book.models(REAL_MODELS_PREFIX if real else MODELS_PREFIX)
    if not models:
        raise DemoError("the price book has no model to ask")
    return models


def _use(
    stack: Stack, api: Api, examples: Path, users: Sequence[DemoUser], plan: Sequence[Action], console: Console
) -> None:
    """Add the users, perform the plan, and wait until everything has reached the ledger; show how far it is."""
    usages = sum(action.pattern.is_usage for action in plan)
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        granting = progress.add_task("users and grants", total=len(users))
        using = progress.add_task("actions of the users", total=len(plan))
        charging = progress.add_task("usages in the ledger", total=usages)
        for user in users:
            api.set_profile(user.id, user.email, user.name)
            api.grant(user.id, user.granted, "welcome")
            progress.advance(granting)
        script_env = stack.app_env | {"OTEL_SERVICE_NAME": "scripts"}
        Driver(stack.app_url, examples, stack.log_dir, script_env, lambda _: progress.advance(using)).perform(plan)

        def everything_is_charged() -> bool:
            charged = api.accounting()["charged"]
            progress.update(charging, completed=charged)
            return charged >= usages and api.is_drained()

        with contextlib.suppress(WaitTimeout):  # What is missing then shows in the comparison.
            wait_until(everything_is_charged, DRAIN_TIMEOUT_S, "every usage is in the ledger", interval_s=DRAIN_POLL_S)


def _read_accounts(api: Api) -> dict[str, Account]:
    """Return every account as the ledger's view shows it, by user id."""
    rows = api.sql(
        "SELECT user_id, lifetime_granted, lifetime_consumed, current_balance, current_month_consumed "
        "FROM user_credit_balances"
    )
    return {row["user_id"]: _account(row) for row in rows}


def _account(row: dict[str, Any]) -> Account:
    return Account(
        granted=Decimal(row["lifetime_granted"]),
        consumed=Decimal(row["lifetime_consumed"]),
        balance=Decimal(row["current_balance"]),
        this_month=Decimal(row["current_month_consumed"]),
    )


def _print_sums(api: Api, accounts: dict[str, Account], console: Console) -> None:
    """Print what became of all spans, and the sums over all users."""
    counts = _settled_accounting(api)
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if name != "received")
    console.print(f"{counts['received']} spans received: {words}")
    consumed = sum((account.consumed for account in accounts.values()), Decimal(0))
    console.print(f"consumed by all: {exactly(consumed)} credits")


def _settled_accounting(api: Api) -> dict[str, int]:
    """The sums once every span has its outcome; the apps' own traces come in a little after the usage."""
    seen: list[dict[str, int]] = []

    def adds_up() -> bool:
        seen.append(api.accounting())
        return seen[-1]["received"] == sum(count for name, count in seen[-1].items() if name != "received")

    wait_until(adds_up, DRAIN_TIMEOUT_S, "every span has an outcome", interval_s=DRAIN_POLL_S)
    return seen[-1]


def _keep(stack: Stack, console: Console) -> None:
    """Print where everything is and wait for Ctrl-C."""
    console.print("\nleft running until Ctrl-C:")
    for name, address in stack.addresses().items():
        console.print(f"  {name:<36} {address}", soft_wrap=True)
    console.print(f"  try: OTEL_CREDITS_URL={stack.api_url} otel-credits events", soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    console.print("ending")
