"""`aliases list`, `aliases set`, `aliases remove`."""

from contextlib import closing
from typing import Annotated

import typer

from otel_credits_aggregator.cli import _tables
from otel_credits_aggregator.cli._arguments import AsJson, checked
from otel_credits_aggregator.cli._ledger import open_ledger
from otel_credits_aggregator.cli._output import print_rows
from otel_credits_aggregator.ledger import NewModelAlias

__all__ = ["add_to"]

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model, as it is reported.")]


def list_aliases(as_json: AsJson = False) -> None:
    """List models under another name."""
    with closing(open_ledger()) as ledger:
        rows = ledger.model_aliases()
    print_rows(rows, _tables.ALIAS, as_json=as_json, none="no aliases")


def set_alias(
    model: Model,
    price_model: Annotated[str, typer.Argument(metavar="PRICE_MODEL", help="The model of the price book that it is.")],
    source: Annotated[str, typer.Option(metavar="TEXT", help="Where this is from.")] = "",
    as_json: AsJson = False,
) -> None:
    """Price a model as another. What was already charged keeps its price; what waits as unpriced is charged."""
    new = checked(NewModelAlias, model=model, price_model=price_model, source=source)
    with closing(open_ledger()) as ledger:
        print_rows([ledger.set_model_alias(new)], _tables.ALIAS, as_json=as_json, none="")


def remove_alias(model: Model, as_json: AsJson = False) -> None:
    """Forget an alias. What was charged stays charged."""
    with closing(open_ledger()) as ledger:
        print_rows([ledger.remove_model_alias(model)], _tables.ALIAS, as_json=as_json, none="")


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    group = typer.Typer(no_args_is_help=True, help="Models under another name, as Azure deployments have.")
    group.command("list", epilog="Example: otel-credits aliases list")(list_aliases)
    group.command("set", epilog="Example: otel-credits aliases set our-gpt5-deployment gpt-5")(set_alias)
    group.command("remove", epilog="Example: otel-credits aliases remove our-gpt5-deployment")(remove_alias)
    app.add_typer(group, name="aliases")
