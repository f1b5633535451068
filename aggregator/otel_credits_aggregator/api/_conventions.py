"""What the token attributes of each known instrumentation mean."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query

from otel_credits_aggregator.api._errors import errors, errors_with_body
from otel_credits_aggregator.api._state import LedgerOfApp
from otel_credits_aggregator.ledger import Convention, ConventionKey, NewConvention
from otel_credits_aggregator.ledger.conventions import Provider
from otel_credits_aggregator.ledger.fields import Name, Text

__all__ = ["router"]

router = APIRouter(tags=["conventions"])


@router.get("/conventions", summary="What is known of LLM instrumentations", responses=errors())
def list_conventions(ledger: LedgerOfApp) -> Sequence[Convention]:
    return ledger.conventions()


@router.post(
    "/conventions", summary="Teach an instrumentation", status_code=HTTPStatus.CREATED, responses=errors_with_body()
)
def set_convention(new: NewConvention, ledger: LedgerOfApp) -> Convention:
    """It counts for spans that are inserted from now on, and for what waits as `unknown_convention` once it is replayed.

    One of the same scope, `version_from` and provider is replaced. What was charged stays charged.
    """
    return ledger.set_convention(new)


@router.delete(
    "/conventions/{scope_name:path}",
    summary="Forget an instrumentation",
    responses=errors(HTTPStatus.NOT_FOUND),
)
def remove_convention(
    ledger: LedgerOfApp,
    scope_name: Annotated[Name, Path(description="The name of its scope, percent-encoded.")],
    version_from: Annotated[Text, Query(description="As it was set.")] = "",
    provider: Annotated[Provider, Query(description="As it was set.")] = "",
) -> Convention:
    """Its spans wait in the quarantine from now on. Answers with what was known of it."""
    key = ConventionKey(scope_name=scope_name, version_from=version_from, provider=provider)
    return ledger.remove_convention(key)
