"""Models under another name."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path

from otel_credits_aggregator.api._errors import errors, errors_with_body
from otel_credits_aggregator.api._state import LedgerOfApp
from otel_credits_aggregator.ledger import ModelAlias, NewModelAlias
from otel_credits_aggregator.ledger.fields import Name

__all__ = ["router"]

router = APIRouter(tags=["prices"])


@router.get("/aliases", summary="Models under another name", responses=errors())
def list_aliases(ledger: LedgerOfApp) -> Sequence[ModelAlias]:
    return ledger.model_aliases()


@router.post(
    "/aliases", summary="Give a model another name", status_code=HTTPStatus.CREATED, responses=errors_with_body()
)
def set_alias(new: NewModelAlias, ledger: LedgerOfApp) -> ModelAlias:
    """It counts for usage that is inserted from now on, and for what waits as `unpriced`. One of the same model is replaced."""
    return ledger.set_model_alias(new)


@router.delete("/aliases/{model:path}", summary="Forget another name", responses=errors(HTTPStatus.NOT_FOUND))
def remove_alias(
    ledger: LedgerOfApp, model: Annotated[Name, Path(description="As it is reported, percent-encoded.")]
) -> ModelAlias:
    """Answers with what it meant."""
    return ledger.remove_model_alias(model)
