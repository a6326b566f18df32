"""Access tokens: shown to the server that made them, or verified by their signature."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from angarium.config.credentials import Credentials
from angarium.config.secret import Secret
from angarium.policy import oauth2_back_end
from angarium.policy.access_protocol import TokenAttempt
from angarium.policy.back_end import Finding, Found
from angarium.policy.oauth2_back_end import OAuth2BackEnd
from tests.support.clock import FakeClock
from tests.support.web import WebServer

if TYPE_CHECKING:
    from pathlib import Path

ISSUER, AUDIENCE = "https://login.example.org", "relay"
RSA = rsa.generate_private_key(65537, 2048)
STRANGER = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
KEYS = {
    "rsa": (RSA, "RS256", RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)),
    "ec": (EC, "ES256", ECAlgorithm.to_jwk(EC.public_key(), as_dict=True)),
    "ed": (ED, "EdDSA", OKPAlgorithm.to_jwk(ED.public_key(), as_dict=True)),
}


def key_set(*names: str) -> dict[str, Any]:
    return {"keys": [{**KEYS[name][2], "kid": name, "use": "sig", "alg": KEYS[name][1]} for name in names]}


def token_of(name: str = "rsa", *, key: Any = None, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    usual = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 600, "email": "alice@example.org"}
    said = {claim: value for claim, value in (usual | {"scope": "mail send"} | claims).items() if value is not None}
    private, algorithm, _ = KEYS[name]
    return jwt.encode(said, key or private, algorithm=algorithm, headers={"kid": name} | (headers or {}))


def back_end_of(clock: FakeClock | None = None, **settings: Any) -> OAuth2BackEnd:
    return OAuth2BackEnd(Credentials(kind="oauth2", **settings), (clock or FakeClock()).monotonic)


async def ask(back_end: OAuth2BackEnd, token: str, log_in: str = "") -> Found:
    return await back_end.token(TokenAttempt(log_in, token, "192.0.2.1", "submission", "OAUTHBEARER"))


@pytest.fixture
def signed(tmp_path: Path) -> OAuth2BackEnd:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(key_set("rsa", "ec", "ed")))
    return back_end_of(jwks_file=str(file), issuer=ISSUER, audience=AUDIENCE, scope="send")


# ------------------------------------------------------------------ signed tokens


@pytest.mark.parametrize("name", KEYS)
async def test_a_token_that_holds(signed: OAuth2BackEnd, name: str) -> None:
    assert await ask(signed, token_of(name)) == Found(Finding.ACCEPTED, "alice@example.org")
    assert (await ask(signed, token_of(name), "Alice@Example.org")).finding is Finding.ACCEPTED


def unsigned() -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 600, "email": "a@b", "scope": "send"}
    return jwt.encode(claims, None, algorithm="none")


def signed_with_the_public_key() -> str:
    """The oldest trick: a key that everybody knows, taken for a shared secret."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in (
            {"alg": "HS256", "typ": "JWT", "kid": "rsa"},
            {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 600, "email": "a@b", "scope": "send"},
        )
    )
    import hmac

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = base64.urlsafe_b64encode(hmac.digest(pem, head + b"." + body, "sha256")).rstrip(b"=")
    return b".".join((head, body, signature)).decode()


BAD_TOKENS = {
    "nonsense": lambda: "nonsense",
    "expired": lambda: token_of(exp=time.time() - 60),
    "without an end": lambda: token_of(exp=None),
    "not yet": lambda: token_of(nbf=time.time() + 600),
    "of another issuer": lambda: token_of(iss="https://evil.example"),
    "without an issuer": lambda: token_of(iss=None),
    "for somebody else": lambda: token_of(aud="another"),
    "for nobody": lambda: token_of(aud=None),
    "of another key": lambda: token_of(key=STRANGER),
    "of an unknown key": lambda: token_of(headers={"kid": "other"}),
    "unsigned": unsigned,
    "signed with the public key": signed_with_the_public_key,
    "of another algorithm than its key's": lambda: token_of("ec", headers={"kid": "rsa"}),
    "nobody's": lambda: token_of(email=None),
    "of a number": lambda: token_of(email=7),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_a_token_that_will_not_do(signed: OAuth2BackEnd, name: str) -> None:
    found = await ask(signed, BAD_TOKENS[name]())
    assert found.finding is Finding.REFUSED
    assert json.loads(found.message) == {"status": "invalid_token", "scope": "send"}


async def test_a_token_that_was_changed(signed: OAuth2BackEnd) -> None:
    head, body, signature = token_of().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    other = base64.urlsafe_b64encode(json.dumps(claims | {"email": "boss@example.org"}).encode()).rstrip(b"=").decode()
    assert (await ask(signed, ".".join((head, other, signature)))).finding is Finding.REFUSED


@pytest.mark.parametrize("scope", [None, "", "mail", ["mail"], 7, "sendmail"])
async def test_a_token_without_the_scope(signed: OAuth2BackEnd, scope: object) -> None:
    found = await ask(signed, token_of(scope=scope))
    assert json.loads(found.message)["status"] == "insufficient_scope"


async def test_scopes_as_an_array(signed: OAuth2BackEnd) -> None:
    assert (await ask(signed, token_of(scope=None, scp=["mail", "send"]))).finding is Finding.ACCEPTED


async def test_a_token_of_somebody_else(signed: OAuth2BackEnd) -> None:
    assert (await ask(signed, token_of(), "boss@example.org")).finding is Finding.REFUSED


async def test_another_claim_names_the_log_in(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(key_set("rsa")))
    back_end = back_end_of(jwks_file=str(file), log_in_claim="preferred_username")
    found = await ask(back_end, token_of(preferred_username="alice", aud=None))
    assert found == Found(Finding.ACCEPTED, "alice")


async def test_a_file_of_keys_that_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(key_set("ec")))
    back_end = back_end_of(jwks_file=str(file))
    assert (await ask(back_end, token_of(aud=None))).finding is Finding.REFUSED
    file.write_text(json.dumps(key_set("ec", "rsa")))
    assert (await ask(back_end, token_of(aud=None))).finding is Finding.ACCEPTED
    file.unlink()
    assert (await ask(back_end, token_of(aud=None))).finding is Finding.UNAVAILABLE
    assert "access tokens cannot be looked at" in caplog.text


