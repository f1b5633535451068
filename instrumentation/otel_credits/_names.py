"""Names of attributes, recognised on the app's threads: most spans have the same few, and nothing to do with a charge."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# Names that are kept. Beyond that (names that are made of data) each one is looked at each time.
_NAMES_MAX = 4096


class KnownNames:
    """Whether attributes have a name that matters; those that do not are known the next time, all of a span in one step."""

    def __init__(self, matters: Callable[[str], bool]) -> None:
        self._matters = matters
        self._others: set[str] = set()

    def among(self, attributes: Mapping[str, object]) -> bool:
        """Whether one of the names matters."""
        if attributes.keys() <= self._others:
            return False
        matters = self._matters
        for name in attributes:
            if matters(name):
                return True
        if len(self._others) < _NAMES_MAX:
            self._others.update(attributes)
        return False
