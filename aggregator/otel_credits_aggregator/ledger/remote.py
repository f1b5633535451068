"""The ledger of a running aggregator, over its HTTP API."""

import base64
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx
from pydantic import BaseModel

from otel_credits_aggregator.ledger.aliases import ModelAlias, NewModelAlias
from otel_credits_aggregator.ledger.conventions import Convention, ConventionKey, NewConvention
from otel_credits_aggregator.ledger.errors import (
    BusyError,
    ConflictError,
    InvalidQueryError,
    InvalidRequestError,
    LedgerError,
    NotFoundError,
    NotPermittedError,
    ServerUnreachableError,
    StoreUnavailableError,
    UnauthenticatedError,
)
from otel_credits_aggregator.ledger.inputs import (
    Assignment,
    Discard,
    Fix,
    NewBackup,
    NewGrant,
    NewPrice,
    NewRule,
    NewVoid,
    Profile,
    QuarantineFilter,
    RawRequest,
)
from otel_credits_aggregator.ledger.interface import EVERYTHING, LIMIT_DEFAULT
from otel_credits_aggregator.ledger.models import (
    Backup,
    Balance,
    ClientUsage,
    Correction,
    Difference,
    Discarded,
    Event,
    Grant,
    MonthlyUsage,
    Price,
    QuarantinedCopy,
    QuarantinedRequest,
    QuarantinedUsage,
    QuarantineReason,
    Rebuilt,
    Replayed,
    Rule,
    RuleCharge,
    SeriesFault,
    StoredTest,
    TakenIn,
    User,
    Void,
)

__all__ = ["RemoteLedger", "trusted"]

Model = TypeVar("Model", bound=BaseModel)
_Parameter = str | int | list[str]
_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
# What goes through all events of the store takes as long as it takes: at 10^8 more than ten minutes.
_THROUGH_ALL = frozenset({"/reconcile", "/reconcile/fix", "/rebuild", "/backup", "/series"})
_NO_TIMEOUT = httpx.Timeout(None, connect=5.0)
_ERRORS: Mapping[int, type[LedgerError]] = {
    400: InvalidQueryError,
    401: UnauthenticatedError,
    403: NotPermittedError,
    404: NotFoundError,
    409: ConflictError,
    422: InvalidRequestError,
    429: BusyError,
    503: StoreUnavailableError,
}


def trusted(url: str, tls: ssl.SSLContext | None) -> ssl.SSLContext | bool:
    """Whom httpx trusts at this address: what `tls` says, else the usual authorities, and where there is no TLS, nobody.

    Reading all authorities takes as long as the rest of a short command.
    """
    return tls or (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if url.lower().startswith("http://") else True)


