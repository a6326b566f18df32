"""The sandbox: nothing leaves the machine, nothing reaches it from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trustme

from angarium.config.address import ListenAddress
from angarium.config.load import examine_text
from angarium.config.model import Admin, Config, Hop, dump, load_dump
from angarium.config.next_hop import NextHop
from angarium.config.problem import ConfigErrors
from angarium.config.sandbox import check_sandbox, sandbox_config

if TYPE_CHECKING:
    from pathlib import Path


def sandbox(folder: Path) -> Config:
    return sandbox_config(
        spool=folder,
        smtp_port=2525,
        submission_port=2587,
        submissions_port=2465,
        http_port=8025,
        sink_port=4025,
        certificate=folder / "c.pem",
        key=folder / "k.pem",
    )


def test_the_sandbox_by_default(tmp_path: Path) -> None:
    config = sandbox(tmp_path)
    assert config.sandbox
    assert [(str(entry.listen), entry.role, entry.tls, entry.auth) for entry in config.listener] == [
        ("127.0.0.1:2525", "relay", "starttls", "none"),
        ("127.0.0.1:2587", "submission", "starttls", "any"),
        ("127.0.0.1:2465", "submission", "implicit", "any"),
    ]
    assert all("127.0.0.1" in network or "::1" in network for network in config.listener[0].relay_networks)
    assert [str(route.next_hop) for route in config.route] == ["smtp://127.0.0.1:4025"]
    assert config.route[0].recipients[0].matches(b"any", b"where.example")
    assert config.node.spool == str(tmp_path)
    assert load_dump(dump(config)) == config


def complaints(config: Config) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        check_sandbox(config)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


@pytest.mark.parametrize(
    "next_hop",
    [
        "mx",
        "smtp://192.0.2.1",
        "smtp://localhost",
        "smtp://127.0.0.1.example.org",
        "smtp://[::ffff:192.0.2.1]",
        "lmtp://192.0.2.1",
        "lmtp://localhost",
        "pipe:/usr/sbin/sendmail",
        "maildir:/var/mail",
    ],
)
def test_a_next_hop_that_leaves_the_machine(tmp_path: Path, next_hop: str) -> None:
    config = sandbox(tmp_path)
    route = msgspec.structs.replace(config.route[0], next_hop=NextHop.parse(next_hop))
    (found,) = complaints(msgspec.structs.replace(config, route=(route,)))
    assert found.startswith("route[0].next_hop: ")


def test_a_maildir_must_be_under_the_spool_in_truth(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    (tmp_path / "outside").mkdir()
    (spool / "link").symlink_to(tmp_path / "outside")
    config = sandbox(spool)

    def routed(path: str) -> Config:
        route = msgspec.structs.replace(config.route[0], next_hop=NextHop(kind="maildir", path=path))
        return msgspec.structs.replace(config, route=(route,))

    check_sandbox(routed(f"{spool}/sink"))
    for path in (f"{spool}/../outside", f"{spool}/link/x", f"{spool}-other", f"{spool}"):
        (found,) = complaints(routed(path))
        assert "is not under the sandbox's spool" in found


def test_discard_and_loopback_stay(tmp_path: Path) -> None:
    config = sandbox(tmp_path)
    hops = ("discard:", "bounce:", "smtp://[::1]:26", "smtp://127.9.9.9:26", "lmtp://127.0.0.1", "lmtp+unix:/l")
    for next_hop in hops:
        route = msgspec.structs.replace(config.route[0], next_hop=NextHop.parse(next_hop))
        check_sandbox(msgspec.structs.replace(config, route=(route,)))


def test_every_one_of_several_hosts_must_stay(tmp_path: Path) -> None:
    config = sandbox(tmp_path)
    hops = tuple(Hop(to=NextHop.parse(text)) for text in ("smtp://127.0.0.1:26", "smtp://192.0.2.1"))
    route = msgspec.structs.replace(config.route[0], next_hop=hops)
    (found,) = complaints(msgspec.structs.replace(config, route=(route,)))
    assert found.startswith("route[0].next_hop[1]: ")


def test_a_route_for_all_with_other_conditions_is_none_for_all(tmp_path: Path) -> None:
    config = sandbox(tmp_path)
    route = msgspec.structs.replace(config.route[0], tenants=("shop",))
    (found,) = complaints(msgspec.structs.replace(config, route=(route,)))
    assert found.startswith('route: a sandbox needs a route for "*"')


def test_without_a_route_for_all_the_last_resort_would_be_by_mx(tmp_path: Path) -> None:
    (found,) = complaints(msgspec.structs.replace(sandbox(tmp_path), route=()))
    assert found.startswith('route: a sandbox needs a route for "*"')


def test_addresses_that_others_reach(tmp_path: Path) -> None:
    config = sandbox(tmp_path)
    anywhere = ListenAddress(host="0.0.0.0", port=2525)
    first = msgspec.structs.replace(config.listener[0], listen=anywhere)
    found = complaints(
        msgspec.structs.replace(config, listener=(first, *config.listener[1:]), admin=Admin(listen=anywhere))
    )
    assert [line.partition(": ")[0] for line in found] == ["admin.listen", "listener[0].listen"]


PRODUCTION = """
[node]
hostname = "relay.example.org"
spool = "/var/spool/angarium"
[[listener]]
name = "relay"
listen = "0.0.0.0:25"
role = "relay"
relay_networks = ["10.0.0.0/8"]
[[route]]
recipients = ["example.org"]
next_hop = "smtp://localhost:26"
"""


def test_a_configuration_for_production_run_as_a_sandbox() -> None:
    assert examine_text(PRODUCTION).problems == ()
    examination = examine_text(PRODUCTION, sandbox=True)
    assert examination.config is None
    assert [(p.line, p.key, p.suggestion) for p in examination.problems] == [
        (7, "listener[0].listen", None),
        (10, "route", None),
        (12, "route[0].next_hop", "smtp://127.0.0.1:26"),
    ]


def test_the_file_itself_may_say_sandbox() -> None:
    assert examine_text("sandbox = true\n" + PRODUCTION).config is None
    inside = (
        PRODUCTION.replace("0.0.0.0:25", "127.0.0.1:25")
        .replace("localhost", "127.0.0.1")
        .replace('"example.org"]', '"*"]')
    )
    for text, options in [("sandbox = true\n" + inside, False), (inside, True)]:
        config = examine_text(text, sandbox=options).config
        assert config is not None
        assert config.sandbox


def test_submission_in_the_sandbox_takes_any_log_in_under_tls(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("sandbox.test")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(issued.private_key_pem.bytes())
    text = f"""sandbox = true
[node]
hostname = "sandbox.test"
spool = "{tmp_path}"
[[listener]]
name = "submission"
listen = "127.0.0.1:2587"
role = "submission"
auth = "any"
[[route]]
recipients = ["*"]
next_hop = "discard:"
"""
    (problem,) = examine_text(text).problems
    assert "under TLS only" in problem.message
    text += f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    assert examine_text(text).problems == ()
    (problem,) = examine_text(text.replace('auth = "any"\n', "")).problems
    assert 'write auth = "any"' in problem.message
