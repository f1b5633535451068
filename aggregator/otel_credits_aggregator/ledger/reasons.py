"""What to do about each reason of the quarantine, in the words that people are shown.

The reasons are given by ``clickhouse/migrations/0004_usage_chain.sql``, and one by the inserter; a test compares. What
each means at more length is in docs/semantic-conventions.md.
"""

from collections.abc import Mapping

__all__ = ["HINTS", "UNKNOWN_CONVENTION", "hint"]

UNKNOWN_CONVENTION = "unknown_convention"

_RESEND = "To charge this one, send it again, corrected, as a new span."

HINTS: Mapping[str, str] = {
    "metric_is_not_a_monotonic_sum": "credits.usage is a gauge, a histogram or an up-down counter: "
    "count usage with a counter.",
    "metric_is_cumulative_use_cumulativetodelta": "A cumulative point repeats what was sent before. "
    "Put the Collector's cumulativetodelta processor in between, or set delta temporality in the exporter.",
    "metric_has_no_temporality": "The sender did not say whether it is delta or cumulative: "
    "set delta temporality there.",
    "duplicate_attribute": f"An attribute is there twice, so its value is not certain. {_RESEND}",
    "not_allowed": "Its sender's token is bound to other services or actions. If the sender is right, make it a token that "
    f"may (otel-credits tokens add); else find out who used the token. {_RESEND}",
    "invalid_trace_id": f"The trace id is not 16 bytes, or all zero, so copies could not be told apart. {_RESEND}",
    "invalid_span_id": f"The span id is not 8 bytes, or all zero, so copies could not be told apart. {_RESEND}",
    "time_missing": f"The end time is 0: end the span before it is exported. {_RESEND}",
    "time_out_of_range": "It ends before 2000, or more than 31 days after it was received: set the clock of the "
    f"app. {_RESEND}",
    "no_action_type": f"credits.action_type is empty: name the action. {_RESEND}",
    "no_user": "No attribute says who pays: set user.id in the app, or OTEL_CREDITS_DEFAULT_USER for what comes "
    "from now on. To charge this one: otel-credits quarantine assign",
    "name_too_long": f"User, action, model, idempotency key or response id is longer than 512 bytes. {_RESEND}",
    "not_a_number": f"An amount, a quantity or a token count is not a number. {_RESEND}",
    "negative_number": "An amount, a quantity or a token count is negative. To give credits back: otel-credits grant.",
    "number_out_of_range": f"An amount, a quantity or a token count is too large: is its unit the right one? {_RESEND}",
    "number_not_exact": f"It has more than 12 decimals or 40 characters: round it in the app. {_RESEND}",
    "tokens_inconsistent": "More tokens are cached than there are input tokens: its emitter counts them apart. "
    "If so, otel-credits conventions set with --input-excludes-cache, then: otel-credits quarantine replay",
    "usage_unknown": "Nobody reported how much it was, as when a call fails or a stream is cut off. Decide yourself; "
    "track_stream charges what a cut-off stream is known to have used.",
    "estimated": "It is marked as an estimate, and OTEL_CREDITS_ESTIMATED is not charge. To charge it all the same, "
    "give otel-credits quarantine replay its event id, or this --reason; else: otel-credits quarantine discard",
    UNKNOWN_CONVENTION: "What the token attributes of this instrumentation mean is not known. Find out, "
    "teach it with otel-credits conventions set (docs/emitters.md), then: otel-credits quarantine replay",
    "emitter_unreliable": "This instrumentation is known to report wrong numbers of such a call. If another span tells of "
    "the same call, that one was charged, unless this one knows that not all of the call is in its counts; else look at the "
    "provider's own account.",
    "cache_unknown": "This instrumentation does not report cached tokens, and a prompt of this length may have had some: "
    "it cannot be priced. Use one that reports them.",
    "modality_unknown": "The model takes or makes sound or pictures, which have prices of their own, and the instrumentation "
    "does not tell those tokens apart. Charge it by hand, or use an instrumentation that tells.",
    "possible_copy": "Another span, which was charged, tells of a call with the same token counts at that time or place; no "
    "response id says whether it is the same one. Switch one of the two instrumentations off.",
    "unpriced": "A unit of it has no price. Add one with otel-credits prices set; it is then charged by itself.",
    "amount_out_of_range": "Quantity times price is above 10^18: check the price and the unit.",
    "idempotency_conflict": "Its idempotency key was charged before, for something else: use a key for one usage only.",
    "request_not_insertable": "The store refused this whole request, which is kept in raw_request: report it.",
}


def hint(reason: str) -> str:
    """What to do about a reason; a general answer for one that this version does not know."""
    return HINTS.get(reason, "See the attributes of the quarantined usage, correct the app, and send it again.")
