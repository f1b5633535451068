"""No query parameter is ignored: with a mistyped filter a call would be about more than its caller means."""

from collections.abc import Iterator

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from otel_credits_aggregator.ledger import InvalidRequestError

__all__ = ["KNOWN_ONLY"]

# All others name one thing, of which the last one given would count.
_MAY_REPEAT = frozenset({"event"})


async def _known_only(request: Request) -> None:
    route = request.scope.get("route")
    known = set(_names(route.dependant)) if isinstance(route, APIRoute) else set()
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            raise InvalidRequestError(f"{name}: is no parameter here (there are: {', '.join(sorted(known)) or 'none'})")
        if given.count(name) > 1 and name not in _MAY_REPEAT:
            raise InvalidRequestError(f"{name}: is given more than once")


def _names(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for part in dependant.dependencies:
        yield from _names(part)


KNOWN_ONLY = Depends(_known_only)
