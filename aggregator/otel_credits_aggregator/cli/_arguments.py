"""Arguments and options that several commands have, and their checks."""

from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from otel_credits_aggregator.ledger.fields import UserId
from otel_credits_aggregator.ledger.interface import LIMIT_MAX

__all__ = ["AsJson", "Limit", "Payer", "User", "UserOption", "checked", "in_words"]

Model = TypeVar("Model", bound=BaseModel)
_USER_ID: TypeAdapter[str] = TypeAdapter(UserId)


def _user_id(text: str) -> str:
    try:
        return _USER_ID.validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(in_words(error)) from error


def checked(model: type[Model], /, **values: Any) -> Model:
    """A model of what was given; what it does not accept is a wrong argument (exit code 2)."""
    try:
        return model.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise typer.BadParameter(in_words(error)) from error


def in_words(error: ValidationError) -> str:
    """All faults of what was given, in one line."""
    return "; ".join(_in_words(fault["loc"], fault["msg"]) for fault in error.errors())


def _in_words(location: tuple[str | int, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{location[0]}: {message}" if location else message


User = Annotated[str, typer.Argument(metavar="USER", help="The user's id, as the app sends it.", parser=_user_id)]
Payer = Annotated[str, typer.Option("--user", metavar="USER", help="Who pays: the user's id.", parser=_user_id)]
UserOption = Annotated[str | None, typer.Option("--user", metavar="USER", help="Only this user.", parser=_user_id)]
Limit = Annotated[int, typer.Option("--limit", min=1, max=LIMIT_MAX, help="Rows at most.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON array, one object a row; decimals are strings.")]
