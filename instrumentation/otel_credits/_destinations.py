"""Which hosts may learn who the user is: `OTEL_CREDITS_TRUSTED_HOSTS`, and where a request is going."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from opentelemetry.trace import Span, SpanKind

# Where HTTP client instrumentations say the whole address: the stable conventions, and the older ones.
_URL_ATTRIBUTES = ("url.full", "http.url")
# What URL parsers disagree about (where does the host end?) names no host that could be trusted.
_AMBIGUOUS = re.compile(r"[\\\s\x00-\x20\x7f]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ENTRY = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*(:\d{1,5})?|\[[0-9a-f:.]+\](:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class TrustedHosts:
    """Hosts (`api.internal`), hosts with a port (`api.internal:8080`), and suffixes (`.svc.cluster.local`)."""

    entries: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> TrustedHosts:
        """A list with commas.

        Raises:
            ValueError: an entry is not a host. Nothing stands for every host.
        """
        entries = [entry.strip().lower() for entry in text.split(",") if entry.strip()]
        for entry in entries:
            if not _ENTRY.fullmatch(entry):
                raise ValueError(f"{entry!r} is neither a host nor a suffix like .example.com")
        return cls(frozenset(entries))

    def trusts(self, url: str) -> bool:
        """Whether the host of this address is one of them."""
        return bool(self.entries) and not self.entries.isdisjoint(_names(url))


def _names(url: str) -> Iterable[str]:
    """All entries that would trust this address: the host, with its port, and the suffixes of both."""
    if _AMBIGUOUS.search(url):
        return ()
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return ()
    if not host or parts.scheme not in _DEFAULT_PORTS:
        return ()
    if ":" in host:
        hosts = [f"[{host}]"]
    else:
        labels = host.split(".")
        hosts = [host, *("." + ".".join(labels[start:]) for start in range(1, len(labels)))]
    return [*hosts, *(f"{name}:{port}" for name in hosts)]


def destination(span: Span) -> str | None:
    """The address that the HTTP client span of an instrumentation is about; None if it is no such span."""
    if getattr(span, "kind", None) is not SpanKind.CLIENT:
        return None
    attributes = getattr(span, "attributes", None) or {}
    for name in _URL_ATTRIBUTES:
        if isinstance(url := attributes.get(name), str):
            return url
    return None
