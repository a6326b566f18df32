"""What stands in front of the API: the token, the Host check, the security headers."""

from collections.abc import Callable

import httpx
import pytest

Connect = Callable[..., httpx.AsyncClient]
TOKEN = "correct-horse-battery"


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/status", "/api/openapi.json", "/api/v1/queue", "/nothing"])
async def test_a_token_guards_all_data(connect: Connect, path: str) -> None:
    client = connect([], token=TOKEN)
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": "Bearer"},
    ):
        refused = await client.get(path, headers=headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json() == {"status_code": 401, "detail": "a token is needed"}
    let_in = await client.get(path, headers={"authorization": f"bearer {TOKEN}"})
    assert let_in.status_code != 401


@pytest.mark.parametrize("path", ["/", "/static/console.js", "/static/console.css", "/healthz"])
async def test_the_console_and_health_need_no_token(connect: Connect, path: str) -> None:
    answer = await connect([], token=TOKEN).get(path)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8025", "localhost:8025", "[::1]:8025", "LOCALHOST", "relay.example.org", "10.0.0.1"]
)
async def test_hosts_of_ours_are_served(connect: Connect, host: str) -> None:
    assert (await connect([]).get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8025", "127.0.0.1.evil.example", "", "[::1", "localhost.evil.example"])
async def test_a_name_that_is_not_ours_is_refused_without_a_token(connect: Connect, host: str) -> None:
    answer = await connect([]).get("/api/v1/status", headers={"host": host})
    # "[::1" is an address with its bracket left open: harmless, as no web page can have that name
    assert answer.status_code == (200 if host == "[::1" else 421)


async def test_a_request_of_http_1_0_needs_no_host(connect: Connect) -> None:
    """HAProxy's checks have none; a browser always has one."""
    client = connect([])
    request = client.build_request("GET", "/api/v1/bans")
    del request.headers["host"]
    assert (await client.send(request)).status_code == 503  # nobody logs in here: it has come that far


async def test_any_name_will_do_with_a_token(connect: Connect) -> None:
    client = connect([], token=TOKEN)
    headers = {"host": "metrics.internal", "authorization": f"Bearer {TOKEN}"}
    assert (await client.get("/metrics", headers=headers)).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/nothing", "/static/console.js"])
async def test_every_answer_carries_the_security_headers(connect: Connect, path: str) -> None:
    headers = (await connect([]).get(path)).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] in {"no-store", "no-cache"}
