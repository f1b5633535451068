"""TLS of the three listeners, and who must show a certificate."""

import ssl
from pathlib import Path
from typing import Any

import grpc

from otel_credits_aggregator.settings import Settings

__all__ = ["TlsFilesError", "grpc_credentials", "uvicorn_options"]


class TlsFilesError(OSError):
    """A certificate, key or list of authorities cannot be used; the message says which."""


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """What uvicorn's configuration needs for TLS; nothing without a certificate."""
    if not settings.tls_cert_file:
        return {}
    options: dict[str, Any] = {"ssl_certfile": settings.tls_cert_file, "ssl_keyfile": settings.tls_key_file}
    if settings.tls_client_ca_file:
        options |= {"ssl_ca_certs": settings.tls_client_ca_file, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options


def grpc_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What gRPC needs for TLS; None without a certificate.

    Raises:
        TlsFilesError: a file is missing, or is not what it should be.
    """
    if not settings.tls_cert_file:
        return None
    _check(settings)
    authorities = _read(settings.tls_client_ca_file) if settings.tls_client_ca_file else None
    return grpc.ssl_server_credentials(
        [(_read(settings.tls_key_file), _read(settings.tls_cert_file))],
        root_certificates=authorities,
        require_client_auth=authorities is not None,
    )


def _check(settings: Settings) -> None:
    """Loads the files once as uvicorn will, since gRPC says nothing of a wrong one but that it cannot listen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise TlsFilesError(
            f"the certificate in {settings.tls_cert_file} with the key in {settings.tls_key_file} cannot be used: {error}"
        ) from error
    if settings.tls_client_ca_file:
        try:
            context.load_verify_locations(settings.tls_client_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise TlsFilesError(f"the authorities in {settings.tls_client_ca_file} cannot be used: {error}") from error


def _read(path: str) -> bytes:
    return Path(path).read_bytes()
