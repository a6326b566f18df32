"""[[provider]]: what is taken, what is refused and where, and the sample that comes with the relay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from angarium.config.change import settle
from angarium.config.load import examine_text

BASE = """
[node]
hostname = "relay.example.org"
spool = "/spool"
[[listener]]
name = "x"
listen = "127.0.0.1:99"
role = "relay"
relay_networks = ["10.0.0.0/8"]
"""
BIG = '[[provider]]\nname = "big"\ndomains = ["big.example"]\n'
TEMPLATE = Path(__file__).parents[3] / "src" / "angarium" / "cli" / "templates" / "bulk.toml"


def problems_of(text: str) -> list[str]:
    return [f"{problem.key}: {problem.message}" for problem in examine_text(BASE + text).problems]


def test_what_a_provider_says() -> None:
    config = examine_text(BASE + BIG + 'mail_hosts = ["*.mx.big.example", "mx.example"]').config
    assert config is not None
    assert [str(pattern) for pattern in config.provider[0].domains] == ["big.example"]
    assert [str(pattern) for pattern in config.provider[0].mail_hosts] == ["*.mx.big.example", "mx.example"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[provider]]\nname = "a b"\ndomains = ["a.example"]', 'provider[0].name: "a b" is not a name'),
        ('[[provider]]\nname = "other"\ndomains = ["a.example"]', 'provider[0].name: "other" is the name of what no'),
        ('[[provider]]\nname = "big"', "provider[0].name: matches nothing"),
        (BIG + BIG.replace("big.example", "b.example"), 'provider[1].name: another provider is named "big" too'),
        (BIG.replace("big.example", "*"), 'provider[0].domains[0]: "*" is no name of one or many'),
        (BIG.replace("big.example", "me@big.example"), 'provider[0].domains[0]: "me@big.example" is no name'),
        (
            BIG + '[[provider]]\nname = "two"\ndomains = ["x.example", "big.example"]',
            'provider[1].domains[1]: "big.example" is in front of this already',
        ),
    ],
)
def test_what_is_refused_or_warned_of(text: str, problem: str) -> None:
    (found,) = problems_of(text)
    assert found.startswith(problem)


def test_fifty_and_no_more() -> None:
    text = "".join(BIG.replace("big", f"big{i}") for i in range(51))
    assert problems_of(text.rpartition("[[provider]]")[0]) == []
    (found,) = problems_of(text)
    assert found == "provider[50]: there are 51 providers, and metrics have room for 50"


def test_a_reload_changes_providers_by_name() -> None:
    before, after = (
        examine_text(BASE + BIG + more).config
        for more in ("", '[[provider]]\nname = "new"\nmail_hosts = ["*.new.example"]\n')
    )
    assert before is not None
    assert after is not None
    change = settle(before, after)
    assert (change.changed, change.waiting, change.config) == (("provider.new",), (), after)


def test_the_sample_holds_once_its_comments_are_gone() -> None:
    lines = TEMPLATE.read_text().splitlines()
    begin = lines.index("# [[provider]]")
    end = next(i for i in range(begin, len(lines)) if not lines[i].startswith("# "))
    text = "\n".join(line.removeprefix("# ") for line in lines[begin:end])
    assert problems_of(text) == []
    config = examine_text(BASE + text).config
    assert config is not None
    assert len(config.provider) >= 10
    assert {"google", "microsoft", "yahoo", "apple"} <= {provider.name for provider in config.provider}
    assert all(re.fullmatch("[a-z-]+", provider.name) for provider in config.provider)
