"""A job that a timer starts: it syncs external data of some users, charges for it, and ends.

    python examples/sync_job.py USER_ID [USER_ID ...]

A process that ends must not leave before its usage has: ``flush`` waits for the acknowledgement and tells if it came.
"""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

from otel_credits import ActionType, configure, flush, track_compute_usage

FLUSH_TIMEOUT_S = 10.0


async def sync_videos(user_id: UUID) -> None:
    """Pattern 3, word for word as the hand-made module's users wrote it."""
    await track_compute_usage(
        user_id=user_id,
        action_type=ActionType.YOUTUBE_SYNC,
        credits=0.005,
        description="YouTube sync",
        metadata={"videos_synced": 50, "comments_synced": 200},
    )


async def sync_all(user_ids: list[UUID]) -> None:
    """Sync one user after the other."""
    for user_id in user_ids:
        await sync_videos(user_id)


def main() -> int:
    """Return 0 when everything that was tracked has been acknowledged."""
    configure()
    user_ids = [UUID(argument) for argument in sys.argv[1:]]
    asyncio.run(sync_all(user_ids))
    print(f"synced {len(user_ids)} users")
    return 0 if flush(timeout_s=FLUSH_TIMEOUT_S) else 1


if __name__ == "__main__":
    sys.exit(main())
