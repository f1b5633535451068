"""Read-only SQL."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from otel_credits_aggregator.api._errors import errors_with_body
from otel_credits_aggregator.api._state import LedgerOfApp

__all__ = ["router"]

router = APIRouter(tags=["sql"])


class SqlQuery(BaseModel):
    """One statement that reads this store."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(examples=["SELECT user_id, current_balance FROM user_credit_balances LIMIT 10"])


@router.post(
    "/sql",
    summary="Run a read-only query",
    response_model=list[dict[str, Any]],
    responses=errors_with_body(),
)
def run_sql(body: SqlQuery, ledger: LedgerOfApp) -> JSONResponse:
    """Answers a list of objects, one a row; decimals are strings. Only this store's own tables can be read."""
    return JSONResponse(list(ledger.sql(body.query)))
