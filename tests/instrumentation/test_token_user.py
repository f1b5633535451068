"""The user from a token's claim: only from a token that verifies, by an algorithm that fits the key."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from otel_credits._request_user import prepare_resolver, usage_of_request
from otel_credits._settings import Settings

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: Any) -> bytes:
    """The public part."""
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def jwks(**keys: Any) -> bytes:
    """A set of RSA public keys by their ids."""
    to_jwk = jwt.algorithms.RSAAlgorithm.to_jwk
    return json.dumps({"keys": [json.loads(to_jwk(k.public_key())) | {"kid": i} for i, k in keys.items()]}).encode()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """The file with the key of RSA."""
    path = tmp_path / "key"
    path.write_bytes(pem(RSA))
    return path


async def user_of(authorization: str, key_file: Path | None, resolver: str = "jwt:sub", **settings: Any) -> str | None:
    """Who the user of a request with this header is."""
    prepared = prepare_resolver(
        resolver, Settings(jwt_key_file=None if key_file is None else str(key_file), **settings)
    )
    scope = {"type": "http", "headers": [(b"authorization", authorization.encode())]}
    return (await usage_of_request(prepared, scope)).user


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (RSA, "RS256"),
        (RSA, "PS512"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
    ids=["RS256", "PS512", "ES256", "EdDSA"],
)
async def test_a_verified_token(tmp_path: Path, key: Any, algorithm: str) -> None:
    """The claim of a token that verifies is the user, for every kind of public key."""
    path = tmp_path / "key"
    path.write_bytes(pem(key))
    token = jwt.encode({"sub": "alice", "exp": time.time() + 60}, key, algorithm)
    assert await user_of(f"Bearer {token}", path) == "alice"


async def test_tokens_that_name_nobody(key_file: Path) -> None:
    """A token that another key signed, that expired, is not signed, is signed with the public key as a secret, or is
    no token names nobody."""
    claims = {"sub": "evil"}
    forged = [
        jwt.encode(claims, OTHER, "RS256"),
        jwt.encode({**claims, "exp": time.time() - 3600}, RSA, "RS256"),
        jwt.encode({**claims, "nbf": time.time() + 3600}, RSA, "RS256"),
        jwt.encode(claims, None, "none"),
        signed_with_the_public_key(claims, pem(RSA)),
        jwt.encode(claims, RSA, "RS256")[:-4] + "AAAA",
        "a.b.c",
        "",
    ]
    assert [await user_of(f"Bearer {token}", key_file) for token in forged] == [None] * len(forged)
    assert await user_of(jwt.encode(claims, RSA, "RS256"), key_file) is None
    assert await user_of(f"Basic {jwt.encode(claims, RSA, 'RS256')}", key_file) is None


def signed_with_the_public_key(claims: dict[str, Any], secret: bytes) -> str:
    """The algorithm confusion attack: HMAC with the public key, which everybody knows, as its secret."""
    import base64
    import hashlib
    import hmac

    def encoded(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    signed = encoded(b'{"alg":"HS256","typ":"JWT"}') + b"." + encoded(json.dumps(claims).encode())
    return (signed + b"." + encoded(hmac.new(secret, signed, hashlib.sha256).digest())).decode()


async def test_audience_and_issuer(key_file: Path) -> None:
    """Where they are configured, a token has to name them; where not, they do not matter."""
    token = "Bearer " + jwt.encode({"sub": "a", "aud": "shop", "iss": "idp"}, RSA, "RS256")
    wanted = [{}, {"jwt_audience": "shop", "jwt_issuer": "idp"}, {"jwt_audience": "x"}, {"jwt_issuer": "x"}]
    assert [await user_of(token, key_file, **settings) for settings in wanted] == ["a", "a", None, None]


async def test_claims(key_file: Path) -> None:
    """Any claim: a number, one inside another, one whose name has dots; none names nobody."""
    claims = {"uid": 42, "org": {"user": "b"}, "https://example.com/user": "c"}
    token = "Bearer " + jwt.encode(claims, RSA, "RS256")
    names = ("uid", "org.user", "https://example.com/user", "sub", "org")
    assert [await user_of(token, key_file, f"jwt:{name}") for name in names] == ["42", "b", "c", None, None]


async def test_a_key_that_is_rotated(tmp_path: Path) -> None:
    """A set of keys goes by the token's key id, and is read again when it has changed."""
    path = tmp_path / "jwks"
    path.write_bytes(jwks(one=RSA))
    prepared = prepare_resolver("jwt:sub", Settings(jwt_key_file=str(path)))

    async def user(kid: str, key: Any) -> str | None:
        token = jwt.encode({"sub": kid}, key, "RS256", headers={"kid": kid})
        scope = {"type": "http", "headers": [(b"authorization", f"bearer {token}".encode())]}
        return (await usage_of_request(prepared, scope)).user

    assert [await user("one", RSA), await user("two", OTHER), await user("one", OTHER)] == ["one", None, None]
    path.write_bytes(jwks(one=RSA, two=OTHER))
    os.utime(path, ns=(1, 1))
    assert [await user("two", OTHER), await user("one", RSA)] == ["two", "one"]


async def test_unverified_is_said_by_name() -> None:
    """Behind a gateway that verifies, a token is believed without a key; and only if that is what was asked for."""
    token = "Bearer " + jwt.encode({"sub": "a"}, OTHER, "RS256")
    assert await user_of(token, None, "jwt-unverified:sub") == "a"
    with pytest.raises(ValueError, match="OTEL_CREDITS_JWT_KEY_FILE"):
        await user_of(token, None)


@pytest.mark.parametrize("content", [b"", b"{}", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", None])
def test_a_key_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    """A file that has no usable key, or is not there, is told at set-up."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="OTEL_CREDITS_JWT_KEY_FILE"):
        prepare_resolver("jwt:sub", Settings(jwt_key_file=str(path)))
