"""Which columns people see of each kind of row. JSON has all fields."""

from otel_credits_aggregator.cli._output import Column

__all__ = [
    "ALIAS",
    "BALANCE",
    "CONVENTION",
    "CORRECTION",
    "DIFFERENCE",
    "EVENT",
    "GRANT",
    "PRICE",
    "QUARANTINED_USAGE",
    "QUARANTINE_REASON",
    "RULE",
    "RULE_CHARGE",
    "SERIES_FAULT",
    "TOKEN",
    "USER",
]

BALANCE = (
    Column("user_id", "user"),
    Column("current_balance", "balance"),
    Column("current_month_consumed", "this month"),
    Column("lifetime_granted", "granted"),
    Column("lifetime_consumed", "consumed"),
)
EVENT = (
    Column("created_at", "time (UTC)"),
    Column("user_id", "user"),
    Column("action_type", "action"),
    Column("model", "model"),
    Column("input_tokens", "input"),
    Column("output_tokens", "output"),
    Column("credits_charged", "credits"),
    Column("status", "status"),
    Column("description", "description"),
)
GRANT = (
    Column("grant_id", "grant"),
    Column("user_id", "user"),
    Column("credits", "credits"),
    Column("reason", "reason"),
    Column("created_at", "time (UTC)"),
)
USER = (Column("id", "user"), Column("email", "email"), Column("name", "name"))
TOKEN = (
    Column("name", "name"),
    Column("role", "role"),
    Column("user_id", "user"),
    Column("services", "services"),
    Column("action_types", "actions"),
    Column("created_at", "made (UTC)"),
)
PRICE = (
    Column("action_type", "action"),
    Column("model", "model"),
    Column("unit", "unit"),
    Column("credits_per_unit", "credits a unit"),
    Column("effective_from", "from (UTC)"),
    Column("status", "status"),
    Column("source", "source"),
)
RULE = (
    Column("rule_id", "rule"),
    Column("enabled", "on"),
    Column("priority", "priority"),
    Column("conditions", "spans with"),
    Column("action_type", "action"),
    Column("quantities", "quantities"),
    Column("charge_failed", "charge failed"),
    Column("note", "note"),
)
ALIAS = (
    Column("model", "model"),
    Column("price_model", "is priced as"),
    Column("source", "source"),
)
CONVENTION = (
    Column("scope_name", "scope"),
    Column("version_from", "from version"),
    Column("version_until", "until"),
    Column("provider", "provider"),
    Column("input_attribute", "input"),
    Column("output_attribute", "output"),
    Column("input_includes_cache", "includes cache"),
    Column("source", "source"),
)
RULE_CHARGE = (
    Column("outcome", "outcome"),
    Column("reason", "reason"),
    Column("user_id", "user"),
    Column("action_type", "action"),
    Column("usages", "usages"),
    Column("units", "units"),
    Column("credits", "credits"),
)
QUARANTINED_USAGE = (
    Column("last_received_at", "received (UTC)"),
    Column("reason", "reason"),
    Column("user_id", "user"),
    Column("action_type", "action"),
    Column("model", "model"),
    Column("service_name", "service"),
    Column("copies", "copies"),
    Column("event_id", "event"),
)
QUARANTINE_REASON = (Column("reason", "reason"), Column("usages", "usages"), Column("detail", "what to do"))
DIFFERENCE = (
    Column("user_id", "user"),
    Column("month", "month"),
    Column("action_type", "action"),
    Column("model", "model"),
    Column("total", "total"),
    Column("expected", "expected"),
    Column("found", "found"),
)
CORRECTION = (*DIFFERENCE, Column("corrected_by", "by"), Column("comment", "why"))
SERIES_FAULT = (
    Column("service_name", "service"),
    Column("user_id", "user"),
    Column("action_type", "action"),
    Column("fault", "what"),
    Column("from_at", "from (UTC)"),
    Column("until_at", "until (UTC)"),
    Column("series", "series"),
)
CLIENT = (
    Column("service_name", "service"),
    Column("service_instance_id", "process"),
    Column("recorded", "recorded"),
    Column("exported", "exported"),
    Column("failed", "failed"),
    Column("waiting", "waiting"),
    Column("received", "received"),
    Column("charged", "charged"),
    Column("quarantined", "quarantined"),
    Column("missing", "missing"),
    Column("last_report_at", "last report (UTC)"),
)
