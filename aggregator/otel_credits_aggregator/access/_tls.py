"""TLS of the three listeners, and who must show a certificate. The files are followed as they change."""

import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from otel_credits_aggregator.settings import Settings

__all__ = ["TlsFiles", "TlsFilesError", "tls_files", "uvicorn_options"]

logger = logging.getLogger(__name__)
_LOOK_AGAIN_S = 1.0


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


def tls_files(settings: Settings) -> "TlsFiles | None":
    """The files of the settings; None without a certificate. Raises TlsFilesError."""
    if not settings.tls_cert_file:
        return None
    authorities = Path(settings.tls_client_ca_file) if settings.tls_client_ca_file else None
    return TlsFiles(Path(settings.tls_cert_file), Path(settings.tls_key_file), authorities)


class TlsFiles:
    """Certificate, key and authorities, as they are in their files now. Methods may be called from any thread.

    Files that are gone or broken, or do not belong together (yet, while they are replaced one after the other), leave
    what was read before as it was. What changes counts from the next connection on.

    Args:
        certificate: chain of certificates, PEM.
        key: its private key, PEM.
        authorities: of which every client must show a certificate, PEM; None: none must.
        clock: seconds that only grow; when to look at the files again.

    Raises:
        TlsFilesError: a file is missing, or is not what it should be.
    """

    def __init__(
        self, certificate: Path, key: Path, authorities: Path | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._certificate, self._key, self._authorities = certificate, key, authorities
        self._clock = clock
        self._lock = threading.Lock()
        self._fault = ""
        self._read = self._contents()
        self._context = self._loaded()
        self._look_at = clock() + _LOOK_AGAIN_S

    @property
    def context(self) -> ssl.SSLContext:
        """What a server needs of them."""
        self._look_again()
        return self._context

    def follow(self, context: ssl.SSLContext) -> None:
        """Has each new connection of a server with this context use the files as they are then."""

        def replace(connection: Any, _: str | None, __: ssl.SSLContext) -> None:
            connection.context = self.context

        context.sni_callback = replace

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """What gRPC needs of them; it asks again at each new connection."""
        given = self._read

        def changed() -> Any:
            nonlocal given
            self._look_again()
            previous, given = given, self._read
            return None if previous == given else _grpc_configuration(given)

        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(given), changed, require_client_authentication=self._authorities is not None
        )

    def _look_again(self) -> None:
        now = self._clock()
        with self._lock:
            if now < self._look_at:
                return
            self._look_at = now + _LOOK_AGAIN_S
            try:
                self._load_if_changed()
            except OSError as error:
                self._complain(str(error))

    def _load_if_changed(self) -> None:
        contents = self._contents()
        if contents == self._read:
            self._fault = ""
            return
        context = self._loaded()
        # As long as they are being written, what was loaded may be neither the old nor the new.
        if self._contents() == contents:
            self._context, self._read, self._fault = context, contents, ""
            logger.info("read the certificate in %s again", self._certificate)

    def _complain(self, fault: str) -> None:
        if fault != self._fault:
            logger.error("%s; what was read before stays in use", fault)
        self._fault = fault

    def _contents(self) -> tuple[bytes, bytes, bytes | None]:
        try:
            authorities = self._authorities.read_bytes() if self._authorities else None
            return self._certificate.read_bytes(), self._key.read_bytes(), authorities
        except OSError as error:
            raise TlsFilesError(f"{error.filename} cannot be read: {error.strerror}") from error

    def _loaded(self) -> ssl.SSLContext:
        """Also because gRPC says nothing of a wrong file but that it cannot listen."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            raise TlsFilesError(
                f"the certificate in {self._certificate} with the key in {self._key} cannot be used: {error}"
            ) from error
        if self._authorities:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self._authorities)
            except (OSError, ssl.SSLError) as error:
                raise TlsFilesError(f"the authorities in {self._authorities} cannot be used: {error}") from error
        return context


def _grpc_configuration(contents: tuple[bytes, bytes, bytes | None]) -> Any:
    certificate, key, authorities = contents
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authorities)
