"""Places within the JSON of an attribute, as a row of `credit_conventions` names them: `output.value#/usage/service_tier`.

That is the attribute, `#`, and a JSON pointer (RFC 6901). The chain reads them in SQL (`json_read_mv`); here they are read of a
request that does not pass the chain, in the same way.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["is_place", "told_at"]

_MARK: Final = "#"
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")
# OpenInference says of the attribute x.value in x.mime_type whether it is JSON; if not, it is what the model said.
_VALUE: Final = ".value"
_TYPE: Final = ".mime_type"
_JSON_TYPE: Final = b"application/json"


def is_place(name: str) -> bool:
    """Whether a name is that of a place within JSON rather than of an attribute."""
    return _MARK in name


def told_at(name: str, attributes: Mapping[str, bytes]) -> str:
    """What is said at a place: a text, a number or a flag as text; of a list `[3]` and of an object `{3}`, if they hold three.

    Args:
        name: of the place.
        attributes: those of the span, as they came. What is not there, or no JSON, says nothing.
    """
    source, _, pointer = name.partition(_MARK)
    if source.endswith(_VALUE) and attributes.get(source.removesuffix(_VALUE) + _TYPE) != _JSON_TYPE:
        return ""
    try:
        read = json.loads(attributes.get(source, b""), object_pairs_hook=_first_of_each, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return ""
    for step in pointer.split("/")[1:]:
        read = _below(read, step.replace("~1", "/").replace("~0", "~"))
    return _text(read)


def _first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _below(read: Any, step: str) -> Any:
    if isinstance(read, dict):
        return read.get(step)
    if isinstance(read, list) and _INDEX.fullmatch(step) and int(step) < len(read):
        return read[int(step)]
    return None


def _text(read: Any) -> str:
    if isinstance(read, str):
        return read
    if isinstance(read, list):
        return f"[{len(read)}]"
    if isinstance(read, dict):
        return f"{{{len(read)}}}"
    if isinstance(read, float) and read.is_integer():
        return str(int(read))
    return "" if read is None else json.dumps(read)
