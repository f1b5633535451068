"""The HTTP interface: from a request to the answer a ClickHouse server would give."""

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import _answers, _errors
from ._answers import Answer
from ._chaos import Chaos
from ._engine import Engine
from ._errors import ServerError
from ._executor import Executor, Interrupt
from ._request import Envelope, envelope, read
from .faults import Fault

_OK = Answer(body=b"Ok.\n", headers={"Content-Type": "text/html; charset=UTF-8"})  # "/" without a query


class HttpInterface:
    """Answers requests from an engine: to one user if `user` is given, else to anybody."""

    def __init__(self, engine: Engine, chaos: Chaos, user: str | None = None, password: str = "") -> None:
        self._engine = engine
        self._executor = Executor(engine)
        self._chaos = chaos
        self._credentials = None if user is None else (user, password)

    def app(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/", self.query, methods=["GET", "HEAD", "POST"]),
            Route("/ping", self.ok, methods=["GET", "HEAD"]),
            Route("/replicas_status", self.ok, methods=["GET", "HEAD"]),
            Route("/_fault", self.fault, methods=["GET", "POST", "DELETE"]),
        ]
        return Starlette(routes=routes)

    def close(self) -> None:
        """Finish what runs and end the sessions."""
        self._executor.close()

    async def ok(self, request: Request) -> Response:
        """Answer a health check."""
        return Response(_OK.body, headers=_OK.headers)

    async def fault(self, request: Request) -> Response:
        """Set (POST), list (GET) or clear (DELETE) what goes wrong; see `faults`."""
        faults = self._chaos.faults
        try:
            if request.method == "POST":
                faults.add(Fault.model_validate_json(await request.body()))
        except ValidationError as error:
            return Response(str(error), status_code=400)
        if request.method == "DELETE":
            faults.clear()
        return JSONResponse(faults.listed())

    async def query(self, request: Request) -> Response:
        """Run the statement of a request, or answer the exception it caused."""
        asked = envelope(request)
        try:
            answer = await self._answer(request, asked)
        except ServerError as error:
            answer = _answers.exception(error, self._engine)
        except RuntimeError as error:  # chDB's own
            answer = _answers.exception(_errors.from_engine(error), self._engine)
        return _answers.response(answer, asked, self._engine)

    async def _answer(self, request: Request, asked: Envelope) -> Answer:
        self._authenticate(asked)
        query = await read(request)
        if query is None:
            return _OK

        async def execute(interrupt: Interrupt) -> Answer:
            return _answers.success(query, await self._executor.run(query, asked.query_id, interrupt))

        return await self._chaos.around(request, is_insert=query.statement.is_insert, execute=execute)

    def _authenticate(self, asked: Envelope) -> None:
        if self._credentials not in (None, (asked.user, asked.password)):
            text = f"{asked.user}: Authentication failed: password is incorrect, or there is no user with such name."
            raise ServerError(_errors.AUTHENTICATION_FAILED, text)
