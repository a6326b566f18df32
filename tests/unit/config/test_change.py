"""What a reload changes, what waits for a restart, and that docs/operations.md says so of every key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from angarium.config.change import RESTART_KEYS, part_of, settle
from angarium.config.load import examine_text
from tests.unit.config.test_documentation import KEYS

if TYPE_CHECKING:
    from angarium.config.model import Config

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
BASE = """
[node]
hostname = "relay.example.org"
spool = "/spool"
workers = 2
[queue]
retry = { first = "1m" }
[[tenant]]
name = "shop"
networks = ["10.0.0.0/8"]
[[listener]]
name = "relay"
listen = "127.0.0.1:25"
role = "relay"
relay_networks = ["127.0.0.0/8"]
[[route]]
recipients = ["*"]
next_hop = "smtp://127.0.0.1:26"
"""


def config_of(text: str = BASE) -> Config:
    examination = examine_text(text)
    assert examination.config is not None, examination.problems
    return examination.config


def test_the_same_file_changes_nothing() -> None:
    change = settle(config_of(), config_of())
    assert change.config == config_of()
    assert (change.changed, change.waiting) == ((), ())


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"relay.example.org"', '"other.example.org"', "node.hostname"),
        ('first = "1m"', 'first = "2m"', "queue.retry.first"),
        ('"10.0.0.0/8"]', '"10.1.0.0/16"]', "tenant.shop.networks"),
        ('"127.0.0.1:25"', '"127.0.0.1:24"', "listener.relay.listen"),
        ('role = "relay"', 'role = "relay"\nlimits.recipients = 7', "listener.relay.limits"),
        (":26", ":27", "route"),
        ("workers = 2", 'workers = 2\nhang_timeout = "9s"', "node.hang_timeout"),
        ('name = "shop"', 'name = "store"', "tenant.shop"),
        ("[queue]", "[limits]\nrecipients = 9\n[queue]", "limits.recipients"),
        ("[queue]", '[admin]\nlisten = "127.0.0.1:8026"\n[queue]', "admin.listen"),
    ],
)
def test_what_differs_is_named_by_key_and_comes_into_force(old: str, new: str, key: str) -> None:
    wanted = config_of(BASE.replace(old, new, 1))
    change = settle(config_of(), wanted)
    assert key in change.changed
    assert change.waiting == ()
    assert change.config == wanted


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"/spool"', '"/other"', "node.spool"),
        ("workers = 2", "workers = 3", "node.workers"),
        ("workers = 2", 'workers = 2\nuser = "nobody"', "node.user"),
        ("workers = 2", 'workers = 2\ngroup = "nogroup"', "node.group"),
        ("[queue]", "[queue]\nshards = 9", "queue.shards"),
        ("[queue]", '[queue]\nsegment_size = "8MB"', "queue.segment_size"),
    ],
)
def test_what_needs_a_restart_waits_and_the_rest_is_taken(old: str, new: str, key: str) -> None:
    text = BASE.replace(old, new, 1).replace(":26", ":27")
    change = settle(config_of(), config_of(text))
    assert change.waiting == (key,)
    assert change.changed == ("route",)
    assert change.config == config_of(BASE.replace(":26", ":27"))


def test_what_waits_for_a_restart_still_waits_behind_the_next_reload() -> None:
    wanted = config_of(BASE.replace('"/spool"', '"/other"'))
    first = settle(config_of(), wanted)
    again = settle(first.config, wanted)
    assert again.waiting == ("node.spool",)
    assert again.changed == ()
    assert settle(again.config, config_of()).waiting == ()


def test_as_many_workers_written_in_another_way_are_no_change() -> None:
    fixed = config_of()
    as_many = config_of(BASE.replace("workers = 2", 'workers = "auto"\n').replace("[queue]", "[queue]\nshards = 2"))
    if settle(fixed, as_many).waiting == ("queue.shards",):
        return  # as many cores as workers
    assert "node.workers" in settle(fixed, as_many).waiting


@pytest.mark.parametrize("role", ["lookup", "admin"])
def test_a_process_is_replaced_for_its_own_part_alone(role: str, tmp_path: Path) -> None:
    base = config_of()
    assert part_of(role, base) == part_of(role, config_of())
    assert part_of(role, base) == part_of(role, config_of(BASE.replace(":26", ":27")))
    renamed = config_of(BASE.replace("relay.example.org", "other.example.org"))
    assert part_of(role, base) != part_of(role, renamed)
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    with_token = BASE.replace("[queue]", f'[admin]\ntoken_file = "{token}"\n[queue]')
    before = part_of(role, config_of(with_token))
    assert (part_of(role, base) != before) == (role == "admin")
    token.write_text("0123456789abcdef0123\n")  # the same name, another secret
    assert (part_of(role, config_of(with_token)) != before) == (role == "admin")
    asks_elsewhere = config_of(BASE.replace("[queue]", '[dns]\nservers = ["127.0.0.1:5353"]\n[queue]'))
    assert (part_of(role, base) != part_of(role, asks_elsewhere)) == (role == "lookup")


# ------------------------------------------------------------------ the page


def rows() -> dict[str, str]:
    """What the page says of each key, or of a whole table (`table.*`)."""
    text = OPERATIONS.read_text()
    begin, end = text.index("### What a reload changes"), text.index("## Logs")
    return dict(re.findall(r"^\| `([a-z0-9_.*]+)` \| (.+?) \|", text[begin:end], re.M))


def test_the_page_has_every_key_and_no_other() -> None:
    said = rows()
    tables = {key.partition(".")[0] for key in KEYS}
    assert {key.removesuffix(".*") for key in said if key.endswith(".*")} <= tables
    for key in KEYS:
        table = f"{key.partition('.')[0]}.*"
        parents = {key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)}
        assert key in said or table in said or parents & said.keys(), f"{key} is in no row"
    for key in said:
        assert key.endswith(".*") or key in KEYS or any(known.startswith(f"{key}.") for known in KEYS), key


def test_the_page_says_restart_of_exactly_the_keys_that_need_one() -> None:
    assert {key for key, effect in rows().items() if effect.startswith("restart")} == set(RESTART_KEYS)
    assert all(key in KEYS or any(known.startswith(f"{key}.") for known in KEYS) for key in RESTART_KEYS)
