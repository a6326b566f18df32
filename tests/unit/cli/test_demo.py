"""The demo's story: the same seed tells the same one, and its folder is its own."""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from angarium.cli.demo.command import DemoFailure, bound, clean, demo
from angarium.cli.demo.traffic import LARGEST_OCTETS, TENANTS, letters
from angarium.cli.demo.world import PROVIDERS, World, provider_of
from tests.support.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 1000


def test_a_seed_has_one_set_of_letters() -> None:
    def story(seed: int) -> list[tuple[str, tuple[str, ...]]]:
        return [(letter.tenant, letter.recipients) for letter in letters(200, seed)]

    assert story(3) == story(3)
    assert story(3) != story(4)


def test_letters_are_of_all_tenants_to_all_providers_and_some_are_mistakes() -> None:
    sent = list(letters(COUNT, 1))
    assert len(sent) == COUNT
    assert {letter.tenant for letter in sent} == set(TENANTS)
    recipients = Counter(recipient for letter in sent for recipient in letter.recipients)
    assert set(recipients.values()) == {1}
    assert {provider_of(recipient).name for recipient in recipients} == {provider.name for provider in PROVIDERS}
    sizes = [len(letter.content) for letter in sent]
    assert 0 < sum(size > LARGEST_OCTETS for size in sizes) < COUNT * 0.05
    assert min(sizes) > 200
    for letter in sent[:50]:
        assert b"\nSubject: " in letter.content
        assert provider_of(letter.reverse_path) is PROVIDERS[-1], "bounces have somewhere to go"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "Maildir", 1)


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
async def test_a_provider_does_what_its_table_says(world: World, provider: object) -> None:
    assert provider in PROVIDERS
    one = PROVIDERS[PROVIDERS.index(provider)]  # type: ignore[arg-type]
    ends: Counter[str] = Counter()
    attempts: Counter[int] = Counter()
    for number in range(COUNT):
        mailbox = f"u{number}@{one.domains[0]}".encode()
        said = [world.verdict(one, mailbox)]
        while said[-1][:1] == b"4":
            said.append(world.verdict(one, mailbox))
        assert all(reply.endswith(b"\r\n") for reply in said if reply)
        ends["refused" if said[-1] else "taken"] += 1
        attempts[len(said)] += 1
    assert ends["refused"] / COUNT == pytest.approx(one.refused, abs=0.04)
    assert set(attempts) <= {1, 1 + one.patience}
    assert attempts[1 + one.patience] / COUNT == pytest.approx(one.deferred, abs=0.04)
    assert world.told[one.name]["refused"] == ends["refused"]
    assert world.told[one.name]["deferred"] == attempts[1 + one.patience] * one.patience * bool(one.deferred)


async def test_what_becomes_of_an_address_depends_on_the_seed_alone(tmp_path: Path) -> None:
    strict = next(provider for provider in PROVIDERS if provider.name == "strict")
    mailboxes = [f"u{number}@strict.test".encode() for number in range(100)]
    first, same, other = (World(tmp_path, seed) for seed in (1, 1, 2))
    story = [first.verdict(strict, mailbox) for mailbox in mailboxes]
    assert story == [same.verdict(strict, mailbox) for mailbox in reversed(mailboxes)][::-1]
    assert story != [other.verdict(strict, mailbox) for mailbox in mailboxes]


async def test_notifications_are_always_taken(world: World) -> None:
    for _ in range(3):
        assert world.verdict(PROVIDERS[-1], b"shop@sender.test") == b""
    assert not world.told["others"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "spool" / "mail"
    precious.mkdir(parents=True)
    with pytest.raises(DemoFailure, match="not a demo's"):
        clean(tmp_path)
    assert precious.is_dir()
    result = CliRunner().invoke(demo, ["--folder", str(tmp_path)])
    assert result.exit_code == 1
    assert "name another folder" in result.output


def test_its_own_folder_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "demo.toml").touch()
    (tmp_path / "spool").mkdir()
    (tmp_path / "tls").mkdir()
    clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.toml", "tls"]


def test_a_port_is_given_once(tmp_path: Path) -> None:
    result = CliRunner().invoke(demo, ["--folder", str(tmp_path), "--smtp-port", "2600", "--http-port", "2600"])
    assert result.exit_code == 2
    assert "port 2600 is given twice" in result.output


def test_a_host_s_port_that_is_taken_is_named() -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(DemoFailure, match=f"127.0.0.1:{port}"):
            bound("127.0.0.1", port)
