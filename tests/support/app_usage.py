"""Usage as an app records it, and as it arrives at a sink."""

from __future__ import annotations

from otel_credits import track_compute_usage

from support.otlp_sink import OtlpSink

__all__ = ["record", "users_of"]


def record(count: int, start: int = 0) -> list[str]:
    """Record `count` usages of a user each, and return the users."""
    users = [f"user-{start + number}" for number in range(count)]
    for user in users:
        track_compute_usage(user, "a", credits=1)
    return users


def users_of(sink: OtlpSink) -> list[str]:
    """The users of the acknowledged usages, copies included."""
    return [usage.attributes["user.id"] for usage in sink.usages()]
