"""Usage credits from OpenTelemetry: what an app imports to say what was used, by whom.

    from otel_credits import ActionType, configure, track_ai_usage

    configure()
    track_ai_usage(user_id=42, action_type=ActionType.AI_CHAT_MESSAGE, input_tokens=137, output_tokens=61, model="...")

This file lists the whole public API; nothing is defined here. instrumentation/README.md is the manual.
"""

from otel_credits._actions import ActionType, get_task_credit_cost, reset_task_credit_costs, set_task_credit_cost
from otel_credits._context import set_user, usage_context
from otel_credits._decorator import track_credits
from otel_credits._meter import CreditsMeter, credits_meter
from otel_credits._queue import Stats
from otel_credits._recorded import Recorded
from otel_credits._runtime import configure, flush, shutdown, stats
from otel_credits._stream import track_stream
from otel_credits._tracking import track_ai_usage, track_compute_usage
from otel_credits._version import __version__

__all__ = [
    "ActionType",
    "CreditsMeter",
    "Recorded",
    "Stats",
    "__version__",
    "configure",
    "credits_meter",
    "flush",
    "get_task_credit_cost",
    "reset_task_credit_costs",
    "set_task_credit_cost",
    "set_user",
    "shutdown",
    "stats",
    "track_ai_usage",
    "track_compute_usage",
    "track_credits",
    "track_stream",
    "usage_context",
]
