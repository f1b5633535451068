"""`rules list`, `rules set`, `rules on`, `rules off`, `rules test`."""

import re
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from otel_credits_aggregator.cli import _tables
from otel_credits_aggregator.cli._arguments import AsJson, checked
from otel_credits_aggregator.cli._ledger import open_ledger
from otel_credits_aggregator.cli._output import print_rows
from otel_credits_aggregator.ledger import Ledger, NewRule, QuarantineFilter, RuleCharge
from otel_credits_aggregator.otlp import Signal, from_json, parse
from otel_credits_aggregator.outcomes import BadRequest

__all__ = ["add_to"]

RuleId = Annotated[str, typer.Argument(metavar="RULE", help="The rule's id.")]


def list_rules(
    only_enabled: Annotated[bool, typer.Option("--on", help="Only rules that are on.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the billing rules in the order in which they are asked."""
    with closing(open_ledger()) as ledger:
        rules = [rule for rule in ledger.rules() if rule.enabled or not only_enabled]
    print_rows(rules, _tables.RULE, as_json=as_json, none="no such rule")


def set_rule(
    rule: RuleId,
    action: Annotated[str, typer.Option(metavar="ACTION", help="What a span is a usage of.")],
    attribute: Annotated[
        list[str] | None, typer.Option(metavar="KEY=TEXT", help="An attribute with exactly this text. Repeatable.")
    ] = None,
    attribute_prefix: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=PREFIX", help="An attribute whose text begins so; KEY= is any text. Repeatable."),
    ] = None,
    span_name: Annotated[str, typer.Option(help="The span's whole name.")] = "",
    span_name_prefix: Annotated[str, typer.Option(help="How the span's name begins.")] = "",
    kind: Annotated[str, typer.Option(help="internal, server, client, producer or consumer.")] = "",
    scope: Annotated[str, typer.Option(help="The instrumentation, by its scope's name.")] = "",
    service: Annotated[str, typer.Option(help="The service, by its name.")] = "",
    status: Annotated[str, typer.Option(help="unset, ok or error.")] = "",
    charge_failed: Annotated[
        bool, typer.Option("--charge-failed", help="Charge spans with status error, too; without, they are free.")
    ] = False,
    quantity: Annotated[
        list[str] | None,
        typer.Option(
            metavar="UNIT=SOURCE",
            help="A quantity of a unit: one, seconds, or attribute:NAME. Repeatable. Default: call=one.",
        ),
    ] = None,
    priority: Annotated[int, typer.Option(help="Of the rules that match, the lowest number decides.")] = 100,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    enabled: Annotated[bool, typer.Option("--on/--off", help="Whether it counts from now on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add a rule, or replace the one with this id. Spans that meet all of its conditions are usages of its action."""
    new = checked(
        NewRule,
        rule_id=rule,
        action_type=action,
        attributes=_pairs("--attribute", attribute),
        attribute_prefixes=_pairs("--attribute-prefix", attribute_prefix),
        span_name=span_name,
        span_name_prefix=span_name_prefix,
        kind=kind,
        scope_name=scope,
        service_name=service,
        status=status,
        charge_failed=charge_failed,
        quantities=_pairs("--quantity", quantity) or None,
        priority=priority,
        note=note,
        enabled=enabled,
    )
    with closing(open_ledger()) as ledger:
        print_rows([ledger.set_rule(new)], _tables.RULE, as_json=as_json, none="")


def switch_on(rule: RuleId, as_json: AsJson = False) -> None:
    """Switch a rule on: spans that are received from now on are charged by it."""
    _switch(rule, True, as_json)


def switch_off(rule: RuleId, as_json: AsJson = False) -> None:
    """Switch a rule off. What it charged stays charged."""
    _switch(rule, False, as_json)


def try_rule(
    rule: RuleId,
    otlp: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="An OTLP trace request, protobuf or JSON (.json). Repeatable.",
        ),
    ] = None,
    stored: Annotated[
        bool, typer.Option("--stored", help="The spans of the last hours (OTEL_CREDITS_KEEP_REQUESTS_H).")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Of these, what was received then or later (ISO 8601, UTC), or so long ago: 30m, 2h."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a rule would charge for spans, whether it is on or off; nothing is charged or kept."""
    if bool(otlp) == stored or (since and not stored):
        raise typer.BadParameter("give either --otlp FILE, or --stored, which takes --since")
    request = b"".join(_request(path) for path in otlp or ())
    moment = _moment(since) if since else None
    with closing(open_ledger()) as ledger:
        rows = _tried_on_stored(ledger, rule, moment) if stored else ledger.test_rule(rule, request)
    print_rows(rows, _tables.RULE_CHARGE, as_json=as_json, none="the rule would charge none of these spans")


def _tried_on_stored(ledger: Ledger, rule: str, since: datetime | None) -> Sequence[RuleCharge]:
    """The charges; what they are for is said beside them, where it is in no program's way."""
    found = ledger.test_rule_on_stored(rule, since)
    first = f", received from {found.received_from:%Y-%m-%d %H:%M:%S} (UTC) on" if found.received_from else ""
    print(f"tested on {found.spans} spans of {found.requests} requests that are kept{first}", file=sys.stderr)
    return found.charges


def _moment(text: str) -> datetime | None:
    """A time, or how long ago it is."""
    ago = re.fullmatch("([0-9]{1,6})([mh])", text)
    if ago is None:
        return checked(QuarantineFilter, since=text).since
    return datetime.now(UTC) - timedelta(minutes=int(ago[1]) * {"m": 1, "h": 60}[ago[2]])


def _switch(rule: str, enabled: bool, as_json: bool) -> None:
    with closing(open_ledger()) as ledger:
        print_rows([ledger.switch_rule(rule, enabled)], _tables.RULE, as_json=as_json, none="")


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """KEY=TEXT, split at the first `=`; the same key twice is a mistake."""
    pairs: dict[str, str] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key or key in pairs:
            raise typer.BadParameter(f"{option} {text!r}: must be KEY=TEXT, each key once")
        pairs[key] = value
    return pairs


def _request(path: Path) -> bytes:
    body = path.read_bytes()
    try:
        payload = from_json(Signal.TRACES, body) if path.suffix == ".json" else body
        parse(Signal.TRACES, payload)
    except BadRequest as error:
        raise typer.BadParameter(f"{path}: {error}") from error
    return payload


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    rules = typer.Typer(no_args_is_help=True, help="Billing rules: which spans are usage without saying so.")
    rules.command("list", epilog="Example: otel-credits rules list --on")(list_rules)
    rules.command(
        "set",
        epilog="Example: otel-credits rules set api --action api_request --kind server --attribute-prefix http.route=/api/",
    )(set_rule)
    rules.command("on", epilog="Example: otel-credits rules on api")(switch_on)
    rules.command("off", epilog="Example: otel-credits rules off api")(switch_off)
    rules.command("test", epilog="Example: otel-credits rules test api --otlp spans.json")(try_rule)
    app.add_typer(rules, name="rules")
