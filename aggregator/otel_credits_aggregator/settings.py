"""All settings of the aggregator, from environment variables ``OTEL_CREDITS_*``. The only file that reads them."""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = ["Settings"]

STORE_SCHEMES = ("chdb", "clickhouse", "http", "https")
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(allow_inf_nan=False)]


class Settings(BaseSettings):
    """Settings of ``otel-credits serve``; each field is the environment variable ``OTEL_CREDITS_<NAME>``.

    Raises:
        pydantic.ValidationError: one error for each setting that is wrong, all together.
    """

    model_config = SettingsConfigDict(env_prefix="OTEL_CREDITS_", extra="ignore")

    data_dir: Path = Field(
        Path("otel-credits-data"),
        description="Folder of the spool and of the embedded store.",
        validate_default=True,
    )
    store: str = Field(
        "",
        description="clickhouse-connect DSN of the store: `chdb:///path`, `clickhouse://user:password@host:8123/db`, "
        "or `https://` for TLS. Empty: embedded, in the data folder.",
    )
    host: str = Field("127.0.0.1", description="Address that all three ports listen on.")
    grpc_port: Port = Field(4317, description="OTLP/gRPC.")
    http_port: Port = Field(4318, description="OTLP/HTTP (protobuf and JSON).")
    api_port: Port = Field(8080, description="API, metrics, health.")

    tokens_file: str = Field(
        "", description="File of the tokens (`otel-credits tokens`). Empty: `tokens.json` in the data folder."
    )
    allow_unauthenticated: bool = Field(
        False,
        description="Listen on an address that others can reach although there are no tokens (`on`, `off`).",
    )
    tls_cert_file: str = Field(
        "", description="Certificate chain (PEM) of all three ports; with it they speak TLS only. Empty: plain text."
    )
    tls_key_file: str = Field("", validate_default=True, description="Private key (PEM) of the certificate.")
    tls_client_ca_file: str = Field(
        "", description="Authorities (PEM) of which every client must show a certificate: mutual TLS."
    )

    charge_genai: bool = Field(
        False, description="Charge LLM inference spans of any known instrumentation as action `ai_call` (`on`, `off`)."
    )
    user_attributes: Annotated[tuple[str, ...], NoDecode] = Field(
        ("credits.user_id", "user.id", "enduser.id"),
        description="Span attributes that may name who pays, the first present one wins; comma-separated, at most 8.",
    )
    default_user: str = Field("", description="Who pays for usage that names nobody. Empty: it is quarantined.")
    estimated: Literal["charge", "quarantine", "ignore"] = Field(
        "charge",
        description="What becomes of usage that is marked as an estimate (`credits.metadata.estimated`): `charge`, "
        "`quarantine` until somebody decides, or `ignore`, which counts it as not usage.",
    )
    keep_attributes: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Attributes whose first 512 characters are kept in the metadata of the event; all others outside the "
        "conventions are dropped. Comma-separated, at most 32.",
    )

    keep_requests_h: Annotated[float, Field(allow_inf_nan=False)] = Field(
        0.0,
        ge=0,
        description="How long trace requests are kept for `otel-credits rules test --stored`, in hours, without long texts "
        "and known prompts; 0: not at all.",
    )
    keep_requests_bytes_max: int = Field(
        1 << 28, ge=1 << 20, description="How much of them is kept, in bytes; the oldest go first."
    )
    request_bytes_max: int = Field(
        64 << 20, ge=1 << 10, le=1 << 29, description="Largest request, uncompressed, in bytes."
    )
    spool_bytes_max: int = Field(
        1 << 30, ge=1 << 20, description="What may wait in the spool, in bytes; beyond it senders get a retry delay."
    )
    receive_threads: int = Field(16, ge=1, le=256, description="Requests taken at once, for each of gRPC and HTTP.")
    retry_delay_s: Seconds = Field(5.0, gt=0, description="Delay asked of senders when the spool is full, in seconds.")
    insert_bytes_max: int = Field(
        20 << 20,
        ge=1 << 10,
        description="Requests are grouped into inserts of at most so many bytes (one request may be larger).",
    )
    insert_interval_s: Seconds = Field(
        0.25, ge=0, description="How long the first request of an insert may wait for others, in seconds."
    )
    insert_lanes: int = Field(
        2,
        ge=1,
        le=16,
        description="Inserts at once, where requests are proven to hold no copies of one usage; 1: one after the other.",
    )
    store_retry_max_s: Seconds = Field(
        10.0, gt=0, description="Longest pause between attempts while the store is away, in seconds."
    )
    recheck_interval_s: Seconds = Field(
        2.0, gt=0, description="How often unpriced usage is looked at again, in seconds."
    )
    orphaned_after_s: int = Field(
        3600,
        ge=1,
        description="After so many seconds what another aggregator should have taken back, and did not, is taken back for it.",
    )
    stop_timeout_s: Seconds = Field(
        20.0, gt=0, description="How long a stop may take to insert what waits; the rest stays in the spool."
    )

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # Once, at the start: chDB changes the process's working folder while it is imported, in whatever thread that is.
        return value.absolute()

    @field_validator("tokens_file", "tls_cert_file", "tls_key_file", "tls_client_ca_file")
    @classmethod
    def _absolute_if_named(cls, value: str) -> str:
        return str(Path(value).absolute()) if value else value

    @field_validator("store")
    @classmethod
    def _known_store(cls, value: str) -> str:
        # clickhouse-connect takes any scheme for http, so that a typing error would be an address nobody meant.
        if value and urlsplit(value).scheme not in STORE_SCHEMES:
            raise ValueError(
                f"the store is a DSN that starts with {', '.join(f'{scheme}://' for scheme in STORE_SCHEMES)}"
            )
        return value

    @field_validator("user_attributes", "keep_attributes", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("user_attributes")
    @classmethod
    def _some_but_few(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(value) <= 8:
            raise ValueError("name 1 to 8 attributes, separated by commas")
        return value

    @field_validator("keep_attributes")
    @classmethod
    def _not_too_many(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > 32:
            raise ValueError("name at most 32 attributes, separated by commas")
        if any(name.startswith("credits.") for name in value):
            raise ValueError("attributes that start with credits. have their own place in the event: leave them out")
        return tuple(dict.fromkeys(value))

    @field_validator("http_port", "api_port")
    @classmethod
    def _ports_differ(cls, value: int, info: ValidationInfo) -> int:
        # The fields are validated in their order, and each sees those before it.
        for other in ("grpc_port", "http_port"):
            if other != info.field_name and info.data.get(other) == value:
                raise ValueError(f"the same port as OTEL_CREDITS_{other.upper()}; each of the three needs its own")
        return value

    @field_validator("tls_key_file", "tls_client_ca_file")
    @classmethod
    def _with_a_certificate(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("tls_cert_file"):
            raise ValueError("needs OTEL_CREDITS_TLS_CERT_FILE, too")
        if info.field_name == "tls_key_file" and not value and info.data.get("tls_cert_file"):
            raise ValueError("is needed with OTEL_CREDITS_TLS_CERT_FILE")
        return value

    @property
    def tokens_path(self) -> Path:
        """The file of the tokens, the default filled in."""
        return Path(self.tokens_file) if self.tokens_file else self.data_dir / "tokens.json"

    @property
    def dsn(self) -> str:
        """The store's DSN, the default filled in."""
        return self.store or f"chdb://{self.data_dir / 'store'}"
