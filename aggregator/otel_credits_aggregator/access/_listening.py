"""Which addresses may be listened on: without tokens only those that nobody else can reach."""

import ipaddress
import logging
import socket

from otel_credits_aggregator.access._gate import Gate
from otel_credits_aggregator.settings import Settings

__all__ = ["Unprotected", "check_listening"]

logger = logging.getLogger(__name__)


class Unprotected(Exception):
    """It may not listen there without tokens; the message says what to do."""


def check_listening(settings: Settings, gate: Gate) -> None:
    """Says in the log who will be let in, and refuses what nobody can have meant.

    Raises:
        Unprotected: others can reach the address, and nobody would be asked for a token.
    """
    is_public = not _is_loopback(settings.host)
    if gate.asks_for_tokens:
        if is_public and not settings.tls_cert_file:
            logger.warning(
                "tokens travel over %s in plain text: set OTEL_CREDITS_TLS_CERT_FILE, or put TLS in front",
                settings.host,
            )
        return
    if is_public and not settings.allow_unauthenticated:
        raise Unprotected(
            f"{settings.host} (OTEL_CREDITS_HOST) can be reached from elsewhere, and there are no tokens in "
            f"{settings.tokens_path}, so anybody could charge any user and grant themselves credits. Make tokens with "
            "`otel-credits tokens add`, or listen on 127.0.0.1; if something in front keeps others out, say "
            "OTEL_CREDITS_ALLOW_UNAUTHENTICATED=on."
        )
    logger.warning(
        "no tokens in %s: whoever reaches %s can charge any user, grant credits and read everything",
        settings.tokens_path,
        settings.host,
    )


def _is_loopback(host: str) -> bool:
    """Whether every address of a host is this machine's own. One that cannot be looked up is not known to be."""
    try:
        found = socket.getaddrinfo(host or None, 0, flags=socket.AI_PASSIVE, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(_is_own(str(address[0])) for *_, address in found)


def _is_own(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
