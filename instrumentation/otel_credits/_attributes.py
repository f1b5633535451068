"""Every attribute, header and metric name that the library writes or reads. No other file spells one out.

The `credits.*` names are the semantic conventions of this project (docs/semantic-conventions.md); the `gen_ai.*`
names are OpenTelemetry's GenAI conventions.
"""

from typing import Final

ACTION_TYPE: Final = "credits.action_type"
USER_ID: Final = "user.id"
# Wins over `user.id` in the aggregator. Written on the app's own spans, where a client's baggage may have set the
# other one.
CREDITS_USER_ID: Final = "credits.user_id"
AMOUNT: Final = "credits.amount"
IDEMPOTENCY_KEY: Final = "credits.idempotency_key"
DESCRIPTION: Final = "credits.description"
RESOURCE_ID: Final = "credits.resource_id"
RESOURCE_TYPE: Final = "credits.resource_type"
METADATA_PREFIX: Final = "credits.metadata."
# The usages of one process, numbered from 1 without a gap, so that a missing one is seen (with the instance id below).
SEQ: Final = "credits.seq"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
# The action happened, and nobody said how much was used: the aggregator quarantines it instead of charging nothing.
USAGE_UNKNOWN: Final = "credits.usage_unknown"

# How a stream ended (`completed`, `aborted`), and whether its output count is the provider's last word.
METADATA_STREAM: Final = METADATA_PREFIX + "stream"
METADATA_ESTIMATED: Final = METADATA_PREFIX + "estimated"
METADATA_WEB_SEARCHES: Final = METADATA_PREFIX + "web_search_requests"

INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
PROVIDER_NAME: Final = "gen_ai.provider.name"

# What decides about a charge, and may not be lost to the SDK's limit on a span's attributes.
CHARGE_PREFIXES: Final = ("credits.", "gen_ai.", "llm.", "openinference.")
# A span with an attribute of one of these families may be an LLM call (`OTEL_CREDITS_CHARGE_GENAI=on`).
GENAI_PREFIXES: Final = ("gen_ai.", "llm.")
OPENINFERENCE_KIND: Final = "openinference.span.kind"

# The usage context as members of W3C baggage, and the Celery message header of our own that carries them (_baggage.py).
BAGGAGE_USER: Final = CREDITS_USER_ID
BAGGAGE_ACTION_TYPE: Final = ACTION_TYPE
BAGGAGE_DESCRIPTION: Final = DESCRIPTION
BAGGAGE_RESOURCE_ID: Final = RESOURCE_ID
BAGGAGE_RESOURCE_TYPE: Final = RESOURCE_TYPE
BAGGAGE_PREFIX: Final = "credits."
BAGGAGE_METADATA: Final = "credits.metadata"
CELERY_HEADER: Final = "credits_baggage"

COUNTER_RECORDED: Final = "credits.client.recorded"
COUNTER_EXPORTED: Final = "credits.client.exported"
COUNTER_FAILED: Final = "credits.client.failed"
COUNTER_WAITING: Final = "credits.client.waiting"
FAILED_REASON: Final = "credits.client.reason"

# The instrumentation scopes of these counters: as the library reports them itself, for the aggregator to compare, and
# as the app's own meter provider exports them, for dashboards. The aggregator must not take one for the other.
# A data point of this metric is a usage; its number counts the unit.
METRIC_USAGE: Final = "credits.usage"
METRIC_UNIT: Final = "credits.unit"
UNITS_PREFIX: Final = "credits.units."
SCOPE_METER: Final = "otel_credits.meter"
METER_REPORTS: Final = "otel_credits"
METER_OF_THE_APP: Final = "otel_credits.app"
