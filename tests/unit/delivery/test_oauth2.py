"""Access tokens: the cache in front of a token host, and what is said to a real one on loopback."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from angarium.config.model import OAuth2
from angarium.config.secret import Secret
from angarium.delivery.oauth2 import YOUNG_S, Grant, TokenError, TokenSource
from angarium.delivery.token_endpoint import LONGEST_LIFE_S, UNKNOWN_LIFE_S, TokenEndpoint
from tests.support.clock import FakeClock
from tests.support.token_server import CLIENT, REFRESH_TOKEN, TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Host:
    """A token host that the test plays: it answers when it is told to, with what it is told."""

    def __init__(self) -> None:
        self.asked = 0
        self.lifetime_s = 1000.0
        self.failure: TokenError | None = None
        self.held: asyncio.Event | None = None

    async def __call__(self) -> Grant:
        self.asked += 1
        number = self.asked
        if self.held is not None:
            await self.held.wait()
        if self.failure is not None:
            raise self.failure
        return Grant(f"t{number}", self.lifetime_s)


class Bench:
    """A source, its host, its clock, and what it told."""

    def __init__(self) -> None:
        self.host = Host()
        self.clock = FakeClock()
        self.told: list[tuple[str, float]] = []
        self.source = TokenSource(self.host, self.clock, lambda result, left: self.told.append((result, left)))

    async def settle(self) -> None:
        """Until a request in the background is over."""
        request = self.source._request
        if request is not None:
            await request


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_token_is_kept_until_it_expires(bench: Bench) -> None:
    assert await bench.source.token() == "t1"
    bench.clock.advance(799)
    assert await bench.source.token() == "t1"
    assert bench.host.asked == 1
    bench.clock.advance(250)
    assert await bench.source.token() == "t2"
    assert bench.told == [("granted", 1000.0), ("granted", 1000.0)]


async def test_it_is_renewed_ahead_of_that_while_it_is_still_used(bench: Bench) -> None:
    await bench.source.token()
    bench.clock.advance(801)
    assert await bench.source.token() == "t1"
    await bench.settle()
    assert bench.host.asked == 2
    assert await bench.source.token() == "t2"
    assert bench.host.asked == 2
    assert bench.source.seconds_left == 1000


async def test_a_long_life_is_renewed_ten_minutes_ahead(bench: Bench) -> None:
    bench.host.lifetime_s = 86400
    await bench.source.token()
    bench.clock.advance(86400 - 601)
    await bench.source.token()
    assert bench.source._request is None
    bench.clock.advance(2)
    await bench.source.token()
    await bench.settle()
    assert bench.host.asked == 2


async def test_all_who_wait_share_one_request(bench: Bench) -> None:
    bench.host.held = asyncio.Event()
    waiting = [asyncio.create_task(bench.source.token()) for _ in range(20)]
    while bench.host.asked == 0:
        await asyncio.sleep(0)
    waiting[0].cancel()
    bench.host.held.set()
    assert {await task for task in waiting[1:]} == {"t1"}
    assert waiting[0].cancelled()
    assert bench.host.asked == 1


async def test_a_token_that_a_host_refused_is_replaced(bench: Bench) -> None:
    assert await bench.source.token() == "t1"
    bench.clock.advance(YOUNG_S)
    assert await bench.source.token("t1") == "t2"
    assert await bench.source.token("t1") == "t2", "it was replaced already"
    assert bench.host.asked == 2


async def test_but_not_one_that_has_just_been_had(bench: Bench) -> None:
    assert await bench.source.token() == "t1"
    bench.clock.advance(YOUNG_S - 0.1)
    assert await bench.source.token("t1") == "t1", "the token cannot be the reason"
    assert bench.host.asked == 1


async def test_after_a_failure_nobody_asks_for_a_while(bench: Bench) -> None:
    bench.host.failure = TokenError("no", refused=True)
    for number, pause_s in enumerate([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300], 1):
        for _ in range(2):
            with pytest.raises(TokenError, match="no"):
                await bench.source.token()
            assert bench.host.asked == number
        bench.clock.advance(pause_s - 0.1)
        with pytest.raises(TokenError, match="no"):
            await bench.source.token()
        assert bench.host.asked == number
        bench.clock.advance(0.2)
    bench.host.failure = None
    assert (await bench.source.token()).startswith("t")
    assert [result for result, _ in bench.told] == ["refused"] * 11 + ["granted"]


async def test_a_token_that_holds_is_used_while_no_other_is_to_be_had(bench: Bench) -> None:
    await bench.source.token()
    bench.host.failure = TokenError("away")
    bench.clock.advance(900)
    assert await bench.source.token() == "t1"
    await bench.settle()
    assert await bench.source.token() == "t1"
    assert bench.told[-1] == ("failed", 100.0)
    bench.clock.advance(101)
    with pytest.raises(TokenError, match="away"):
        await bench.source.token()
    bench.host.failure = None
    bench.clock.advance(300)
    assert (await bench.source.token()).startswith("t")


async def test_a_source_is_closed_with_its_request(bench: Bench) -> None:
    bench.host.held = asyncio.Event()
    waiting = asyncio.create_task(bench.source.token())
    while bench.host.asked == 0:
        await asyncio.sleep(0)
    await bench.source.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# ---------------------------------------------------------------------- the request


@pytest.fixture
def server() -> Iterator[TokenServer]:
    with TokenServer() as running:
        yield running


def settings(server: TokenServer, **more: Any) -> OAuth2:
    return OAuth2(
        **{
            "token_url": server.url,
            "client_id": CLIENT["client_id"],
            "client_secret": Secret(CLIENT["client_secret"]),
            "timeout_s": 30.0,
        }
        | more
    )


async def test_client_credentials(server: TokenServer) -> None:
    endpoint = TokenEndpoint(settings(server, scope="mail.send offline"))
    assert await endpoint() == Grant("token-1", 3600)
    assert server.requests == [{"grant_type": "client_credentials", "scope": "mail.send offline", **CLIENT}]


async def test_a_refresh_token_and_its_successor(server: TokenServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(REFRESH_TOKEN + "\n")
    server.rotates = True
    endpoint = TokenEndpoint(settings(server, grant="refresh_token", refresh_token_file=str(file)))
    assert await endpoint() == Grant("token-1", 3600)
    assert await endpoint() == Grant("token-2", 3600)
    assert [form["refresh_token"] for form in server.requests] == [REFRESH_TOKEN, "refresh-1"]
    file.write_text("refresh-2")  # the operator has a newer one
    await endpoint()
    assert server.requests[-1]["refresh_token"] == "refresh-2"


@pytest.mark.parametrize(
    ("said", "lifetime_s"),
    [
        (60, 60),
        ("120", 120),
        (None, UNKNOWN_LIFE_S),
        (0, UNKNOWN_LIFE_S),
        (-5, UNKNOWN_LIFE_S),
        ("soon", UNKNOWN_LIFE_S),
        (1e12, LONGEST_LIFE_S),
    ],
)
async def test_how_long_a_token_holds(server: TokenServer, said: object, lifetime_s: float) -> None:
    server.lifetime_s = said
    assert (await TokenEndpoint(settings(server))()).lifetime_s == lifetime_s


@pytest.mark.parametrize(
    ("answer", "refused", "text"),
    [
        ((401, {"error": "invalid_client"}), True, "the token host 127.0.0.1 refused (401): invalid_client"),
        (
            (400, {"error": "invalid_grant", "error_description": "client words\n are wrong"}),
            True,
            "the token host 127.0.0.1 refused (400): invalid_grant: ***  are wrong",
        ),
        ((403, {}), True, "the token host 127.0.0.1 refused (403): no reason given"),
        ((503, {"error": "busy"}), False, "the token host 127.0.0.1 refused (503): busy"),
        ((200, {"token_type": "Bearer"}), False, "the token host 127.0.0.1 refused (200): no reason given"),
        ((200, {"access_token": "a\r\nb"}), False, "the token host 127.0.0.1 refused (200): no reason given"),
        ((200, b"<html>"), False, "the token host 127.0.0.1 answered 200, and nothing that can be read"),
        ((200, b"[1]"), False, "the token host 127.0.0.1 answered 200, and nothing that can be read"),
        ((502, b""), False, "the token host 127.0.0.1 answered 502, and nothing that can be read"),
        ((200, b" " * 70_000), False, "the token host 127.0.0.1 answers with more than 65536 octets"),
        ((307, "http://127.0.0.1:1/"), False, "the token host 127.0.0.1 answered 307, and nothing that can be read"),
    ],
)
async def test_what_a_token_host_may_say_else(
    server: TokenServer, answer: tuple[int, Any], refused: bool, text: str
) -> None:
    server.answer = answer
    with pytest.raises(TokenError) as caught:
        await TokenEndpoint(settings(server))()
    assert str(caught.value) == text
    assert caught.value.refused is refused


async def test_over_https_the_host_is_who_it_says(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    with TokenServer(tls=context) as server:
        assert (await TokenEndpoint(settings(server, ca=str(trusted)))()).access_token == "token-1"
        with pytest.raises(TokenError, match=r"cannot be reached: .*certificate verify failed"):
            await TokenEndpoint(settings(server))()
        assert len(server.requests) == 1, "nothing is sent to a host that is not known"


async def test_a_token_host_that_is_not_there(server: TokenServer) -> None:
    gone = settings(server, token_url="http://127.0.0.1:9/token")
    with pytest.raises(TokenError, match=r"the token host 127.0.0.1 cannot be reached"):
        await TokenEndpoint(gone)()


async def test_a_secret_that_cannot_be_read(server: TokenServer, tmp_path: Path) -> None:
    missing = settings(server, client_secret=None, client_secret_file=str(tmp_path / "none"))
    with pytest.raises(TokenError, match=r"cannot be asked: .*No such file"):
        await TokenEndpoint(missing)()


def test_nothing_secret_is_shown(server: TokenServer) -> None:
    assert "client words" not in repr(settings(server))
    assert "t1" not in repr(Grant("t1", 5))
