"""How an instrumentation reports tokens, as a model and as a row of the store. One row teaches an emitter."""

import re
import uuid
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, model_validator

from otel_credits_aggregator.ledger._store import Store
from otel_credits_aggregator.ledger.errors import NotFoundError
from otel_credits_aggregator.ledger.fields import Name, Text, Utc

__all__ = ["Convention", "ConventionKey", "NewConvention", "conventions", "remove_convention", "set_convention"]

_NUMBERS_MAX = 2**63
_NAMES_MAX = 8
_LISTS = ("price_attributes", "stream_attributes", "stream_order")
# The name of an attribute, or of a place within its JSON (RFC 6901).
_PLACE = re.compile(r"[^#]+(#(/([^~]|~[01])*)?)?", re.DOTALL)
_TOKENS = (
    *("input_attribute", "output_attribute", "cache_read_attribute", "cache_write_attribute"),
    *("cache_write_1h_attribute", "reasoning_attribute", "input_audio_attribute", "output_audio_attribute"),
)


def _version(value: str) -> str:
    if value and not re.fullmatch(r"[0-9][0-9A-Za-z.+_-]*", value):
        raise ValueError("is no version: it begins with a number, as in 1.3 or 0.62.4")
    return value


def _numbers(version: str) -> list[int]:
    """A version as the chain compares it: its numbers, in their order."""
    return [int(number) for number in re.findall("[0-9]+", version)]


Version = Annotated[Text, AfterValidator(_version)]
# Providers are compared in lower case, as the chain does.
Provider = Annotated[Text, AfterValidator(str.lower)]


