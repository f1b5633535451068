"""The settings, as the command needs them."""

import ssl

from pydantic import Field, SecretStr, ValidationError

from otel_credits_aggregator.cli._errors import CommandError
from otel_credits_aggregator.settings import Settings

__all__ = ["CommandSettings", "load_settings"]

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# A fault must not print what may be secret.
_MAY_HOLD_A_PASSWORD = frozenset({"store", "token", "url"})


class CommandSettings(Settings):
    """The aggregator's settings and where the command finds its API."""

    url: str = Field("", description="Where the command finds the API. Empty: the API port of this machine.")
    token: SecretStr = Field(SecretStr(""), description="The token that the command shows to the API.")
    ca_file: str = Field("", description="Authorities (PEM) that the command trusts at an https:// API.")
    client_cert_file: str = Field("", description="Certificate (PEM) that the command shows to an https:// API.")
    client_key_file: str = Field("", description="Private key (PEM) of that certificate.")

    @property
    def local_url(self) -> str:
        """Where the API is if a server runs here with these settings."""
        scheme = "https" if self.tls_cert_file else "http"
        host = _ANY_ADDRESS.get(self.host, self.host)
        return f"{scheme}://[{host}]:{self.api_port}" if ":" in host else f"{scheme}://{host}:{self.api_port}"

    def tls(self) -> ssl.SSLContext | None:
        """Whom the command trusts and what it shows; None: the usual authorities, and nothing. Raises CommandError."""
        if not (self.ca_file or self.client_cert_file):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.client_cert_file:
                context.load_cert_chain(self.client_cert_file, self.client_key_file or None)
        except (OSError, ssl.SSLError) as error:
            raise CommandError(
                f"OTEL_CREDITS_CA_FILE, OTEL_CREDITS_CLIENT_CERT_FILE or _KEY_FILE cannot be used: {error}"
            ) from error
        return context

    @property
    def names_a_store(self) -> bool:
        """Whether the environment says which store is meant."""
        return bool({"store", "data_dir"} & self.model_fields_set)


def load_settings() -> CommandSettings:
    """Reads the environment. Raises CommandError with all faults, one a line."""
    try:
        return CommandSettings()
    except ValidationError as error:
        faults = [_in_words(fault["loc"], fault["msg"], fault["input"]) for fault in error.errors()]
        raise CommandError("the settings are not right:\n" + "\n".join(f"  {fault}" for fault in faults)) from error


def _in_words(location: tuple[str | int, ...], message: str, given: object) -> str:
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    name = str(location[0])
    shown = "" if name in _MAY_HOLD_A_PASSWORD else f" (it is {str(given)!r})"
    return f"OTEL_CREDITS_{name.upper()}: {message}{shown}"
