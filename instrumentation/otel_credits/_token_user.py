"""The user of a request from the claim of its bearer token: the resolvers `jwt:CLAIM` and `jwt-unverified:CLAIM`.

`jwt:` believes a token only if its signature verifies with the key of `OTEL_CREDITS_JWT_KEY_FILE` (a public key in PEM,
or a JWKS) and it is not expired. Which algorithms may have signed it follows from the key and never from the token.
`jwt-unverified:` believes every token: only behind a gateway that has verified it and lets no other through.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from otel_credits._settings import Settings

# Clocks of two machines differ a little.
_LEEWAY_S = 30
_ALGORITHMS = {
    rsa.RSAPublicKey: ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
    ec.EllipticCurvePublicKey: ["ES256", "ES384", "ES512", "ES256K"],
    ed25519.Ed25519PublicKey: ["EdDSA"],
    ed448.Ed448PublicKey: ["EdDSA"],
}
_MEMO = "otel_credits.token_user"


def token_resolver(kind: str, claim: str, settings: Settings) -> Callable[[Any], Any]:
    """A function of the request that returns the user whom its token names, or None.

    Raises:
        ValueError: there is no key to verify tokens with, or it cannot be read.
    """
    read = _unverified if kind == "jwt-unverified" else _verifier(settings)

    def user_of_token(request: Any) -> Any:
        scope: MutableMapping[str, Any] = request.scope
        if _MEMO not in scope:  # asked again and again as long as there is no user; the token stays the same
            scope[_MEMO] = _claim(read, request.headers.get("authorization", ""), claim)
        return scope[_MEMO]

    return user_of_token


def _claim(read: Callable[[str], Mapping[str, Any]], authorization: str, claim: str) -> Any:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return None
    try:
        found: Any = read(token.strip())
    except (jwt.PyJWTError, ValueError):
        return None
    if claim in found:  # the name of a claim may have dots, as a URL has
        return found[claim]
    for name in claim.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _unverified(token: str) -> Mapping[str, Any]:
    claims: Mapping[str, Any] = jwt.decode(token, options={"verify_signature": False, "verify_exp": True})
    return claims


def _verifier(settings: Settings) -> Callable[[str], Mapping[str, Any]]:
    if not settings.jwt_key_file:
        raise ValueError("user resolver jwt: needs OTEL_CREDITS_JWT_KEY_FILE, or say jwt-unverified: behind a gateway")
    keys = KeyFile(Path(settings.jwt_key_file))
    options: Any = {"verify_aud": settings.jwt_audience is not None, "verify_iss": settings.jwt_issuer is not None}

    def verified(token: str) -> Mapping[str, Any]:
        key, algorithms = keys.find(jwt.get_unverified_header(token).get("kid"))
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            leeway=_LEEWAY_S,
            options=options,
        )
        return claims

    return verified


class KeyFile:
    """The keys of a file: one public key or certificate in PEM, or a JWKS. It is read again when a key is not found
    and the file has changed, as keys are rotated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed_ns = 0
        self._keys: dict[str | None, tuple[Any, list[str]]] = {}
        self._read()

    def find(self, kid: str | None) -> tuple[Any, list[str]]:
        """The key with this id, and the algorithms that it may be used with.

        Raises:
            jwt.InvalidTokenError: there is none.
        """
        found = self._lookup(kid)
        if found is None and self._has_changed():
            self._read()
            found = self._lookup(kid)
        if found is None:
            raise jwt.InvalidTokenError(f"no key {kid!r}")
        return found

    def _lookup(self, kid: str | None) -> tuple[Any, list[str]] | None:
        """A PEM key has no id and serves every token; so does the only key of a set for a token that names none."""
        if None in self._keys:
            return self._keys[None]
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    def _has_changed(self) -> bool:
        try:
            return os.stat(self._path).st_mtime_ns != self._changed_ns
        except OSError:
            return False

    def _read(self) -> None:
        try:
            self._changed_ns = os.stat(self._path).st_mtime_ns
            data = self._path.read_bytes()
            self._keys = _pem(data) if data.lstrip().startswith(b"-----BEGIN") else _jwks(data)
        except (OSError, ValueError, jwt.PyJWTError) as error:
            raise ValueError(f"OTEL_CREDITS_JWT_KEY_FILE {self._path}: {error}") from None


def _pem(data: bytes) -> dict[str | None, tuple[Any, list[str]]]:
    certificate = b"BEGIN CERTIFICATE" in data
    key = load_pem_x509_certificate(data).public_key() if certificate else load_pem_public_key(data)
    for kind, algorithms in _ALGORITHMS.items():
        if isinstance(key, kind):
            return {None: (key, algorithms)}
    raise ValueError("tokens are not signed with this kind of key")


def _jwks(data: bytes) -> dict[str | None, tuple[Any, list[str]]]:
    keys = jwt.PyJWKSet.from_json(data.decode()).keys
    # A key without an id is found by being the only one.
    return {key.key_id or "": (key, [key.algorithm_name]) for key in keys}