@pytest.mark.parametrize(
    "text", ["nonsense", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}']
)
async def test_a_file_without_a_key(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    assert (await ask(back_end_of(jwks_file=str(file)), token_of())).finding is Finding.UNAVAILABLE


async def test_keys_of_a_url_are_fetched_once_and_again_for_a_new_key() -> None:
    clock = FakeClock()
    known = key_set("rsa")
    async with WebServer(lambda _: (200, known)) as server:
        back_end = back_end_of(clock, jwks_url=server.url)
        for _ in range(3):
            assert (await ask(back_end, token_of(aud=None))).finding is Finding.ACCEPTED
        assert len(server.bodies) == 1
        known = key_set("rsa", "ec")
        assert (await ask(back_end, token_of("ec", aud=None))).finding is Finding.REFUSED  # asked a moment ago
        clock.advance(oauth2_back_end.FETCH_PAUSE_S)
        assert (await ask(back_end, token_of("ec", aud=None))).finding is Finding.ACCEPTED
        assert len(server.bodies) == 2
        clock.advance(oauth2_back_end.KEYS_S)
        assert (await ask(back_end, token_of(aud=None))).finding is Finding.ACCEPTED
        assert len(server.bodies) == 3
        await back_end.close()


async def test_keys_that_cannot_be_fetched() -> None:
    clock = FakeClock()
    status = 500
    async with WebServer(lambda _: (status, key_set("rsa"))) as server:
        back_end = back_end_of(clock, jwks_url=server.url)
        for _ in range(3):
            assert (await ask(back_end, token_of(aud=None))).finding is Finding.UNAVAILABLE
        assert len(server.bodies) == 1  # not for every token
        clock.advance(oauth2_back_end.RETRY_S)
        status = 200
        assert (await ask(back_end, token_of(aud=None))).finding is Finding.ACCEPTED
        status = 500
        clock.advance(oauth2_back_end.KEYS_S)
        assert (await ask(back_end, token_of(aud=None))).finding is Finding.ACCEPTED  # the old ones hold
        await back_end.close()


# ------------------------------------------------------------------ introspection


async def test_introspection() -> None:
    said: dict[str, Any] = {"active": True, "username": "alice", "iss": ISSUER, "aud": [AUDIENCE], "scope": "mail send"}
    async with WebServer(lambda _: (200, said)) as server:
        settings = {
            "introspection_url": server.url,
            "client_id": "the relay",
            "client_secret": Secret("se:cret"),
            "issuer": ISSUER,
            "audience": AUDIENCE,
            "scope": "send",
            "log_in_claim": "username",
        }
        back_end = back_end_of(**settings)
        assert await ask(back_end, "opaque", "alice") == Found(Finding.ACCEPTED, "alice")
        form = parse_qs(server.bodies[0].decode())
        assert form == {"token": ["opaque"], "token_type_hint": ["access_token"]}
        scheme, _, pair = server.headers[0]["Authorization"].partition(" ")
        assert (scheme, base64.b64decode(pair)) == ("Basic", b"the%20relay:se%3Acret")
        for change in (
            {"active": False},
            {"active": "true"},
            {"iss": "https://evil.example"},
            {"aud": "another"},
            {"scope": "mail"},
            {"username": None},
        ):
            before, said = said, said | change
            assert (await ask(back_end, "opaque")).finding is Finding.REFUSED, change
            said = before
        await back_end.close()


@pytest.mark.parametrize("answer", [(500, {}), (200, b"?"), (401, {"active": True})])
async def test_introspection_that_fails(answer: tuple[int, Any], caplog: pytest.LogCaptureFixture) -> None:
    async with WebServer(lambda _: answer) as server:
        back_end = back_end_of(introspection_url=server.url, client_id="relay")
        assert (await ask(back_end, "hunter2")).finding is Finding.UNAVAILABLE
        assert parse_qs(server.bodies[0].decode())["client_id"] == ["relay"]
        await back_end.close()
    assert "hunter2" not in caplog.text
