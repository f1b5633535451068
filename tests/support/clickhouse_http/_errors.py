"""ClickHouse exceptions: from chDB's message to the code, the text and the HTTP status a server answers."""

import re

BAD_ARGUMENTS = 36
NOT_IMPLEMENTED = 48
SYNTAX_ERROR = 62
UNKNOWN_SETTING = 115
READONLY = 164
QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING = 216
SESSION_NOT_FOUND = 372
SESSION_IS_LOCKED = 373
INVALID_SESSION_TIMEOUT = 374
AUTHENTICATION_FAILED = 516
UNSUPPORTED_MEDIA_TYPE = 708
STD_EXCEPTION = 1001

# Source of the rule: ClickHouse, src/Server/HTTP/exceptionCodeToHTTPStatus.cpp. Any other exception is a 500.
_NAMES_BY_STATUS = {
    400: """BAD_ARGUMENTS CANNOT_COMPILE_REGEXP CANNOT_PARSE_TEXT CANNOT_PARSE_ESCAPE_SEQUENCE
        CANNOT_PARSE_QUOTED_STRING CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_NUMBER
        CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING CANNOT_PARSE_IPV4 CANNOT_PARSE_IPV6 CANNOT_PARSE_UUID
        CANNOT_PARSE_INPUT_ASSERTION_FAILED DUPLICATE_COLUMN ILLEGAL_COLUMN UNKNOWN_ELEMENT_IN_AST
        UNKNOWN_TYPE_OF_AST_NODE THERE_IS_NO_COLUMN TOO_DEEP_AST TOO_BIG_AST UNEXPECTED_AST_STRUCTURE
        SYNTAX_ERROR INCORRECT_DATA TYPE_MISMATCH VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE""",
    401: "REQUIRED_PASSWORD",
    403: "UNKNOWN_USER WRONG_PASSWORD AUTHENTICATION_FAILED SET_NON_GRANTED_ROLE ACCESS_DENIED",
    404: """UNKNOWN_TABLE UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_TYPE UNKNOWN_STORAGE UNKNOWN_DATABASE
        UNKNOWN_SETTING UNKNOWN_DIRECTION_OF_SORTING UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_FORMAT
        UNKNOWN_DATABASE_ENGINE UNKNOWN_TYPE_OF_QUERY UNKNOWN_ROLE""",
    408: "TIMEOUT_EXCEEDED",
    411: "HTTP_LENGTH_REQUIRED",
    413: "QUERY_IS_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    501: "NOT_IMPLEMENTED",
    503: "SOCKET_TIMEOUT CANNOT_OPEN_FILE CANNOT_SCHEDULE_TASK",
}
_STATUS_BY_NAME = {name: status for status, names in _NAMES_BY_STATUS.items() for name in names.split()}

# chDB repeats the prefix and the suffix of a message each time the exception passes one of its layers.
_PREFIX = re.compile(r"(?:.*?Code: (?P<code>\d+)\. DB::Exception: )(?:Code: \d+\. DB::Exception: )*", re.S)
_SUFFIX = re.compile(r"[\s.]*(?:\([A-Z][A-Z0-9_]+\)|\(version [^)]*\))[\s.]*$")


class ServerError(Exception):
    """An exception to answer: ClickHouse's numeric code and the text without prefix, name and version."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def from_engine(error: Exception) -> ServerError:
    """Read code and text from an exception that chDB raised."""
    message = str(error)
    prefix = _PREFIX.match(message)
    if prefix is None:
        return ServerError(STD_EXCEPTION, message)
    text = message[prefix.end() :]
    while suffix := _SUFFIX.search(text):
        text = text[: suffix.start()]
    return ServerError(int(prefix["code"]), text)


def http_status(name: str) -> int:
    """Return the HTTP status with which a server answers the exception of this name."""
    return _STATUS_BY_NAME.get(name, 500)


def body(error: ServerError, name: str, version: str) -> bytes:
    """Return the text that a server sends as the body of its answer."""
    end = "" if error.text.endswith((".", "\n")) else "."
    text = f"Code: {error.code}. DB::Exception: {error.text}{end} ({name}) (version {version} (official build))\n"
    return text.encode("utf-8", "surrogateescape")
