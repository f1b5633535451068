"""Names of attributes, recognised on the app's threads: most spans have the same few, and nothing to do with a charge."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# Names that are kept. Beyond that (names that are made of data) each one is looked at each time.
_NAMES_MAX = 4096


class KnownNames:
    """Whether attributes have a name that matters. Names are known the next time, all of a span in one step."""

    def __init__(self, matters: Callable[[str], bool]) -> None:
        self._matters = matters
        # Those that do not matter.
        self.others: set[str] = set()
        self.mattering: set[str] = set()

    def among(self, attributes: Mapping[str, object]) -> bool:
        """Whether one of the names matters."""
        if attributes.keys() <= self.others:
            return False
        if not self.mattering.isdisjoint(attributes):
            return True
        for name in attributes:
            if self._matters(name):
                if len(self.mattering) < _NAMES_MAX:
                    self.mattering.add(name)
                return True
        if len(self.others) < _NAMES_MAX:
            self.others.update(attributes)
        return False