class ConventionKey(BaseModel):
    """Which convention is meant: a further one with the same three replaces it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scope_name: Name = Field(description="The name of the instrumentation scope.", examples=["acme.llm"])
    version_from: Text = Field("", description="First version of the scope that does so; empty: any.")
    provider: Provider = Field(
        "", description="Only calls of this provider (gen_ai.provider.name, gen_ai.system or llm.provider); empty: any."
    )

    @property
    def in_words(self) -> str:
        """The three in one line."""
        since = f" from {self.version_from}" if self.version_from else ""
        return f"{self.scope_name}{since}{f' for {self.provider}' if self.provider else ''}"


class NewConvention(ConventionKey):
    """What the attributes of an instrumentation mean. Those that are left out have OpenTelemetry's names.

    What is told within the JSON of an attribute is named by the attribute, `#` and a JSON pointer (RFC 6901):
    `output.value#/usage/service_tier`. Of a list or an object it is told how many it holds: `acme.answers#`.
    """

    version_from: Version = Field("", description="First version of the scope that does so; empty: any.")
    version_until: Version = Field("", description="First version that does otherwise; empty: none yet.")
    input_attribute: Name = Field("gen_ai.usage.input_tokens", examples=["acme.tokens.in"])
    output_attribute: Name = Field("gen_ai.usage.output_tokens", description="Reasoning included.")
    cache_read_attribute: Text = "gen_ai.usage.cache_read.input_tokens"
    cache_write_attribute: Text = Field(
        "gen_ai.usage.cache_write.input_tokens", description="All writes, of whatever lifetime."
    )
    cache_write_1h_attribute: Text = Field("", description="Those of the writes that live an hour.")
    reasoning_attribute: Text = "gen_ai.usage.reasoning.output_tokens"
    input_audio_attribute: Text = Field("", description="Those of the uncached input tokens that were audio.")
    output_audio_attribute: Text = Field("", description="Those of the output tokens that were audio.")
    input_includes_cache: StrictBool = Field(description="Whether the input attribute counts cached tokens, too.")
    cache_unknown_from: int = Field(
        0,
        strict=True,
        ge=0,
        lt=_NUMBERS_MAX,
        description="From so many input tokens on, no cache-read attribute means not known; 0: it means none.",
    )
    model_attribute: Text = "gen_ai.response.model"
    request_model_attribute: Text = Field("gen_ai.request.model", description="The model, if the first is not there.")
    response_id_attribute: Text = "gen_ai.response.id"
    finish_attribute: Text = Field("", description="What only a call that was answered to its end has.")
    service_tier_attribute: Text = ""
    request_service_tier_attribute: Text = Field(
        "openai.request.service_tier", description="The tier, if the answer tells none."
    )
    price_attributes: Annotated[tuple[Name, ...], Field(max_length=_NAMES_MAX)] = Field(
        (),
        description="What else sets a price: what they say is part of each unit's name, as another tier is.",
    )
    answers_attribute: Text = Field(
        "",
        description="How many answers there were, as a number or a list: unless there was one, it waits as emitter_unreliable; "
        "empty: not asked.",
    )
    stream_attributes: Annotated[tuple[Name, ...], Field(max_length=_NAMES_MAX)] = Field(
        (), description="One of them is there, and not false, if the call was a stream."
    )
    stream_order: Annotated[tuple[Name, ...], Field(max_length=2)] = Field(
        (), description="Two attributes that come in this order unless the call was a stream."
    )
    stream_flaw: Literal["", "output", "cache_zero", "cache_absent"] = Field(
        "", description="What of a stream is not to be trusted: such usage waits as emitter_unreliable."
    )
    several_calls: StrictBool = Field(
        False,
        description="Whether a span may be of several calls, of which it tells the last only: with an executed tool below it, or "
        "several finish reasons, it waits as emitter_unreliable.",
    )
    total_attribute: Text = Field(
        "", description="Input and output in all: if they are not, it waits as tokens_inconsistent."
    )
    count_attribute: Text = Field(
        "",
        description="Is there if the tokens of a prompt were only counted, which is no call of a model, and no usage.",
    )
    earlier_calls_attribute: Text = Field(
        "",
        description="The calls before the last, of which alone the span tells, as a number or a list: with any, it waits as "
        "emitter_unreliable.",
    )
    preference: int = Field(
        9, strict=True, ge=0, le=255, description="Of copies of a call in one insert the lowest is charged."
    )
    source: Text = Field("", description="Where this was measured or is documented.")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        named = [name for name in (getattr(self, field) for field in _TOKENS) if name]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is named for two kinds of tokens: they would be charged twice")
        if self.version_until and _numbers(self.version_until) <= _numbers(self.version_from):
            raise ValueError("version_until must be later than version_from")
        if len(self.stream_order) == 1:
            raise ValueError("stream_order takes two attributes")
        if self.stream_flaw and not (self.stream_attributes or self.stream_order):
            raise ValueError("stream_flaw needs stream_attributes or stream_order, which tell a stream")
        if wrong := [name for name in self._names() if not _PLACE.fullmatch(name)]:
            raise ValueError(
                f"{wrong[0]} is no place within JSON: # and a JSON pointer, as in output.value#/usage/tier"
            )
        if any("#" in name for name in self.stream_order):
            raise ValueError("stream_order takes attributes, not places within JSON")
        return self

    def _names(self) -> list[str]:
        fields = (getattr(self, field) for field in type(self).model_fields if field.endswith("_attribute"))
        return [*filter(None, fields), *self.price_attributes, *self.stream_attributes]


class Convention(BaseModel):
    """A convention as it counts now; see `NewConvention`."""

    model_config = ConfigDict(frozen=True)

    scope_name: str
    version_from: str
    version_until: str
    provider: str
    input_attribute: str
    output_attribute: str
    cache_read_attribute: str
    cache_write_attribute: str
    cache_write_1h_attribute: str
    reasoning_attribute: str
    input_audio_attribute: str
    output_audio_attribute: str
    input_includes_cache: bool
    cache_unknown_from: int
    model_attribute: str
    request_model_attribute: str
    response_id_attribute: str
    finish_attribute: str
    service_tier_attribute: str
    request_service_tier_attribute: str
    price_attributes: tuple[str, ...]
    answers_attribute: str
    stream_attributes: tuple[str, ...]
    stream_order: tuple[str, ...]
    stream_flaw: str
    several_calls: bool
    total_attribute: str
    count_attribute: str
    earlier_calls_attribute: str
    preference: int
    source: str
    created_at: Utc


def conventions(store: Store) -> Sequence[Convention]:
    """All that count now. Raises StoreUnavailableError."""
    return store.read(Convention, "conventions")


def set_convention(store: Store, new: NewConvention) -> Convention:
    """Adds a row, which counts from the next insert on. Raises StoreUnavailableError."""
    _insert(store, new, enabled=True)
    return _find(store, new)


def remove_convention(store: Store, key: ConventionKey) -> Convention:
    """Adds the row that ends a convention. Raises NotFoundError, StoreUnavailableError."""
    known = _find(store, key)
    _insert(store, known, enabled=False)
    return known


def _find(store: Store, key: ConventionKey) -> Convention:
    for known in conventions(store):
        if (known.scope_name, known.version_from, known.provider.lower()) == (
            key.scope_name,
            key.version_from,
            key.provider,
        ):
            return known
    raise NotFoundError(f"no convention of {key.in_words}: see `otel-credits conventions list`")


def _insert(store: Store, convention: NewConvention | Convention, *, enabled: bool) -> None:
    values = convention.model_dump(exclude={"created_at", *_LISTS})
    row = {name: str(int(value)) if isinstance(value, bool) else str(value) for name, value in values.items()}
    row |= {name: _array(getattr(convention, name)) for name in _LISTS} | {"enabled": str(int(enabled))}
    store.insert("credit_conventions", row, token=str(uuid.uuid4()))


def _array(texts: Sequence[str]) -> str:
    """Texts as ClickHouse reads an array of them."""
    escaped = [text.replace("\\", "\\\\").replace("'", "\\'") for text in texts]
    return "[" + ",".join(f"'{text}'" for text in escaped) + "]"
