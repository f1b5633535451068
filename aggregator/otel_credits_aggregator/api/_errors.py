"""The one file that maps errors to HTTP status codes. Every error is `{"detail": "what is wrong and what to do"}`."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from otel_credits_aggregator.ledger import (
    BusyError,
    ConflictError,
    InvalidQueryError,
    InvalidRequestError,
    LedgerError,
    NotFoundError,
    NotPermittedError,
    StoreUnavailableError,
)
from otel_credits_aggregator.outcomes import Refusal

__all__ = ["ErrorDetail", "add_error_handlers", "errors", "errors_with_body", "refusals", "refused"]

_STATUS: Mapping[type[LedgerError], HTTPStatus] = {
    BusyError: HTTPStatus.TOO_MANY_REQUESTS,
    ConflictError: HTTPStatus.CONFLICT,
    InvalidQueryError: HTTPStatus.BAD_REQUEST,
    InvalidRequestError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFoundError: HTTPStatus.NOT_FOUND,
    NotPermittedError: HTTPStatus.FORBIDDEN,
    StoreUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}
_RETRY_AFTER_S = "5"


class ErrorDetail(BaseModel):
    """Why it could not be done, and what to do."""

    detail: str


def refusals(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The `responses` for OpenAPI of a route that any caller may be refused, and that may answer these errors."""
    access = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    return {status.value: {"model": ErrorDetail} for status in (*statuses, *access)}


def errors(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The same for a route of the ledger, which may also answer 422, 429 and 503."""
    always = (HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
    return refusals(*statuses, *always)


def errors_with_body(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The same for a route that reads a body, which answers 400 to bytes that are no text at all."""
    return errors(*statuses, HTTPStatus.BAD_REQUEST)


def refused(refusal: Refusal) -> JSONResponse:
    """The answer to who may not call; a caller who was not known is told how to say who they are (RFC 9110, 11.6.1)."""
    unknown = refusal.http_status is HTTPStatus.UNAUTHORIZED
    headers = {"WWW-Authenticate": 'Bearer realm="otel-credits"'} if unknown else None
    return JSONResponse({"detail": str(refusal)}, refusal.http_status, headers=headers)


def add_error_handlers(app: FastAPI) -> None:
    """Answers the ledger's errors and invalid requests as this API does."""

    @app.exception_handler(LedgerError)
    async def ledger_error(request: Request, error: LedgerError) -> JSONResponse:
        status = _STATUS.get(type(error), HTTPStatus.CONFLICT)
        may_retry = status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
        return JSONResponse(
            {"detail": str(error)}, status, headers={"Retry-After": _RETRY_AFTER_S} if may_retry else None
        )

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _in_words(error.errors())}, HTTPStatus.UNPROCESSABLE_ENTITY)


def _in_words(faults: Sequence[Mapping[str, Any]]) -> str:
    """All faults of a request in one line: where, and what is wrong there."""
    return "; ".join(f"{_place(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}" for fault in faults)


def _place(location: Sequence[str | int]) -> str:
    # The first part is body, query or path, which nobody needs to know when a name follows.
    return ".".join(str(part) for part in (location[1:] or location))
