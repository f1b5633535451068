"""Whether the server lives, whether it is ready, and its numbers."""

from functools import cache
from http import HTTPStatus

import anyio
import anyio.to_thread
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from otel_credits_aggregator.api._access import TAKES_TOKEN
from otel_credits_aggregator.api._errors import refusals
from otel_credits_aggregator.api._state import StateOfApp
from otel_credits_aggregator.ledger.models import Health

__all__ = ["router"]

router = APIRouter(tags=["operations"])


class ReadinessReport(BaseModel):
    """Whether the server is migrated, replayed and receiving; `missing` lists which of these does not hold yet."""

    ready: bool
    missing: list[str]


@router.get("/healthz", summary="Whether the process lives")
async def healthz(state: StateOfApp) -> Health:
    return Health(service="otel-credits", store=state.store_id)


@router.get(
    "/readyz",
    summary="Whether the server is migrated, replayed and receiving",
    response_model=ReadinessReport,
    responses={HTTPStatus.SERVICE_UNAVAILABLE.value: {"model": ReadinessReport}},
)
async def readyz(state: StateOfApp) -> JSONResponse:
    missing = [name for name, holds in state.aggregator.readiness().items() if not holds]
    status = HTTPStatus.SERVICE_UNAVAILABLE if missing else HTTPStatus.OK
    return JSONResponse(ReadinessReport(ready=not missing, missing=missing).model_dump(), status)


@router.get(
    "/metrics",
    summary="Prometheus metrics, with the accounting of every span",
    response_class=Response,
    responses=refusals(),
    dependencies=[TAKES_TOKEN],
)
async def metrics(state: StateOfApp) -> Response:
    # In threads of its own, so that routes which wait for a store that hangs do not keep the numbers from whoever looks.
    text = await anyio.to_thread.run_sync(state.aggregator.metrics.text, limiter=_scrapes())
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@cache
def _scrapes() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(4)
