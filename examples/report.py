"""A script that prints a report for some users; a decorator charges for each.

python examples/report.py USER_ID [USER_ID ...]
"""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

from otel_credits import ActionType, configure, flush, track_credits

FLUSH_TIMEOUT_S = 10.0


@track_credits(action_type=ActionType.ANALYTICS_GENERATION, manual_credits=0.002, description="Weekly report")
async def weekly_report(title: str, user_id: UUID) -> str:
    """Pattern 4: ``user_id`` is found among the arguments, wherever it stands."""
    return f"{title} of {user_id}: all is well"


async def print_reports(user_ids: list[UUID]) -> None:
    """Print one report after the other."""
    for user_id in user_ids:
        print(await weekly_report("The week", user_id))


def main() -> int:
    """Return 0 when everything that was tracked has been acknowledged."""
    configure()
    asyncio.run(print_reports([UUID(argument) for argument in sys.argv[1:]]))
    return 0 if flush(timeout_s=FLUSH_TIMEOUT_S) else 1


if __name__ == "__main__":
    sys.exit(main())
