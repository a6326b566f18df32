"""Tokens from the lookup process to a worker's log-in: one for the node, replaced when a host refuses it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from angarium._core.counters import Slab, Slot
from angarium.app.tokens import TokenDesk
from angarium.config.load import examine_text
from angarium.delivery.lookup_protocol import TOKEN, Kind
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.oauth2 import AccessToken, TokenError, key_of
from angarium.delivery.token_client import NodeTokens
from tests.support.clock import FakeClock
from tests.support.token_server import TokenServer

if TYPE_CHECKING:
    from pathlib import Path

    from angarium.config.model import Config, OAuth2


def config_for(server: TokenServer, folder: Path) -> Config:
    auth = f'user = "u", oauth2 = {{ token_url = "{server.url}", client_id = "relay", client_secret = "client words" }}'
    text = f"""\
[node]
hostname = "a.example"
spool = "{folder}"
[events]
file = "{folder}/events.jsonl"
[[listener]]
name = "x"
listen = "127.0.0.1:99"
role = "relay"
relay_networks = ["10.0.0.0/8"]
[[route]]
recipients = ["one.example"]
next_hop = "smtps://h.example"
auth = {{ {auth} }}
[[route]]
recipients = ["*"]
next_hop = "smtps://other.example"
auth = {{ {auth} }}
"""
    config = examine_text(text).config
    assert config is not None
    return config


def oauth2_of(config: Config) -> OAuth2:
    auth = config.route[0].auth
    assert auth is not None
    assert auth.oauth2 is not None
    return auth.oauth2


class Wire:
    """A LookupClient whose process is in this one; what it keeps is kept by the clock of the test."""

    def __init__(self, desk: TokenDesk, clock: FakeClock) -> None:
        self.desk = desk
        self.clock = clock
        self.away = False
        self.kept: dict[Any, AccessToken] = {}

    async def ask(self, kind: Kind[Any, Any], argument: tuple[str, str]) -> AccessToken:
        assert kind is TOKEN
        cached = self.kept.get(argument)
        if cached is not None and (self.away or cached.expires > self.clock.monotonic()):
            return cached
        if self.away:
            raise ResolutionFailure(False, 451, (4, 4, 3), "the lookup process does not answer")
        sent = msgspec.msgpack.encode(await self.desk.token(msgspec.msgpack.decode(msgspec.msgpack.encode(argument))))
        self.kept[argument] = msgspec.msgpack.decode(sent, type=kind.result)
        return self.kept[argument]


async def test_one_token_for_the_node_until_a_host_refuses_it(tmp_path: Path) -> None:
    with TokenServer(lifetime_s=1000) as server:
        config = config_for(server, tmp_path)
        clock, counters = FakeClock(), Slab.create(1).region(0)
        desk = TokenDesk(config, counters, clock)
        workers = [NodeTokens(Wire(desk, clock), oauth2_of(config), clock) for _ in range(2)]  # type: ignore[arg-type]
        assert [await worker.token() for worker in workers] == ["token-1", "token-1"]
        assert await workers[0].token("token-1") == "token-1", "too young to be the reason"
        clock.advance(60)
        assert await workers[0].token("token-1") == "token-2"
        assert await workers[0].token() == "token-2"
        assert await workers[1].token() == "token-1", "which it keeps until a host refuses it"
        assert await workers[1].token("token-1") == "token-2"
        assert len(server.requests) == 2
        assert counters.value(Slot.DELIVERY_TOKENS_GRANTED) == 2
        assert counters.value(Slot.DELIVERY_TOKEN_LEFT) == 1000
        await desk.close()
        events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
        assert [(event["event"], event["class"], event["lifetime_s"]) for event in events] == [
            ("token", "granted", 1000),
            ("token", "granted", 1000),
        ]


async def test_workers_ask_again_when_the_successor_is_due(tmp_path: Path) -> None:
    with TokenServer(lifetime_s=1000) as server:
        config, clock = config_for(server, tmp_path), FakeClock()
        desk = TokenDesk(config, Slab.create(1).region(0), clock)
        worker = NodeTokens(Wire(desk, clock), oauth2_of(config), clock)  # type: ignore[arg-type]
        assert await worker.token() == "token-1"
        clock.advance(801)
        assert await worker.token() == "token-1"
        (source,) = desk._sources.values()
        assert source._request is not None
        await source._request
        assert await worker.token() == "token-2"
        await desk.close()


async def test_without_the_process_a_token_is_used_while_it_holds(tmp_path: Path) -> None:
    with TokenServer(lifetime_s=1000) as server:
        config, clock = config_for(server, tmp_path), FakeClock()
        desk = TokenDesk(config, Slab.create(1).region(0), clock)
        wire = Wire(desk, clock)
        worker = NodeTokens(wire, oauth2_of(config), clock)  # type: ignore[arg-type]
        assert await worker.token() == "token-1"
        wire.away = True
        clock.advance(999)
        assert await worker.token() == "token-1"
        clock.advance(2)
        with pytest.raises(TokenError, match="has expired"):
            await worker.token()
        await desk.close()


async def test_failures_reach_the_worker_in_the_token_host_s_words(tmp_path: Path) -> None:
    with TokenServer() as server:
        server.answer = (401, {"error": "invalid_client"})
        config, clock, counters = config_for(server, tmp_path), FakeClock(), Slab.create(1).region(0)
        desk = TokenDesk(config, counters, clock)
        worker = NodeTokens(Wire(desk, clock), oauth2_of(config), clock)  # type: ignore[arg-type]
        with pytest.raises(TokenError, match="refused \\(401\\): invalid_client"):
            await worker.token()
        assert counters.value(Slot.DELIVERY_TOKENS_REFUSED) == 1
        assert counters.value(Slot.DELIVERY_TOKEN_LEFT) == 0
        await desk.close()


async def test_a_table_that_this_process_does_not_know(tmp_path: Path) -> None:
    with TokenServer() as server:
        config, clock = config_for(server, tmp_path), FakeClock()
        other = msgspec.structs.replace(oauth2_of(config), scope="another")
        assert key_of(other) != key_of(oauth2_of(config))
        desk = TokenDesk(config, Slab.create(1).region(0), clock)
        worker = NodeTokens(Wire(desk, clock), other, clock)  # type: ignore[arg-type]
        with pytest.raises(TokenError, match="the configuration is being changed"):
            await worker.token()
        assert server.requests == []
        await desk.close()
