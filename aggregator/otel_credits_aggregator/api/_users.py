"""Balances, grants and profiles."""

from collections.abc import Sequence
from http import HTTPStatus

from fastapi import APIRouter, Response
from starlette.convertors import Convertor, register_url_convertor

from otel_credits_aggregator.api._errors import errors, errors_with_body
from otel_credits_aggregator.api._state import LIMIT, LedgerOfApp, Limit, PathUserId
from otel_credits_aggregator.ledger import Balance, Grant, NewGrant, Profile, User

__all__ = ["router"]


class _AnyText(Convertor[str]):
    """A part of a path that may hold slashes and line breaks, however the client encoded them."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any", _AnyText())
router = APIRouter(tags=["users"])


@router.get("/users/{user_id:any}/balance", summary="What a user has left", responses=errors(HTTPStatus.NOT_FOUND))
def read_balance(user_id: PathUserId, ledger: LedgerOfApp) -> Balance:
    """404 for an id to which nothing was granted, which used nothing and has no profile: most likely a mistyped id."""
    return ledger.balance(user_id)


@router.get("/users/{user_id:any}/grants", summary="What was granted to a user, newest first", responses=errors())
def list_grants(user_id: PathUserId, ledger: LedgerOfApp, limit: Limit = LIMIT) -> Sequence[Grant]:
    return ledger.grants(user_id, limit)


@router.post(
    "/users/{user_id:any}/grants",
    summary="Grant credits",
    status_code=HTTPStatus.CREATED,
    responses=errors_with_body(HTTPStatus.CONFLICT)
    | {HTTPStatus.OK.value: {"model": Grant, "description": "Was granted before."}},
)
def grant(user_id: PathUserId, new: NewGrant, ledger: LedgerOfApp, response: Response) -> Grant:
    """201 for a new grant. The same `grant_id` again grants nothing more and answers 200 with the first one.

    409 if that one is of another user or amount.
    """
    granted, is_new = ledger.grant(user_id, new)
    if not is_new:
        response.status_code = HTTPStatus.OK
    return granted


@router.put("/users/{user_id:any}", summary="Remember a user's email and name", responses=errors_with_body())
def set_user(user_id: PathUserId, profile: Profile, ledger: LedgerOfApp) -> User:
    """What is left out or empty stays as it was. Answers what is known now."""
    return ledger.set_user(user_id, profile)


@router.get("/users", summary="Profiles, by user id", responses=errors())
def list_users(ledger: LedgerOfApp, limit: Limit = LIMIT) -> Sequence[User]:
    return ledger.users(limit)


@router.get("/balances", summary="What each user has left, by user id", responses=errors())
def list_balances(ledger: LedgerOfApp, limit: Limit = LIMIT) -> Sequence[Balance]:
    return ledger.balances(limit)
