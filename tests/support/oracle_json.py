"""What the oracle knows of things that an emitter tells within the JSON of an attribute (docs/emitters.md, "Within JSON")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

__all__ = ["none_told", "one_told", "told_at"]


def told_at(place: str, attributes: Mapping[str, str]) -> str:
    """The text at a place, `attribute#/pointer`; nothing if there is none, or what is there cannot be read."""
    if place in attributes:
        return attributes[place]
    attribute, pointer = place.split("#", 1)
    stem, dot, last = attribute.rpartition(".")
    if dot and last == "value" and attributes.get(f"{stem}.mime_type") != "application/json":
        return ""
    try:
        found = json.loads(attributes.get(attribute, ""), parse_float=Decimal, object_pairs_hook=_the_first_counts)
        for step in pointer.split("/")[1:]:
            found = found[int(step)] if isinstance(found, list) else found[step.replace("~1", "/").replace("~0", "~")]
    except (ValueError, LookupError, TypeError):
        return ""
    return _as_text(found)


def _the_first_counts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


def _as_text(found: Any) -> str:
    match found:
        case None:
            return ""
        case bool():
            return "true" if found else "false"
        case list():
            return f"[{len(found)}]"
        case dict():
            return "{" + str(len(found)) + "}"
        case Decimal():
            return f"{found.normalize():f}"
    return str(found)


def one_told(text: str) -> bool:
    """Whether a count, or a list that was counted, says one."""
    return text in ("1", "[1]")


def none_told(text: str) -> bool:
    """Whether it says none, or nothing."""
    return text in ("", "0", "[0]")
