"""Who may do what: tokens and their roles, which addresses may be listened on without them, and TLS.

Order of the files: `_tokens` (what a token is, and the file with them), `_gate` (the check at every door),
`_listening` (addresses), `_tls`.
"""

from otel_credits_aggregator.access._gate import Gate
from otel_credits_aggregator.access._listening import Unprotected, check_listening
from otel_credits_aggregator.access._tls import TlsFiles, TlsFilesError, tls_files, uvicorn_options
from otel_credits_aggregator.access._tokens import (
    Role,
    Token,
    TokensFileError,
    add_token,
    hashed,
    read_tokens,
    revoke_token,
)

__all__ = [
    "Gate",
    "Role",
    "TlsFiles",
    "TlsFilesError",
    "Token",
    "TokensFileError",
    "Unprotected",
    "add_token",
    "check_listening",
    "hashed",
    "read_tokens",
    "revoke_token",
    "tls_files",
    "uvicorn_options",
]
