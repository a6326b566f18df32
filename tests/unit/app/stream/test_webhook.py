"""Webhooks against a real receiver: what is sent, how it is signed, and what each answer means."""

from __future__ import annotations

import re
import ssl
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from angarium.app.stream.sink import Batch, Item, SinkFailure
from angarium.app.stream.webhook import Webhook
from angarium.config.model import Stream
from angarium.config.secret import Secret
from tests.support.stream import event_line
from tests.support.stream_peer import Keys, Poster, on_uvloop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BATCH = Batch(tuple(Item(event_line(number)[:-1], f"abc-{number}") for number in range(3)))
PAGE = (Path(__file__).parents[4] / "docs" / "streams.md").read_text()


class Receiver:
    """It answers as it is told, and keeps what it was sent."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.text = ""
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=self.status, headers=self.headers, text=self.text)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/mail", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/mail"
    yield made
    await runner.cleanup()


async def send(url: str, **keys: Any) -> None:
    hook = Webhook(Stream(name="crm", url=url, **keys), "relay.example.org", time.time)
    try:
        await hook.send(BATCH)
    finally:
        await hook.close()


async def test_a_request_is_what_the_libraries_of_standard_webhooks_verify(receiver: Receiver) -> None:
    await send(receiver.url, secret=Secret(SECRET))
    ((headers, body),) = receiver.requests
    told = Verifier(SECRET).verify(body, headers)
    assert told["stream"] == "crm"
    assert told["node"] == "relay.example.org"
    assert told["ids"] == ["abc-0", "abc-1", "abc-2"]
    assert [event["number"] for event in told["events"]] == [0, 1, 2]
    assert (headers["webhook-id"], headers["angarium-schema"], told["schema"]) == ("abc-0.3", "1", 1)
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(body.replace(b'"number":1', b'"number":7'), headers)


async def test_the_page_s_way_to_verify_works(receiver: Receiver) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    scope: dict[str, Any] = {}
    exec(code, scope)
    is_ours = scope["is_ours"]
    await send(receiver.url, secret=Secret("any text"))
    ((headers, body),) = receiver.requests
    assert is_ours(b"any text", headers, body)
    assert not is_ours(b"another", headers, body)
    assert not is_ours(b"any text", headers, body + b" ")
    assert not is_ours(b"any text", headers | {"webhook-id": "abc-1.3"}, body)
    assert not is_ours(b"any text", headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}, body)
    old = headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 3600)}
    assert not is_ours(b"any text", old, body)


async def test_a_secret_in_a_file_is_read_for_each_request(receiver: Receiver, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("first\n")
    hook = Webhook(Stream(name="crm", url=receiver.url, secret_file=str(file)), "n", lambda: 1000.0)
    await hook.send(BATCH)
    file.write_text("second\n")
    await hook.send(BATCH)
    file.unlink()
    with pytest.raises(SinkFailure, match="secret cannot be read"):
        await hook.send(BATCH)
    await hook.close()
    (first, _), (second, _) = receiver.requests
    assert first["webhook-signature"] != second["webhook-signature"]


async def test_without_a_secret_nothing_is_signed(receiver: Receiver) -> None:
    await send(receiver.url)
    assert "webhook-signature" not in receiver.requests[0][0]


@pytest.mark.parametrize(
    ("status", "headers", "refused", "too_large", "retry_after_s"),
    [
        (503, {"Retry-After": "17"}, False, False, 17.0),
        (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, False, False, 0.0),
        (500, {}, False, False, 0.0),
        (401, {}, False, False, 0.0),
        (400, {}, True, False, 0.0),
        (422, {}, True, False, 0.0),
        (413, {}, False, True, 0.0),
        (302, {"Location": "http://127.0.0.1:1/"}, False, False, 0.0),
    ],
)
async def test_what_is_no_yes(
    receiver: Receiver, status: int, headers: dict[str, str], refused: bool, too_large: bool, retry_after_s: float
) -> None:
    receiver.status, receiver.headers, receiver.text = status, headers, "because\x1b[2J"
    with pytest.raises(SinkFailure, match=f"HTTP status {status}: because \\[2J") as failure:
        await send(receiver.url)
    told = failure.value
    assert (told.refused, told.too_large, told.retry_after_s) == (refused, too_large, retry_after_s)
    assert len(receiver.requests) == 1


async def test_a_receiver_that_is_not_there(receiver: Receiver) -> None:
    with pytest.raises(SinkFailure, match="cannot be reached"):
        await send("http://127.0.0.1:1/mail")


@contextmanager
def by_tls(keys: Keys, *, asks: bool) -> Iterator[tuple[str, Poster]]:
    """One behind TLS, which may ask for a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*keys.server)
    context.load_verify_locations(keys.ca)
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    with Poster(context) as made:
        made.start()
        yield f"https://localhost:{made.port}/mail", made


@on_uvloop
async def test_certificates_are_verified(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    with by_tls(keys, asks=False) as (url, made):
        for ca in (None, keys.other_ca):
            with pytest.raises(SinkFailure, match="the certificate of the other side is not trusted"):
                await send(url, ca=ca)
        with pytest.raises(SinkFailure, match="not trusted: IP address mismatch"):
            await send(url.replace("localhost", "127.0.0.1"), ca=keys.ca)
        assert made.bodies == []
        await send(url, ca=keys.ca)
        assert len(made.bodies) == 1


@on_uvloop
async def test_a_receiver_that_asks_for_a_client_certificate(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    with by_tls(keys, asks=True) as (url, made):
        with pytest.raises(SinkFailure, match="asks for a client certificate, and this relay shows none"):
            await send(url, ca=keys.ca)
        certificate, key = keys.stranger
        with pytest.raises(SinkFailure, match="does not accept the client certificate of this relay"):
            await send(url, ca=keys.ca, certificate=certificate, key=key)
        assert made.bodies == []
        certificate, key = keys.client
        await send(url, ca=keys.ca, certificate=certificate, key=key)
        assert len(made.bodies) == 1


async def test_a_retry_after_that_is_no_number(receiver: Receiver) -> None:
    receiver.status = 503
    for said, seconds in (("\u00b2", 0.0), ("9" * 400, 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("12", 12.0)):
        receiver.headers = {"Retry-After": said}
        with pytest.raises(SinkFailure) as failure:
            await send(receiver.url)
        assert failure.value.retry_after_s == seconds
