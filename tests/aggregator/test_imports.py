"""How the command imports itself."""

import gc
import weakref

from otel_credits_aggregator.imports import without_collecting


class Cycle:
    """Refers to itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_collected_only_after_the_imports() -> None:
    """Within the block the collector rests; afterwards it works, and leaves alone what was imported."""
    try:
        with without_collecting():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
        made_later = weakref.ref(Cycle())
        gc.collect()
        assert made_later() is None
    finally:
        gc.unfreeze()
