"""`conventions list`, `conventions set`, `conventions remove`."""

from contextlib import closing
from typing import Annotated

import typer

from otel_credits_aggregator.cli import _tables
from otel_credits_aggregator.cli._arguments import AsJson, checked
from otel_credits_aggregator.cli._ledger import open_ledger
from otel_credits_aggregator.cli._output import print_rows
from otel_credits_aggregator.ledger import ConventionKey, NewConvention

__all__ = ["add_to"]

_NAMES = "ATTRIBUTE"
Scope = Annotated[
    str, typer.Argument(metavar="SCOPE", help="The instrumentation's scope, as `quarantine list` names it.")
]
VersionFrom = Annotated[
    str, typer.Option("--version-from", metavar="VERSION", help="First version of it that does so. Default: any.")
]
Provider = Annotated[
    str, typer.Option(metavar="NAME", help="Only calls of this provider (gen_ai.provider.name). Default: any.")
]
Attribute = str | None
IncludesCache = Annotated[
    bool,
    typer.Option(
        "--input-includes-cache/--input-excludes-cache",
        help="Whether the input attribute counts cached tokens, too. With some emitters it does, with others not.",
    ),
]
HourWrites = Annotated[
    Attribute, typer.Option("--cache-write-1h", metavar=_NAMES, help="Those of them that live an hour.")
]
Finish = Annotated[Attribute, typer.Option(metavar=_NAMES, help="What only a call that was answered to its end has.")]
RequestTier = Annotated[
    Attribute,
    typer.Option(
        "--request-service-tier", metavar=_NAMES, help="The tier that was asked for, if the answer tells none."
    ),
]
PriceAttributes = Annotated[
    list[str] | None,
    typer.Option(
        "--price-attribute",
        metavar=_NAMES,
        help="What else has prices of its own, as a tier has. May be given several times.",
    ),
]
Answers = Annotated[
    str, typer.Option(metavar=_NAMES, help="How many answers there were, or their list: unless it is one, it waits.")
]
Stream = Annotated[
    list[str] | None,
    typer.Option(metavar=_NAMES, help="Is there, and not false, if the call was a stream. May be given several times."),
]
Count = Annotated[str, typer.Option(metavar=_NAMES, help="Is there if tokens were only counted, which is no call.")]
EarlierCalls = Annotated[
    str,
    typer.Option(
        metavar=_NAMES, help="How many calls, or their list, came before the one it tells of: with any, it waits."
    ),
]
StreamOrder = Annotated[
    list[str] | None,
    typer.Option(metavar=_NAMES, help="Two attributes in this order unless the call was a stream. Give it twice."),
]
StreamFlaw = Annotated[
    str, typer.Option(metavar="FLAW", help="What of a stream is wrong: output, cache_zero or cache_absent.")
]
SeveralCalls = Annotated[
    bool,
    typer.Option(help="A span may be of several calls, and tells the last only: if tools were executed, it waits."),
]
UnknownFrom = Annotated[
    int, typer.Option(metavar="TOKENS", help="From so many input tokens on, no count of cached ones means not known.")
]


def list_conventions(
    scope: Annotated[str | None, typer.Option(help="Only this scope.")] = None, as_json: AsJson = False
) -> None:
    """List what the token attributes of each known LLM instrumentation mean."""
    with closing(open_ledger()) as ledger:
        rows = [row for row in ledger.conventions() if scope in (None, row.scope_name)]
    print_rows(rows, _tables.CONVENTION, as_json=as_json, none="no such convention")


