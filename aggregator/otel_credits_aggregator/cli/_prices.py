"""`prices list`, `prices set`."""

from contextlib import closing
from typing import Annotated

import typer

from otel_credits_aggregator.cli import _tables
from otel_credits_aggregator.cli._arguments import AsJson, checked
from otel_credits_aggregator.cli._ledger import open_ledger
from otel_credits_aggregator.cli._output import print_rows
from otel_credits_aggregator.ledger import NewPrice

__all__ = ["add_to"]

_SHOWN = ("current", "future")


def list_prices(
    action: Annotated[str | None, typer.Option(help="Only this action ('*': the prices of any action).")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also prices that no longer apply.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the price book: what applies now or will apply."""
    with closing(open_ledger()) as ledger:
        book = ledger.prices()
    rows = [
        price
        for price in book
        if (everything or price.status in _SHOWN)
        and action in (None, price.action_type)
        and model in (None, price.model)
    ]
    print_rows(rows, _tables.PRICE, as_json=as_json, none="no such price")


def set_price(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="The action; '*' for any.")],
    credits: Annotated[str, typer.Argument(metavar="CREDITS", help="Credits for one unit, a decimal number.")],
    model: Annotated[str, typer.Option(help="The model; '*' for any.")] = "*",
    unit: Annotated[
        str, typer.Option(help="The unit: call, second, input_token, output_token, ... or your own.")
    ] = "call",
    effective_from: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TIME", help="Price usage that ends then or later (ISO 8601, UTC). Default: now."
        ),
    ] = None,
    source: Annotated[str, typer.Option(help="Where the price is from.")] = "",
    as_json: AsJson = False,
) -> None:
    """Add a price. What was already charged keeps its price; what waits as unpriced is charged."""
    new = checked(
        NewPrice,
        action_type=action,
        model=model,
        unit=unit,
        credits_per_unit=credits,
        effective_from=effective_from,
        source=source,
    )
    with closing(open_ledger()) as ledger:
        print_rows([ledger.set_price(new)], _tables.PRICE, as_json=as_json, none="")


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    prices = typer.Typer(no_args_is_help=True, help="The price book: credits for a unit of an action and model.")
    prices.command("list", epilog="Example: otel-credits prices list --model claude-sonnet-4-5")(list_prices)
    prices.command(
        "set", epilog="Example: otel-credits prices set ai_chat_message 0.000015 --model my-model --unit output_token"
    )(set_price)
    app.add_typer(prices, name="prices")
