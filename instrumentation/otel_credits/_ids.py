"""Trace and span ids for the usage spans that the library makes itself.

A usage without an idempotency key is identified by its trace and span id, so two usages with the same ids are charged
once. The SDK's generator draws from Python's global `random`, and an app that calls `random.seed(42)` in two
processes would repeat its ids there. These come from a generator of our own, seeded by the operating system and
seeded anew after a fork. It also leaves the app's generator alone: the app samples the very traces it always did.
"""

from __future__ import annotations

import os
import random

_random = random.Random(os.urandom(32))


def reseed() -> None:
    """Seed the generator anew. A forked child must, or it would repeat its parent's ids."""
    _random.seed(os.urandom(32))


def new_trace_id() -> int:
    """A random 128-bit id, never zero."""
    return _random.getrandbits(128) or 1


def new_span_id() -> int:
    """A random 64-bit id, never zero."""
    return _random.getrandbits(64) or 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=reseed)
