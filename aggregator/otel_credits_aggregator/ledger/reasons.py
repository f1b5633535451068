"""What each reason of the quarantine means and what to do about it, for people. The reasons themselves are given by
``clickhouse/migrations/0004_usage_chain.sql`` and by the receivers."""

from collections.abc import Mapping

__all__ = ["HINTS", "hint"]

_RESEND = "Correct it in the app; to charge this one, send it again corrected, under a new idempotency key."

HINTS: Mapping[str, str] = {
    "unpriced": "No price was found for a unit of this usage. Set one with `otel-credits prices set`; "
    "it is then charged by itself.",
    "no_user": "No attribute of the span names who pays (`user.id`, or what OTEL_CREDITS_USER_ATTRIBUTES lists). "
    f"{_RESEND}",
    "no_action_type": f"`credits.action_type` is empty. {_RESEND}",
    "invalid_trace_id": f"The trace id is not 16 bytes or all zero, so copies could not be told apart. {_RESEND}",
    "invalid_span_id": f"The span id is not 8 bytes or all zero, so copies could not be told apart. {_RESEND}",
    "duplicate_attribute": f"An attribute is there twice, so its value is not certain. {_RESEND}",
    "time_missing": f"The end time is missing. {_RESEND}",
    "time_out_of_range": "It ends before 2000 or more than 31 days after it was received: check the clock of the app. "
    f"{_RESEND}",
    "name_too_long": f"User, action, model, idempotency key or response id is longer than 512 bytes. {_RESEND}",
    "amount_not_a_number": f"`credits.amount` is not a decimal number of at most 40 characters. {_RESEND}",
    "amount_negative": "`credits.amount` is negative. To give credits back, use `otel-credits grant`.",
    "amount_out_of_range": f"The charge is more than 10^18 credits. {_RESEND}",
    "amount_not_exact": f"`credits.amount` has more than 12 decimal places. {_RESEND}",
    "quantity_not_a_number": f"A quantity (`credits.units.*`, token counts) is not a number. {_RESEND}",
    "quantity_negative": f"A quantity (`credits.units.*`, token counts) is negative. {_RESEND}",
    "quantity_out_of_range": f"A quantity is above 10^15, or a token count above 10^12. {_RESEND}",
    "quantity_not_exact": f"A quantity has more than 12 decimal places. {_RESEND}",
    "tokens_inconsistent": "There are more cached tokens than input tokens, though the input should include them. "
    "Report the instrumentation's version.",
    "usage_unknown": "A model call whose tokens nobody reported, as when a stream breaks off. Wrap such streams in "
    f"`track_stream`. {_RESEND}",
    "request_not_insertable": "The store refused this request, which is kept whole in raw_request. "
    "Report it, with the detail in credit_quarantine.",
    "unknown_convention": "Whether this instrumentation's input tokens include cached ones is not known. "
    "Add its scope to credit_conventions, then `otel-credits quarantine replay`.",
    "idempotency_conflict": "Its idempotency key was already charged with another user, action or quantity. "
    "Use a new key for a new usage.",
    "cumulative_temporality": "A cumulative metric cannot be charged point by point. Put the Collector's "
    "cumulativetodelta processor before the aggregator, or export `credits.usage` with delta temporality.",
}


def hint(reason: str) -> str:
    """What to do about a reason; a general answer for one that this version does not know."""
    return HINTS.get(reason, "See the quarantined usage's attributes, correct the app, and send it again.")
