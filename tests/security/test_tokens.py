"""Tokens: how they are made and kept, and the gate that knows them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import threading
from pathlib import Path

import pytest
from otel_credits_aggregator.access import (
    Gate,
    Role,
    TokensFileError,
    Unprotected,
    add_token,
    check_listening,
    read_tokens,
    revoke_token,
)
from otel_credits_aggregator.access import _gate as gate_module
from otel_credits_aggregator.outcomes import NotPermitted, Unauthenticated
from otel_credits_aggregator.settings import Settings


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the tokens are kept."""
    return tmp_path / "tokens.json"


def bearer(secret: str) -> str:
    return f"Bearer {secret}"


def test_only_a_hash_is_kept(path: Path) -> None:
    """The file holds the SHA-256 of 256 random bits, never the token, and only its owner can read it."""
    token, secret = add_token(path, "chat", Role.INGEST)
    assert secret not in path.read_text()
    assert json.loads(path.read_text())["tokens"][0]["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(secret.removeprefix("oc_ingest_")) == 43
    assert read_tokens(path) == (token,)
    assert token.sha256 not in repr(token)
    assert len({add_token(path, f"t{number}", Role.READ)[1] for number in range(20)}) == 20


def test_several_tokens_of_a_role_are_valid_until_revoked(path: Path) -> None:
    """Old and new token are valid side by side, so that apps can change over; a revoked one is not."""
    (_, old), (_, new) = add_token(path, "old", Role.INGEST), add_token(path, "new", Role.INGEST)
    gate = Gate(path)
    names = [token and token.name for token in (gate.admit(bearer(text), Role.INGEST) for text in (old, new))]
    assert names == ["old", "new"]
    assert revoke_token(path, "old")
    assert not revoke_token(path, "old")
    gate = Gate(path)
    assert gate.admit(bearer(new), Role.INGEST)
    with pytest.raises(Unauthenticated):
        gate.admit(bearer(old), Role.INGEST)


@pytest.mark.parametrize(
    "shown",
    [
        *(
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer x",
            "{secret}",
            "Basic {secret}",
            "Bearer {secret}x",
            "Bearer x{secret}",
        ),
        *("Bearer {hash}", "Bearer {secret} {secret}", "Bearer \udcff", "Bearer " + "x" * 100_000, "Bearer é"),
    ],
)
def test_what_is_no_token_is_refused(path: Path, shown: str | None) -> None:
    """Nothing but the exact token is taken: not its hash, a part, another scheme, or what is no text."""
    token, secret = add_token(path, "ops", Role.ADMIN)
    given = shown and shown.replace("{secret}", secret).replace("{hash}", token.sha256)
    with pytest.raises(Unauthenticated) as raised:
        Gate(path).admit(given, *Role)
    assert secret not in str(raised.value)
    assert raised.value.retry_delay_s is None


def test_a_role_opens_only_its_own_doors(path: Path) -> None:
    """A known token with another role is not permitted, and the refusal names it, not its text."""
    _, secret = add_token(path, "chat", Role.INGEST)
    with pytest.raises(NotPermitted, match="'chat' is for ingest") as raised:
        Gate(path).admit(bearer(secret), Role.READ, Role.ADMIN)
    assert secret not in str(raised.value)


def test_every_token_is_compared_in_constant_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look-up compares with every token by hmac.compare_digest, the last one even if the first fits."""
    secrets = [add_token(path, f"t{number}", Role.READ)[1] for number in range(3)]
    compared: list[str] = []

    def compare_digest(first: str, second: str) -> bool:
        compared.append(first)
        return first == second

    monkeypatch.setattr(gate_module.hmac, "compare_digest", compare_digest)
    gate = Gate(path)
    for secret in secrets:
        assert gate.admit(bearer(secret), Role.READ)
    assert compared == [token.sha256 for token in read_tokens(path)] * 3


def test_the_gate_follows_the_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tokens that are added or revoked count within a second, without a restart; the file is looked at once a second."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    gate = Gate(path, clock=clock)
    assert not gate.asks_for_tokens
    assert gate.admit(None, Role.ADMIN) is None
    _, secret = add_token(path, "ops", Role.ADMIN)
    assert not gate.asks_for_tokens
    clock.now += 1.1
    assert gate.asks_for_tokens
    assert gate.admit(bearer(secret), Role.ADMIN)
    revoke_token(path, "ops")
    clock.now += 1.1
    for shown in (bearer(secret), None):
        with pytest.raises(Unauthenticated):
            gate.admit(shown, Role.ADMIN)
    assert secret not in caplog.text


@pytest.mark.parametrize("broken", ["", "{", '{"tokens": [{"name": "x"}]}', '{"tokens": [], "more": 1}', None])
def test_a_broken_file_does_not_open_the_gate(path: Path, broken: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is gone or broken leaves the tokens as they were, is told once, and is read when it is right again."""
    clock = Clock()
    _, secret = add_token(path, "ops", Role.ADMIN)
    gate = Gate(path, clock=clock)
    whole = path.read_bytes()
    path.unlink()
    if broken is not None:
        path.write_text(broken)
    for _ in range(3):
        clock.now += 1.1
        assert gate.admit(bearer(secret), Role.ADMIN)
        with pytest.raises(Unauthenticated):
            gate.admit(None, Role.ADMIN)
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    path.write_bytes(whole)
    _, new = add_token(path, "new", Role.ADMIN)
    clock.now += 1.1
    assert gate.admit(bearer(new), Role.ADMIN)


def test_a_file_that_must_be_there_is_missed(path: Path) -> None:
    """At the start a broken file, or one that is named and not there, is an error, never an open gate."""
    with pytest.raises(TokensFileError, match="no tokens in"):
        Gate(path, required=True)
    path.write_text('{"tokens": [{"name": "x", "sha256": "SECRET"}]}')
    with pytest.raises(TokensFileError) as raised:
        Gate(path)
    assert "SECRET" not in str(raised.value)


def test_two_commands_at_once_lose_no_token(path: Path) -> None:
    """Tokens that are added at the same moment are all there afterwards."""
    threads = [threading.Thread(target=add_token, args=(path, f"t{number}", Role.READ)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_tokens(path)) == 10
    assert [name for name in os.listdir(path.parent) if name.startswith(".")] == []


@pytest.mark.parametrize(
    ("role", "binding"),
    [
        (Role.INGEST, {"user_id": "u"}),
        (Role.ADMIN, {"user_id": "u"}),
        (Role.READ, {"services": ["s"]}),
        (Role.ADMIN, {"action_types": ["a"]}),
        (Role.READ, {"user_id": ""}),
        (Role.INGEST, {"services": [""]}),
    ],
)
def test_a_binding_fits_its_role(path: Path, role: Role, binding: dict[str, object]) -> None:
    """A binding that would have no effect is refused, not ignored."""
    with pytest.raises(ValueError, match=r"bound|empty"):
        add_token(path, "x", role, **binding)  # type: ignore[arg-type]
    assert not path.exists()


def test_a_name_is_taken_once(path: Path) -> None:
    """Two tokens cannot have one name, since a name is what is revoked."""
    add_token(path, "x", Role.READ)
    with pytest.raises(ValueError, match="already"):
        add_token(path, "x", Role.READ)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_needs_no_tokens_and_says_so(host: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without tokens an address of this machine alone is listened on, and the log says who can do what."""
    check_listening(Settings(host=host), Gate(path))
    assert "no tokens" in caplog.text
    assert host in caplog.text


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.2", "10.0.0.1", "fe80::1", "2001:db8::1", "no.such.host.invalid"]
)
def test_a_public_address_needs_tokens_or_the_words(host: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without tokens an address that others may reach is refused, unless told in so many words."""
    with pytest.raises(Unprotected, match="OTEL_CREDITS_ALLOW_UNAUTHENTICATED=on"):
        check_listening(Settings(host=host), Gate(path))
    check_listening(Settings(host=host, allow_unauthenticated=True), Gate(path))
    add_token(path, "x", Role.INGEST)
    caplog.clear()
    check_listening(Settings(host=host), Gate(path))
    assert "plain text" in caplog.text
    caplog.clear()
    check_listening(Settings(host=host, tls_cert_file="c", tls_key_file="k"), Gate(path))
    assert caplog.text == ""