class RemoteLedger:
    """The ledger behind an aggregator's API.

    Args:
        url: where the API is.
        token: shown with each call, if the server asks for one.
        tls: whom to trust and which certificate to show; None: the usual authorities and no certificate.
    """

    def __init__(self, url: str, token: str = "", tls: ssl.SSLContext | None = None) -> None:
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(timeout=_TIMEOUT, trust_env=False, headers=headers, verify=trusted(url, tls))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def balance(self, user_id: str) -> Balance:
        return Balance.model_validate_json(self._call("GET", f"/users/{_segment(user_id)}/balance"))

    def balances(self, limit: int = LIMIT_DEFAULT) -> Sequence[Balance]:
        return self._list(Balance, "/balances", limit=limit)

    def users(self, limit: int = LIMIT_DEFAULT) -> Sequence[User]:
        return self._list(User, "/users", limit=limit)

    def set_user(self, user_id: str, profile: Profile) -> User:
        return User.model_validate_json(self._call("PUT", f"/users/{_segment(user_id)}", profile))

    def grants(self, user_id: str, limit: int = LIMIT_DEFAULT) -> Sequence[Grant]:
        return self._list(Grant, f"/users/{_segment(user_id)}/grants", limit=limit)

    def grant(self, user_id: str, new: NewGrant) -> tuple[Grant, bool]:
        answer = self._answer("POST", f"/users/{_segment(user_id)}/grants", new)
        return Grant.model_validate_json(answer.content), answer.status_code == httpx.codes.CREATED

    def events(self, user_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Sequence[Event]:
        return self._list(Event, "/events", user=user_id, limit=limit)

    def void(self, event_id: UUID, new: NewVoid) -> tuple[Void, bool]:
        answer = self._answer("POST", f"/events/{event_id}/void", new)
        return Void.model_validate_json(answer.content), answer.status_code == httpx.codes.CREATED

    def monthly_usage(self, user_id: str | None = None, limit: int = LIMIT_DEFAULT) -> Sequence[MonthlyUsage]:
        return self._list(MonthlyUsage, "/usage/monthly", user=user_id, limit=limit)

    def prices(self) -> Sequence[Price]:
        return self._list(Price, "/prices")

    def set_price(self, new: NewPrice) -> Price:
        return Price.model_validate_json(self._call("POST", "/prices", new))

    def rules(self) -> Sequence[Rule]:
        return self._list(Rule, "/rules")

    def set_rule(self, new: NewRule) -> Rule:
        return Rule.model_validate_json(self._call("POST", "/rules", new))

    def switch_rule(self, rule_id: str, enabled: bool) -> Rule:
        path = f"/rules/{_segment(rule_id)}/enabled"
        return Rule.model_validate_json(self._call("PUT", path, {"enabled": enabled}))

    def test_rule(self, rule_id: str, request: bytes) -> Sequence[RuleCharge]:
        path, body = f"/rules/{_segment(rule_id)}/test", {"request": base64.b64encode(request).decode()}
        return [RuleCharge.model_validate(row) for row in self._answer("POST", path, body).json()]

    def test_rule_on_stored(self, rule_id: str, since: datetime | None = None) -> StoredTest:
        params = _given(since=since.isoformat() if since else None)
        answer = self._answer("POST", f"/rules/{_segment(rule_id)}/test/stored", params=params)
        return StoredTest.model_validate_json(answer.content)

    def model_aliases(self) -> Sequence[ModelAlias]:
        return self._list(ModelAlias, "/aliases")

    def set_model_alias(self, new: NewModelAlias) -> ModelAlias:
        return ModelAlias.model_validate_json(self._call("POST", "/aliases", new))

    def remove_model_alias(self, model: str) -> ModelAlias:
        return ModelAlias.model_validate_json(self._call("DELETE", f"/aliases/{_segment(model)}"))

    def conventions(self) -> Sequence[Convention]:
        return self._list(Convention, "/conventions")

    def set_convention(self, new: NewConvention) -> Convention:
        return Convention.model_validate_json(self._call("POST", "/conventions", new))

    def remove_convention(self, key: ConventionKey) -> Convention:
        path = f"/conventions/{_segment(key.scope_name)}"
        params = _given(version_from=key.version_from or None, provider=key.provider or None)
        return Convention.model_validate_json(self._answer("DELETE", path, params=params).content)

    def quarantine(
        self, which: QuarantineFilter = EVERYTHING, limit: int = LIMIT_DEFAULT
    ) -> Sequence[QuarantinedUsage]:
        return self._list(QuarantinedUsage, "/quarantine", limit=limit, **_filter(which))

    def quarantine_summary(self) -> Sequence[QuarantineReason]:
        return self._list(QuarantineReason, "/quarantine/summary")

    def quarantined_copies(self, event_id: UUID) -> Sequence[QuarantinedCopy]:
        return self._list(QuarantinedCopy, f"/quarantine/usages/{event_id}")

    def quarantined_requests(
        self, which: QuarantineFilter = EVERYTHING, limit: int = LIMIT_DEFAULT
    ) -> Sequence[QuarantinedRequest]:
        return self._list(QuarantinedRequest, "/quarantine/requests", limit=limit, **_filter(which))

    def quarantined_request(self, quarantine_id: UUID) -> RawRequest:
        return RawRequest.model_validate_json(self._call("GET", f"/quarantine/requests/{quarantine_id}"))

    def replay_quarantine(self, which: QuarantineFilter = EVERYTHING) -> Replayed:
        answer = self._answer("POST", "/quarantine/replay", params=_filter(which))
        return Replayed.model_validate_json(answer.content)

    def assign_quarantine(self, which: QuarantineFilter, assignment: Assignment) -> Replayed:
        answer = self._answer("POST", "/quarantine/assign", assignment, params=_filter(which))
        return Replayed.model_validate_json(answer.content)

    def discard_quarantine(self, which: QuarantineFilter, discard: Discard) -> Discarded:
        answer = self._answer("POST", "/quarantine/discard", discard, params=_filter(which))
        return Discarded.model_validate_json(answer.content)

    def take_in(self, request: RawRequest) -> TakenIn:
        return TakenIn.model_validate_json(self._call("POST", "/quarantine/import", request))

    def reconcile(self, user_id: str | None = None) -> Sequence[Difference]:
        return self._list(Difference, "/reconcile", user=user_id)

    def clients(self, limit: int = LIMIT_DEFAULT) -> Sequence[ClientUsage]:
        return self._list(ClientUsage, "/clients", limit=limit)

    def series_faults(self, limit: int = LIMIT_DEFAULT) -> Sequence[SeriesFault]:
        return self._list(SeriesFault, "/series", limit=limit)

    def fix_totals(self, user_id: str | None, fix: Fix) -> Sequence[Correction]:
        answer = self._answer("POST", "/reconcile/fix", fix, params=_given(user=user_id))
        return [Correction.model_validate(row) for row in answer.json()]

    def rebuild_totals(self) -> Rebuilt:
        return Rebuilt.model_validate_json(self._call("POST", "/rebuild"))

    def backup(self, new: NewBackup) -> Backup:
        return Backup.model_validate_json(self._call("POST", "/backup", new))

    def sql(self, query: str) -> Sequence[Mapping[str, Any]]:
        rows: list[dict[str, Any]] = self._answer("POST", "/sql", {"query": query}).json()
        return rows

    def _list(self, model: type[Model], path: str, **parameters: _Parameter | None) -> list[Model]:
        answer = self._answer("GET", path, params=_given(**parameters))
        return [model.model_validate(row) for row in answer.json()]

    def _call(self, method: str, path: str, body: BaseModel | Mapping[str, Any] | None = None) -> bytes:
        return self._answer(method, path, body).content

    def _answer(
        self,
        method: str,
        path: str,
        body: BaseModel | Mapping[str, Any] | None = None,
        params: Mapping[str, _Parameter] | None = None,
    ) -> httpx.Response:
        content = body.model_dump(mode="json", exclude_none=True) if isinstance(body, BaseModel) else body
        timeout = _NO_TIMEOUT if path in _THROUGH_ALL else self._client.timeout
        try:
            answer = self._client.request(
                method, f"{self._url}/api/v1{path}", json=content, params=params, timeout=timeout
            )
        except httpx.HTTPError as error:
            raise ServerUnreachableError(f"no answer from the aggregator at {self._url}: {error}") from error
        if answer.is_error:
            raise _ERRORS.get(answer.status_code, LedgerError)(_detail(answer))
        return answer


def _given(**parameters: _Parameter | None) -> dict[str, _Parameter]:
    return {name: value for name, value in parameters.items() if value is not None}


def _filter(which: QuarantineFilter) -> dict[str, _Parameter]:
    return _given(
        reason=which.reason,
        user=which.user_id,
        event=[str(event_id) for event_id in which.event_ids] or None,
        since=which.since.isoformat() if which.since else None,
        until=which.until.isoformat() if which.until else None,
    )


def _segment(text: str) -> str:
    """A path segment; dots alone are escaped too, because clients take `..` for the folder above."""
    quoted = quote(text, safe="")
    return quoted.replace(".", "%2E") if not quoted.strip(".") else quoted


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.request.method} {answer.request.url} answered {answer.status_code}"
