"""The price book."""

from collections.abc import Sequence
from http import HTTPStatus

from fastapi import APIRouter

from otel_credits_aggregator.api._errors import errors, errors_with_body
from otel_credits_aggregator.api._state import LedgerOfApp
from otel_credits_aggregator.ledger import NewPrice, Price

__all__ = ["router"]

router = APIRouter(tags=["prices"])


@router.get("/prices", summary="The price book", responses=errors())
def list_prices(ledger: LedgerOfApp) -> Sequence[Price]:
    return ledger.prices()


@router.post("/prices", summary="Add a price", status_code=HTTPStatus.CREATED, responses=errors_with_body())
def add_price(new: NewPrice, ledger: LedgerOfApp) -> Price:
    """It prices usage that ends at `effective_from` or later (now, if left out).

    What was already charged keeps its price; what waits as unpriced is charged.
    """
    return ledger.set_price(new)