def set_convention(
    scope: Scope,
    input_includes_cache: IncludesCache,
    version_from: VersionFrom = "",
    version_until: Annotated[str, typer.Option(metavar="VERSION", help="First version that does otherwise.")] = "",
    provider: Provider = "",
    input: Annotated[Attribute, typer.Option(metavar=_NAMES, help="Input tokens.")] = None,
    output: Annotated[Attribute, typer.Option(metavar=_NAMES, help="Output tokens, reasoning included.")] = None,
    cache_read: Annotated[Attribute, typer.Option(metavar=_NAMES, help="Input tokens read from the cache.")] = None,
    cache_write: Annotated[Attribute, typer.Option(metavar=_NAMES, help="Input tokens written to the cache.")] = None,
    cache_write_1h: HourWrites = None,
    reasoning: Annotated[Attribute, typer.Option(metavar=_NAMES, help="Output tokens that were reasoning.")] = None,
    input_audio: Annotated[Attribute, typer.Option(metavar=_NAMES, help="Uncached input that was audio.")] = None,
    output_audio: Annotated[Attribute, typer.Option(metavar=_NAMES, help="Output that was audio.")] = None,
    model: Annotated[Attribute, typer.Option(metavar=_NAMES, help="The model that answered.")] = None,
    request_model: Annotated[Attribute, typer.Option(metavar=_NAMES, help="The model that was asked for.")] = None,
    response_id: Annotated[Attribute, typer.Option(metavar=_NAMES, help="The provider's id of the answer.")] = None,
    finish: Finish = None,
    service_tier: Annotated[Attribute, typer.Option(metavar=_NAMES, help="The service tier of the answer.")] = None,
    request_service_tier: RequestTier = None,
    price_attribute: PriceAttributes = None,
    answers: Answers = "",
    stream: Stream = None,
    stream_order: StreamOrder = None,
    stream_flaw: StreamFlaw = "",
    several_calls: SeveralCalls = False,
    total: Annotated[
        str, typer.Option(metavar=_NAMES, help="Input and output in all: if they are not, it waits.")
    ] = "",
    count: Count = "",
    earlier_calls: EarlierCalls = "",
    cache_unknown_from: UnknownFrom = 0,
    preference: Annotated[int, typer.Option(help="Of copies of a call in one insert the lowest is charged.")] = 9,
    source: Annotated[str, typer.Option(metavar="TEXT", help="Where this was measured or is documented.")] = "",
    as_json: AsJson = False,
) -> None:
    """Teach an emitter of LLM spans. Attributes that are left out have the names of OpenTelemetry's conventions.

    ATTRIBUTE#/json/pointer names what is told within the JSON of an attribute.

    It counts from now on; `quarantine replay --reason unknown_convention` charges what waits.
    """
    counts = _attributes(input=input, output=output, cache_read=cache_read, cache_write=cache_write)
    parts = _attributes(cache_write_1h=cache_write_1h, reasoning=reasoning)
    sound = _attributes(input_audio=input_audio, output_audio=output_audio)
    answer = _attributes(model=model, request_model=request_model, response_id=response_id, finish=finish)
    tiers = _attributes(service_tier=service_tier, request_service_tier=request_service_tier)
    checks = _attributes(answers=answers, total=total, count=count, earlier_calls=earlier_calls)
    new = checked(
        NewConvention,
        scope_name=scope,
        version_from=version_from,
        version_until=version_until,
        provider=provider,
        input_includes_cache=input_includes_cache,
        cache_unknown_from=cache_unknown_from,
        price_attributes=tuple(price_attribute) if price_attribute else None,
        stream_attributes=tuple(stream) if stream else None,
        stream_order=tuple(stream_order) if stream_order else None,
        stream_flaw=stream_flaw,
        several_calls=several_calls,
        preference=preference,
        source=source,
        **(counts | parts | sound | answer | tiers | checks),
    )
    with closing(open_ledger()) as ledger:
        print_rows([ledger.set_convention(new)], _tables.CONVENTION, as_json=as_json, none="")


def _attributes(**named: str | None) -> dict[str, str | None]:
    """The columns of a convention that name these attributes."""
    return {f"{what}_attribute": name for what, name in named.items()}


def remove_convention(
    scope: Scope, version_from: VersionFrom = "", provider: Provider = "", as_json: AsJson = False
) -> None:
    """Forget what is known of an emitter: its spans wait from now on. What was charged stays charged."""
    key = checked(ConventionKey, scope_name=scope, version_from=version_from, provider=provider)
    with closing(open_ledger()) as ledger:
        print_rows([ledger.remove_convention(key)], _tables.CONVENTION, as_json=as_json, none="")


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    group = typer.Typer(no_args_is_help=True, help="What the token attributes of LLM instrumentations mean.")
    group.command("list", epilog="Example: otel-credits conventions list --scope acme.llm")(list_conventions)
    group.command(
        "set",
        epilog="Example: otel-credits conventions set acme.llm --input acme.tokens.in --output acme.tokens.out "
        "--input-includes-cache",
    )(set_convention)
    group.command("remove", epilog="Example: otel-credits conventions remove acme.llm")(remove_convention)
    app.add_typer(group, name="conventions")
