"""The settings, as the command needs them."""

from pydantic import Field, ValidationError

from otel_credits_aggregator.cli._errors import CommandError
from otel_credits_aggregator.settings import Settings

__all__ = ["CommandSettings", "load_settings"]

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# A fault must not print what may be secret.
_MAY_HOLD_A_PASSWORD = frozenset({"store", "url"})


class CommandSettings(Settings):
    """The aggregator's settings and where the command finds its API."""

    url: str = Field("", description="Where the command finds the API. Empty: the API port of this machine.")

    @property
    def local_url(self) -> str:
        """Where the API is if a server runs here with these settings."""
        host = _ANY_ADDRESS.get(self.host, self.host)
        return f"http://[{host}]:{self.api_port}" if ":" in host else f"http://{host}:{self.api_port}"

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
