"""The predefined action types and what the predefined ones cost."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum

from otel_credits._amounts import CreditsLike, credits_decimal


class ActionType(StrEnum):
    """The actions that have a name of their own. Any other string is as good an action type."""

    AI_CHAT_MESSAGE = "ai_chat_message"
    AI_COMMENT_RESPONSE = "ai_comment_response"
    WORKFLOW_EXECUTION = "workflow_execution"
    YOUTUBE_SYNC = "youtube_sync"
    ANALYTICS_GENERATION = "analytics_generation"
    BULK_OPERATION = "bulk_operation"


# AI actions are not here: they are priced by the token, in the aggregator's price book.
_PREDEFINED: Mapping[str, Decimal] = {
    ActionType.WORKFLOW_EXECUTION: Decimal("0.001"),
    ActionType.YOUTUBE_SYNC: Decimal("0.005"),
    ActionType.ANALYTICS_GENERATION: Decimal("0.002"),
    ActionType.BULK_OPERATION: Decimal("0.01"),
}

_costs: dict[str, Decimal] = dict(_PREDEFINED)
_lock = threading.Lock()


def get_task_credit_cost(action_type: str) -> Decimal:
    """What one execution of `action_type` costs, in credits.

    The predefined costs are workflow_execution 0.001, youtube_sync 0.005, analytics_generation 0.002 and
    bulk_operation 0.01; `set_task_credit_cost` overrides them and adds others.

    Raises:
        KeyError: the action has no cost here. A cost of zero would be a usage that is silently free.
    """
    try:
        return _costs[str(action_type)]
    except KeyError:
        known = ", ".join(sorted(_costs))
        raise KeyError(f"no credit cost is set for {action_type!r}; there are costs for: {known}") from None


def set_task_credit_cost(action_type: str, credits: CreditsLike) -> None:
    """Set what one execution of `action_type` costs, in credits, for this process.

    Raises:
        TypeError, ValueError: `credits` is not a finite amount of at least zero with at most 12 decimals.
    """
    amount = credits_decimal(credits)
    with _lock:
        _costs[str(action_type)] = amount


def reset_task_credit_costs() -> None:
    """Forget every override and go back to the predefined costs."""
    with _lock:
        _costs.clear()
        _costs.update(_PREDEFINED)
