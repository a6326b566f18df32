"""What is wrong with a [[permission]], said where it stands."""

from __future__ import annotations

import pytest

from angarium.config.load import examine_text

BASE = """
[node]
hostname = "relay.example.org"
spool = "/spool"
[[listener]]
name = "relay"
listen = "127.0.0.1:25"
role = "relay"
relay_networks = ["10.0.0.0/8"]
[[tenant]]
name = "shop"
networks = ["10.1.0.0/16"]
[[source]]
name = "a"
ipv4 = "192.0.2.1"
[[source_pool]]
name = "bulk"
members = ["a"]
"""


def problems(text: str) -> list[tuple[int, str, str, str | None, str]]:
    """(line behind [[permission]], key, message, suggestion, severity) of everything that is wrong."""
    whole = BASE + "[[permission]]\n" + text
    line = whole.splitlines().index("[[permission]]") + 1
    return [
        (problem.line - line, problem.key, problem.message, problem.suggestion, problem.severity)
        for problem in examine_text(whole).problems
    ]


@pytest.mark.parametrize(
    ("text", "key", "message", "suggestion"),
    [
        ('name = "a b"', "name", '"a b" is not a name', None),
        ('tenants = ["shp"]', "tenants[0]", 'there is no tenant "shp"', "shop"),
        ('tenant = "shp"', "tenant", 'there is no tenant "shp"', "shop"),
        ('listeners = ["rely"]', "listeners[0]", 'there is no listener "rely"', "relay"),
        ("reverse_paths = []", "reverse_paths", "is empty, so that nothing may be sent", None),
        ('reverse_paths = ["a@b@c"]', "reverse_paths[0]", '"a@b" is not a local part', None),
        ('from_addresses = ["*@example.org"]', "from_addresses[0]", "for every address at a domain write", None),
        ('reverse_paths = ["{log_in}.example.org"]', "reverse_paths[0]", "{log_in} stands for a whole address", None),
        ('rewrite_from = "Scanner"', "rewrite_from", "is not one address", None),
        ('rewrite_from = "a@b.example, c@d.example"', "rewrite_from", "is not one address", None),
        ('rewrite_from = "a@b.example\\r\\nX: y"', "rewrite_from", "is not one address", None),
        ('rewrite_from = "M\u00fcller <a@b.example>"', "rewrite_from", "must be ASCII", None),
        ('at_limit = "queue"', "at_limit", "has no effect without recipients_per_hour", None),
        ('counted_by = "tenant"', "counted_by", "has no effect: this permission counts nothing", None),
        ('counted_by = "tenant"\nhold_above = 5', "hold_above", "is for single log-ins", None),
        ("hold_above = 0", "hold_above", "from 1 to 1000000000", None),
        ('hold_above = "5"', "hold_above", "neither a number of recipients an hour nor a multiple", None),
        ("legacy = true", "legacy", "is for named devices only", None),
        ('legacy = true\nnetworks = ["10.0.0.0/8"]\nfix_up = false', "fix_up", "legacy devices need it", None),
        ('at_limit = "wait"', "at_limit", 'expected one of "refuse", "queue"', None),
        ("recipient_per_hour = 5", "recipient_per_hour", "unknown key in [permission[0]]", "recipients_per_hour"),
        ('source_pool = "bulck"', "source_pool", 'there is no source pool "bulck"', "bulk"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, key: str, message: str, suggestion: str | None) -> None:
    found = problems(text)
    assert len(found) == 1, found
    line, where, said, near, severity = found[0]
    assert severity == "error"
    assert where == f"permission[0].{key}"
    assert message in said
    assert suggestion is None or near == suggestion
    assert text.splitlines()[line - 1].startswith(key.partition("[")[0])


def test_what_is_probably_not_meant_is_a_warning() -> None:
    ((_, key, message, _, severity),) = problems("recipients_per_hour = 10\nrecipients_per_day = 5")
    assert (key, severity) == ("permission[0].recipients_per_hour", "warning")
    assert "never reached" in message
    ((_, key, message, _, severity),) = problems('recipients = 5\n[[permission]]\nlog_ins = ["a"]')
    assert (key, severity) == ("permission[0]", "warning")
    assert "is for every client" in message


def test_two_permissions_cannot_have_one_name() -> None:
    found = problems('name = "x"\nlog_ins = ["a"]\n[[permission]]\nname = "x"\nlog_ins = ["b"]')
    assert [(key, message) for _, key, message, _, _ in found] == [
        ("permission[1].name", 'another permission is named "x" too')
    ]
