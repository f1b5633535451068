"""Telling the services that the app calls who the user is, and nobody else.

OpenTelemetry's propagators are not told where a request goes. But when an HTTP client instrumentation injects, the
current span is its client span, which names the address. So the app's propagator is wrapped: if that address is one of
`OTEL_CREDITS_TRUSTED_HOSTS`, the usage context is put into the outgoing baggage; in every other case (another host, no
client span, a span that is not recorded) all members of ours are taken out, also those that came in with the request
and those that a redirect copied from the request before.
"""

from __future__ import annotations

import importlib.util
from collections.abc import MutableMapping
from typing import Any

from opentelemetry import propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import get_current_span

from otel_credits._baggage import header_without_ours, members_of_context, with_members, without_members
from otel_credits._context import INBOUND
from otel_credits._destinations import TrustedHosts, destination

_FIELD = "baggage"
_w3c = W3CBaggagePropagator()
_trusted = TrustedHosts()


class CreditsPropagator(TextMapPropagator):
    """The app's propagator, which passes the usage context on to trusted hosts only."""

    def __init__(self, inner: TextMapPropagator) -> None:
        self.inner = inner

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        extracted = self.inner.extract(carrier, context, getter)
        if INBOUND.is_trusted and _FIELD not in self.inner.fields:
            return _w3c.extract(carrier, extracted, getter)
        return extracted

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        context = get_current() if context is None else context
        url = destination(get_current_span(context))
        if url is None or not _trusted.trusts(url):
            self.inner.inject(carrier, without_members(context), setter)
            strip(carrier)
            return
        passed_on = with_members(context, members_of_context(context))
        self.inner.inject(carrier, passed_on, setter)
        if _FIELD not in self.inner.fields:
            _w3c.inject(carrier, with_members(Context(), members_of_context(context)), setter)

    @property
    def fields(self) -> set[str]:
        return self.inner.fields


def strip(carrier: object) -> None:
    """Take the members of ours out of a carrier's baggage header, if it is a mapping and has one."""
    if not isinstance(carrier, MutableMapping) or not (header := carrier.get(_FIELD)) or not isinstance(header, str):
        return
    left = header_without_ours(header)
    if left != header:
        if left:
            carrier[_FIELD] = left
        else:
            del carrier[_FIELD]


def install_propagator(trusted: TrustedHosts) -> None:
    """Wrap the app's propagator (again, if it has set another one since) and trust these hosts from now on."""
    global _trusted
    _trusted = trusted
    ensure_propagator()
    if trusted.entries:
        _guard_redirects_of_requests()


def ensure_propagator() -> None:
    """Wrap the app's propagator if it is not."""
    inner = propagate.get_global_textmap()
    if type(inner) is not CreditsPropagator:
        propagate.set_global_textmap(CreditsPropagator(inner))


def remove_propagator() -> None:
    """Give the app its own propagator back."""
    global _trusted
    _trusted = TrustedHosts()
    wrapped = propagate.get_global_textmap()
    if isinstance(wrapped, CreditsPropagator):
        propagate.set_global_textmap(wrapped.inner)


def _guard_redirects_of_requests() -> None:
    """`requests` follows redirects below its instrumentation, with the headers of the request before. Where it takes
    the credentials out of them, the members of ours are taken out too."""
    if importlib.util.find_spec("requests") is None:
        return
    from requests.sessions import SessionRedirectMixin

    original: Any = SessionRedirectMixin.rebuild_auth
    if getattr(original, "_otel_credits", False):
        return

    def rebuild_auth(self: Any, prepared_request: Any, response: Any) -> None:
        original(self, prepared_request, response)
        if not _trusted.trusts(str(prepared_request.url)):
            strip(prepared_request.headers)

    rebuild_auth._otel_credits = True  # type: ignore[attr-defined]
    SessionRedirectMixin.rebuild_auth = rebuild_auth  # type: ignore[method-assign]
