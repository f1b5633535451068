"""The recordings of tests/recordings/more: what real instrumentations sent, beside what the provider's stand-in served.

`bill` is what the provider bills for a case by its own rules, and `charge` puts cases through the chain in one insert,
each with itself as the payer.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otel_credits_aggregator.batch_insert import token_settings
from otel_credits_aggregator.envelope import framed, settings_fields
from otel_credits_aggregator.migrations import clickhouse_folder
from otel_credits_aggregator.spool import Request

from support.chain import Chain

FOLDER = Path(__file__).parents[1] / "recordings" / "more"
CASES: Mapping[str, Mapping[str, Any]] = {
    case["id"]: case for case in json.loads((FOLDER / "index.json").read_text("utf-8"))
}
# What an emitter leaves out without a trace (docs/emitters.md): the service tier, here of these cases.
TIER_UNTOLD = {
    "ga-anthropic.priority",
    "ollm-anthropic.priority",
    "ga-langchain.openai_flex",
    "ollm-langchain.openai_flex",
    "logfire-openai.flex",
    "logfire-openai.flex_stream",
    "logfire-openai.responses_flex",
    "logfire-pydantic.openai_flex",
    "own-pydantic.anthropic_priority",
    "own-pydantic.openai_flex",
}
# Of what Gemini's own tools add to a prompt only OpenInference tells, and of two spans of a call the official one is charged.
TOOLS_UNTOLD = {"ga-google.url_context", "ga__oi-google.url_context", "oi__ga-google.url_context"}
# Each unit has a price of its own, so that tokens in a wrong class give a wrong charge.
PRICES = {
    "input_token": Decimal("0.000003"),
    "cache_read_token": Decimal("0.0000003"),
    "cache_write_token": Decimal("0.00000375"),
    "cache_write_1h_token": Decimal("0.000006"),
    "output_token": Decimal("0.000015"),
    "input_audio_token": Decimal("0.00004"),
    "output_audio_token": Decimal("0.00008"),
}
STANDARD_TIERS = {"", "default", "standard"}


@dataclass
class Charged:
    """What a case was charged, and why something of it waits."""

    units: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    credits: Decimal = Decimal(0)
    events: int = 0
    reasons: list[str] = field(default_factory=list)


def spans_of(case: str) -> bytes | None:
    """The recorded request; None if the instrumentation sent nothing."""
    path = FOLDER / f"{case}.bin"
    return path.read_bytes() if path.exists() else None


def bill(case: str) -> dict[str, int]:
    """What the provider bills, by unit; a service tier of its own prices is part of the unit's name."""
    units: dict[str, int] = defaultdict(int)
    for call in CASES[case]["calls"]:
        tier = "" if call.get("tier", "") in STANDARD_TIERS else f"_{call['tier']}"
        for unit, quantity in _classes(call).items():
            units[unit + tier] += quantity
    return {unit: quantity for unit, quantity in units.items() if quantity}


def _classes(call: Mapping[str, Any]) -> dict[str, int]:
    """Every token in one class only: audio is neither text input nor text output, reasoning is output."""
    get = call.get
    return {
        "input_token": get("input", 0) - get("audio_in", 0),
        "cache_read_token": get("cache_read", 0),
        "cache_write_token": get("write_5m", 0),
        "cache_write_1h_token": get("write_1h", 0),
        "output_token": get("output", 0) - get("audio_out", 0),
        "input_audio_token": get("audio_in", 0),
        "output_audio_token": get("audio_out", 0),
    }


def charge(chain: Chain, cases: Iterable[str]) -> dict[str, Charged]:
    """Charges cases at one price a unit, whatever the model, and says what became of each."""
    return charge_requests(chain, [(case, payload) for case in cases if (payload := spans_of(case)) is not None])


def charge_requests(
    chain: Chain,
    sent: list[tuple[str, bytes]],
    prices: Mapping[tuple[str, str], Decimal] | None = None,
    **settings: Any,
) -> dict[str, Charged]:
    """The same for trace requests, each with the name of its case, which is the payer of all of it; at these prices (by
    model and unit), if they are given."""
    chain.command("TRUNCATE TABLE credit_action_costs")
    book = {("*", unit): price for unit, price in PRICES.items()} if prices is None else prices
    rows = [[model, unit, price, 0] for (model, unit), price in book.items()]
    columns = ["model", "unit", "credits_per_unit", "effective_from"]
    chain.client.insert("credit_action_costs", rows, column_names=columns)
    _insert(chain, sent, {"user_attributes": ("no.such.attribute",)} | settings)
    found: dict[str, Charged] = defaultdict(Charged)
    for event in chain.events():
        charged = found[event["user_id"]]
        charged.events += 1
        charged.credits += event["credits_charged"]
        for unit, quantity in event["units"].items():
            if quantity and unit != "reasoning_token":
                charged.units[unit] += quantity
    for row in chain.rows(
        "SELECT receiver, reason, sum(items) AS n FROM ingest_outcomes WHERE reason != '' GROUP BY ALL"
    ):
        found[row["receiver"]].reasons += [row["reason"]] * row["n"]
    return found


def _insert(chain: Chain, requests: list[tuple[str, bytes]], settings: Mapping[str, Any]) -> None:
    batch_id, now_us = str(uuid.uuid4()), time.time_ns() // 1000
    parts = []
    for case, payload in requests:
        assert ExportTraceServiceRequest.FromString(payload)
        kept = chain.settings.model_copy(update={"charge_genai": True, "default_user": case, **settings})
        parts.append(framed(batch_id, settings_fields(kept, receiver=case), [Request(payload, now_us, b"")]))
    protobuf = {
        "format_schema_source": "string",
        "format_schema": (clickhouse_folder() / "otlp.proto").read_text("utf-8"),
        "format_schema_message_name": "Traces",
        "input_format_protobuf_oneof_presence": 1,
    }
    chain.client.raw_insert(
        "otlp_traces", insert_block=b"".join(parts), fmt="Protobuf", settings=token_settings(batch_id) | protobuf
    )
