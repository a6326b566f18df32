"""The TLS of deliveries: what a configuration may say of it, and what is wrong with it where it may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium.config.fingerprint import Fingerprint
from angarium.config.load import examine_text
from angarium.config.model import dump, load_dump
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

BASE = """\
[node]
hostname = "relay.example.org"
spool = "/var/spool/angarium"
[[listener]]
name = "relay"
listen = "127.0.0.1:25"
role = "relay"
relay_networks = ["10.0.0.0/8"]
"""
DIGEST = "ab" * 32


def table(kind: str, **keys: str) -> str:
    """A route or a policy with these keys (TOML values)."""
    usual = {"recipients": '["a.test"]', "next_hop": '"mx"'} if kind == "route" else {"domains": '["a.test"]'}
    return f"[[{kind}]]\n" + "".join(f"{key} = {value}\n" for key, value in (usual | keys).items())


def problems_of(text: str, severity: str = "error") -> list[str]:
    return [
        f"{problem.key}: {problem.message}"
        for problem in examine_text(BASE + text).problems
        if problem.severity == severity
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    root = Authority("Root CA")
    certificate, key = root.issue("relay.test").write(folder, "own")
    _, other_key = root.issue("relay.test").write(folder, "other")
    (folder / "empty").write_text("")
    return {
        "ca": root.write(folder, "root")[0],
        "certificate": certificate,
        "key": key,
        "other": other_key,
        "empty": folder / "empty",
        "nowhere": folder / "nowhere",
    }


@pytest.mark.parametrize("kind", ["route", "tls_policy"])
def test_all_that_may_be_said(kind: str, files: dict[str, Path]) -> None:
    pair = {"tls_certificate": f'"{files["certificate"]}"', "tls_key": f'"{files["key"]}"'}
    text = table(kind, tls='"verify"', tls_ca=f'"{files["ca"]}"', tls_name='"mail.a.test"', **pair)
    text += table(kind, tls='"fingerprint"', tls_fingerprints=f'["{DIGEST}", "sha256:{":".join(["CD"] * 32)}"]')
    text += table(kind, tls='"none"') + table(kind, **pair)
    config = examine_text(BASE + text).config
    assert config is not None, problems_of(text)
    first, second, third, fourth = config.route if kind == "route" else config.tls_policy
    assert (first.tls, first.tls_name, first.tls_ca) == ("verify", "mail.a.test", str(files["ca"]))
    assert second.tls_fingerprints == (Fingerprint(b"\xab" * 32), Fingerprint(b"\xcd" * 32))
    assert third.tls == "none"
    assert (fourth.tls, fourth.tls_key) == (None, str(files["key"]))
    assert load_dump(dump(config)) == config


@pytest.mark.parametrize("kind", ["route", "tls_policy"])
@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            {"tls": '"vrify"'},
            'tls: expected one of "opportunistic", "none", "require", "verify", "dane", "fingerprint"',
        ),
        ({"tls": '"fingerprint"'}, 'tls: "fingerprint" needs tls_fingerprints'),
        ({"tls_fingerprints": f'["{DIGEST}"]'}, 'tls_fingerprints: has no effect unless tls = "fingerprint"'),
        ({"tls": '"fingerprint"', "tls_fingerprints": '["abc"]'}, '"abc" is not a SHA-256 fingerprint: 64 hexadecimal'),
        ({"tls_ca": '"/ca.pem"'}, 'tls_ca: has no effect unless tls = "verify"'),
        ({"tls": '"verify"', "tls_ca": '"{nowhere}"'}, "nowhere cannot be read: No such file or directory"),
        ({"tls": '"verify"', "tls_ca": '"{empty}"'}, "empty has no certificates in PEM form that can be read"),
        ({"tls_certificate": '"{certificate}"'}, "tls_certificate: needs tls_key beside it"),
        ({"tls_key": '"{key}"'}, "tls_key: needs tls_certificate beside it"),
        ({"tls_certificate": '"{certificate}"', "tls_key": '"{other}"'}, "tls_key: {other} is not the key of the"),
        ({"tls_certificate": '"{nowhere}"', "tls_key": '"{key}"'}, "tls_certificate: {nowhere} cannot be read"),
        ({"tls_certificate": '"{empty}"', "tls_key": '"{key}"'}, "tls_certificate: {empty} has no certificate in PEM"),
        ({"tls": '"none"', "tls_name": '"a.test"'}, 'tls_name: has no effect with tls = "none"'),
        ({"tls": '"dane"'}, 'tls: "dane" needs a name server that validates, and dns.dnssec = "trust-ad"'),
        ({"tls_fingerprint": f'["{DIGEST}"]'}, "tls_fingerprint: unknown key"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_may_not(kind: str, keys: dict[str, str], problem: str, files: dict[str, Path]) -> None:
    for name, path in files.items():
        keys = {key: value.replace(f"{{{name}}}", str(path)) for key, value in keys.items()}
        problem = problem.replace(f"{{{name}}}", str(path))
    found = problems_of(table(kind, **keys))
    assert len(found) == 1
    assert found[0].startswith(f"{kind}[0]")
    assert problem in found[0]


@pytest.mark.parametrize("next_hop", ["discard:", "maildir:/mail"])
def test_a_route_without_tls(next_hop: str) -> None:
    found = problems_of(table("route", next_hop=f'"{next_hop}"', tls='"require"'))
    assert found == [f'route[0].tls: has no effect: there is no TLS to "{next_hop}"']


def test_smtps_is_tls() -> None:
    found = problems_of(table("route", next_hop='"smtps://mail.a.test"', tls='"none"'))
    assert found == ['route[0].tls: "smtps://" is TLS from the first octet on; for plaintext write "smtp://"']


def test_policies_for_domains() -> None:
    assert problems_of(table("tls_policy", domains="[]")) == [
        "tls_policy[0].domains: is empty, so that no domain has this policy"
    ]
    assert problems_of(table("tls_policy", domains='["me@a.test"]')) == [
        'tls_policy[0].domains[0]: "me@a.test" is an address; a policy is for a domain, such as "example.org"'
    ]
    text = table("tls_policy", domains='["a.test", "b.test"]') + table("tls_policy", domains='["b.test", "c.test"]')
    assert problems_of(text, "warning") == [
        'tls_policy[1].domains[0]: "b.test" has a policy in front of it already, and the first match wins'
    ]
    text = table("tls_policy", domains='["*"]') + table("tls_policy", domains='["b.test"]')
    assert len(problems_of(text, "warning")) == 1


def test_levels_for_everything() -> None:
    assert problems_of('[delivery]\ntls = "fingerprint"\n') == [
        'delivery.tls: "fingerprint" is of single hosts: list them with a [[route]] or a [[tls_policy]]'
    ]
    assert len(problems_of('[delivery]\ntls = "dane"\n')) == 1
    assert problems_of('[delivery]\ntls = "dane"\n[dns]\ndnssec = "trust-ad"\n') == []
    # what a table says is judged by the level that holds for it
    text = table("route", tls_ca='"/nowhere"')
    assert "has no effect" in problems_of(text)[0]
    assert "cannot be read" in problems_of(f'[delivery]\ntls = "verify"\n{text}')[0]
