"""Opens the ledger: through the API while a server runs, else the store itself.

The embedded store belongs to one process at a time, so a running server must be asked. If OTEL_CREDITS_URL is set, only
the server there is meant; another store is never used silently in its place.
"""

import fcntl
from pathlib import Path

import httpx
from pydantic import ValidationError

from otel_credits_aggregator.cli._errors import CommandError
from otel_credits_aggregator.cli._settings import CommandSettings, load_settings
from otel_credits_aggregator.ledger import Ledger, LocalLedger, RemoteLedger, store_id
from otel_credits_aggregator.ledger.models import Health
from otel_credits_aggregator.ledger.remote import trusted
from otel_credits_aggregator.store import embedded_path

__all__ = ["check_not_locked", "open_ledger"]

_HEALTH_TIMEOUT_S = 2.0


def open_ledger() -> Ledger:
    """The ledger that the settings mean; the caller closes it. Raises CommandError."""
    settings = load_settings()
    if settings.url:
        return _server_meant(settings)
    health = _health(settings.local_url, settings)
    if health is not None and (health.store == store_id(settings.dsn) or not settings.names_a_store):
        return _remote(settings.local_url, settings)
    path = embedded_path(settings.dsn)
    if path is not None:
        _check_exists(path)
        check_not_locked(path, settings)
    return LocalLedger(settings.dsn, settings=settings)


def check_not_locked(path: Path, settings: CommandSettings) -> None:
    """Raises CommandError if another process has the embedded store open (the engine itself does not say so)."""
    try:
        with (path / "status").open("rb") as status:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return
    except BlockingIOError:
        raise CommandError(
            f"another process has the store in {path} open, and no server answers at {settings.local_url}. "
            "If it is a server with another address, set OTEL_CREDITS_URL to its API (http://host:port); else end it."
        ) from None


def _server_meant(settings: CommandSettings) -> Ledger:
    if _health(settings.url, settings) is None:
        raise CommandError(
            f"no aggregator answers at {settings.url} (OTEL_CREDITS_URL). Start `otel-credits serve` there, or unset "
            "OTEL_CREDITS_URL to open the store itself."
        )
    return _remote(settings.url, settings)


def _remote(url: str, settings: CommandSettings) -> RemoteLedger:
    return RemoteLedger(url, settings.token.get_secret_value(), settings.tls())


def _health(url: str, settings: CommandSettings) -> Health | None:
    """What the server at a URL says of itself; None if none answers, or one that is not ours."""
    try:
        answer = httpx.get(
            f"{url.rstrip('/')}/healthz",
            timeout=_HEALTH_TIMEOUT_S,
            trust_env=False,
            verify=trusted(url, settings.tls()),
        )
        return Health.model_validate_json(answer.content)
    except (httpx.HTTPError, httpx.InvalidURL, ValidationError):
        return None


def _check_exists(path: Path) -> None:
    if not path.is_dir():
        raise CommandError(
            f"no server answers, and there is no store in {path}. Start `otel-credits serve`, or set OTEL_CREDITS_URL, "
            "OTEL_CREDITS_STORE or OTEL_CREDITS_DATA_DIR to where the ledger is."
        )
