"""Models under another name: an Azure deployment, a gateway's own name. Prices are looked up by both."""

import uuid
from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from otel_credits_aggregator.ledger._store import Store
from otel_credits_aggregator.ledger.errors import NotFoundError
from otel_credits_aggregator.ledger.fields import Name, Text, Utc

__all__ = ["ModelAlias", "NewModelAlias", "model_aliases", "remove_model_alias", "set_model_alias"]


class NewModelAlias(BaseModel):
    """A model under another name, or the new meaning of one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Name = Field(description="The name as it is reported.", examples=["our-gpt5-deployment"])
    price_model: Name = Field(description="The model of the price book that it is.", examples=["gpt-5"])
    source: Text = Field("", description="Where this is from.")

    @model_validator(mode="after")
    def _is_another_name(self) -> Self:
        if self.model == self.price_model:
            raise ValueError("price_model must be another name than model")
        return self


class ModelAlias(BaseModel):
    """An alias as it counts now; see `NewModelAlias`."""

    model_config = ConfigDict(frozen=True)

    model: str
    price_model: str
    source: str
    created_at: Utc


def model_aliases(store: Store) -> Sequence[ModelAlias]:
    """All that count now. Raises StoreUnavailableError."""
    return store.read(ModelAlias, "model_aliases")


def set_model_alias(store: Store, new: NewModelAlias) -> ModelAlias:
    """Adds a row, which counts from the next insert on. Raises StoreUnavailableError."""
    store.insert("credit_model_aliases", new.model_dump(), token=str(uuid.uuid4()))
    return _find(store, new.model)


def remove_model_alias(store: Store, model: str) -> ModelAlias:
    """Adds the row that ends an alias. Raises NotFoundError, StoreUnavailableError."""
    known = _find(store, model)
    store.insert("credit_model_aliases", {"model": model, "price_model": ""}, token=str(uuid.uuid4()))
    return known


def _find(store: Store, model: str) -> ModelAlias:
    for known in model_aliases(store):
        if known.model == model:
            return known
    raise NotFoundError(f"no alias {model}: see `otel-credits aliases list`")
