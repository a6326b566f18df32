"""[[credentials]], [access] and the mechanisms of listeners: what is wrong is said at its key."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from angarium.config.credentials import Access, Credentials
from angarium.config.load import examine_text
from angarium.config.model import dump, load_dump
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

BASE = """\
[node]
hostname = "a.example"
spool = "/spool"
"""
LISTENER = '[[listener]]\nname = "submission"\nlisten = "127.0.0.1:587"\nrole = "submission"\n'
URL = 'url = "https://login.example.org/check"'


def problems(credentials: str, *, listener: str = 'tls = "none"', more: str = "") -> list[str]:
    """What is found, without what the listener of every text here lacks."""
    text = f"{BASE}{LISTENER}{listener}\n[[credentials]]\n{credentials}\n{more}"
    found = [f"{problem.key}: {problem.message}" for problem in examine_text(text).problems]
    assert not any("s3cret" in line for line in found)
    return [line for line in found if not line.startswith("listener")]


@pytest.mark.parametrize(
    "credentials",
    [
        'kind = "dovecot"\nsocket = "/dev/null"\ntimeout = "2s"',
        f'kind = "http"\n{URL}\ntoken = "s3cret"',
        'kind = "http"\nurl = "http://127.0.0.1:8080/"',
        'kind = "oauth2"\nintrospection_url = "https://login.example.org/i"\nclient_id = "a"\nclient_secret = "s3cret"',
        'kind = "oauth2"\njwks_url = "https://login.example.org/keys"\naudience = "mail"',
    ],
)
def test_what_will_do(credentials: str) -> None:
    assert problems(credentials) == []


@pytest.mark.skipif(importlib.util.find_spec("ldap3") is None, reason="ldap3 is not installed")
@pytest.mark.parametrize(
    "settings",
    [
        'user_dn = "uid={log_in},dc=example"',
        'base = "dc=example"\nfilter = "(mail={log_in})"\nbind_dn = "cn=relay"\nbind_password = "s3cret"',
        'base = "dc=example"',
    ],
)
def test_what_will_do_of_ldap(settings: str) -> None:
    assert problems(f'kind = "ldap"\nurl = "ldaps://ldap.example.org"\n{settings}') == []


@pytest.mark.parametrize(
    ("credentials", "found"),
    [
        ('kind = "files"', 'credentials[0].kind: expected one of "file", "dovecot", "http", "ldap", "oauth2"'),
        ('kind = "file"', 'credentials[0].file: is required with kind = "file"'),
        ('kind = "dovecot"', 'credentials[0].socket: is required with kind = "dovecot"'),
        ('kind = "http"', 'credentials[0].url: is required with kind = "http"'),
        ('kind = "file"\nfile = "/nonexistent/users"', "credentials[0].file: /nonexistent/users is not there yet"),
        ('kind = "file"\nfile = "/dev/null/users"', "credentials[0].file: /dev/null/users cannot be read"),
        ('kind = "dovecot"\nsocket = "/nonexistent"', "credentials[0].socket: /nonexistent is not there now"),
        (
            'kind = "dovecot"\nsocket = "/dev/null"\nscope = "a"',
            "credentials[0].scope: is for kind oauth2, and this is dovecot",
        ),
        (f'kind = "http"\n{URL}\nbase = "dc=a"', "credentials[0].base: is for kind ldap, and this is http"),
        (
            'kind = "http"\nurl = "http://login.example.org"',
            "credentials[0].url: sends secrets over the network in plain",
        ),
        ('kind = "http"\nurl = "login"', "credentials[0].url: expected a URL"),
        ('kind = "http"\nurl = "https://u:p@h/"', "credentials[0].url: expected a URL"),
        (
            f'kind = "http"\n{URL}\ntoken = "s3cret"\ntoken_env = "A"',
            "credentials[0].token_env: stands beside token: one of the two is enough",
        ),
        (
            f'kind = "http"\n{URL}\ntoken_file = "/nonexistent"',
            "credentials[0].token_file: /nonexistent cannot be read",
        ),
        (f'kind = "http"\n{URL}\nca = "/nonexistent"', "credentials[0].ca: /nonexistent cannot be read"),
        ('kind = "ldap"\nurl = "ldap://ldap.example.org"\nbase = "a"', "credentials[0].url: sends passwords over"),
        ('kind = "ldap"\nurl = "https://a"\nbase = "a"', "credentials[0].url: expected a URL such as"),
        ('kind = "ldap"\nurl = "ldaps://a"', "credentials[0]: wants either user_dn"),
        ('kind = "ldap"\nurl = "ldaps://a"\nuser_dn = "uid=me"', "credentials[0].user_dn: has no {log_in} in it"),
        (
            'kind = "ldap"\nurl = "ldaps://a"\nbase = "a"\nbind_dn = "a"',
            "credentials[0].bind_dn: wants bind_password, bind_password_file, bind_password_env beside it",
        ),
        (
            'kind = "ldap"\nurl = "ldaps://a"\nbase = "a"\nbind_password = "s3cret"',
            "credentials[0].bind_password: wants bind_dn beside it",
        ),
        ('kind = "oauth2"', "credentials[0]: wants one of introspection_url, jwks_file, jwks_url"),
        (
            'kind = "oauth2"\njwks_file = "/a"\njwks_url = "https://a"',
            "credentials[0].jwks_url: wants one of introspection_url, jwks_file, jwks_url",
        ),
        ('kind = "oauth2"\njwks_file = "/nonexistent"', "credentials[0].jwks_file: /nonexistent cannot be read"),
        (
            'kind = "oauth2"\njwks_url = "https://a"',
            "credentials[0].audience: is not set: a token that the same server",
        ),
        (
            'kind = "oauth2"\njwks_url = "https://a"\naudience = "a"\nclient_id = "c"',
            "credentials[0].client_id: is for introspection_url",
        ),
        (
            'kind = "oauth2"\nintrospection_url = "https://a"\nclient_secret = "s3cret"',
            "credentials[0].client_secret: wants client_id beside it",
        ),
    ],
)
def test_what_will_not_do(credentials: str, found: str) -> None:
    said = problems(credentials)
    assert any(line.startswith(found) for line in said), said


def test_a_directory_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (said,) = problems('kind = "ldap"\nurl = "ldaps://a"\nbase = "a"')
    assert said == 'credentials[0].kind: "ldap" needs ldap3, which is not installed: pip install "angarium[ldap]"'


def test_a_file_that_others_may_read(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.touch(mode=0o644)
    (said,) = problems(f'kind = "file"\nfile = "{users}"')
    assert said.endswith("can be read by every user: who reads it can guess passwords at leisure")
    users.chmod(0o600)
    assert problems(f'kind = "file"\nfile = "{users}"') == []


@pytest.mark.parametrize(
    ("access", "found"),
    [
        ('delay = "1m"', "access.delay: the first delay, 1m, is longer than the longest, 30s"),
        ('trusted_networks = ["0.0.0.0/0"]', "access.trusted_networks: every IPv4 address in the world may guess"),
        (
            'trusted_networks = ["::/1", "8000::/1"]',
            "access.trusted_networks: every IPv6 address in the world may guess",
        ),
        ("verifiers = 0", "access.verifiers: must be at least 1"),
        ("failures = 3", "access.failures: unknown key in [access]"),
    ],
)
def test_access(access: str, found: str) -> None:
    said = problems('kind = "dovecot"\nsocket = "/dev/null"', more=f"[access]\n{access}\n")
    assert any(line.startswith(found) for line in said), said


# ------------------------------------------------------------------ listeners


def of_listener(listener: str, credentials: str = "", tls: bool = True) -> list[str]:
    """What is found of the listener; a [tls] section whose files are not there is another matter."""
    section = '[tls]\ncertificate = "/nonexistent"\nkey = "/nonexistent"\n' if tls else ""
    found = examine_text(f"{BASE}{section}{LISTENER}{listener}\n{credentials}").problems
    return [f"{problem.key}: {problem.message}" for problem in found if problem.key.startswith("listener")]


DOVECOT = '[[credentials]]\nkind = "dovecot"\nsocket = "/dev/null"\n'
USERS = '[[credentials]]\nkind = "file"\nfile = "/dev/null"\n'
TOKENS = '[[credentials]]\nkind = "oauth2"\njwks_url = "https://a"\naudience = "a"\n'


@pytest.mark.parametrize(
    ("listener", "credentials"),
    [
        ("", USERS),
        ("", DOVECOT),
        ("", TOKENS),
        ('mechanisms = ["PLAIN", "SCRAM-SHA-256"]', USERS),
        ('mechanisms = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "XOAUTH2"]', USERS + TOKENS),
        ('mechanisms = ["PLAIN", "SCRAM-SHA-256"]', DOVECOT),
        ('mechanisms = ["EXTERNAL"]\nclient_ca = "{ca}"', ""),
    ],
)
def test_a_listener_that_will_do(tmp_path: Path, listener: str, credentials: str) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(Authority("Clients").pem)
    assert of_listener(listener.replace("{ca}", str(authority)), credentials) == []


@pytest.mark.parametrize(
    ("listener", "credentials", "found"),
    [
        ("", "", "listener[0].role: there is nobody to verify log-ins"),
        ('mechanisms = ["PLAIN"]', "", "listener[0].mechanisms: there is nobody to verify log-ins"),
        ('mechanisms = ["EXTERNAL"]', USERS, "listener[0].mechanisms[0]: EXTERNAL needs client_ca"),
        ('mechanisms = ["PLAN"]', USERS, 'listener[0].mechanisms[0]: expected one of "SCRAM-SHA-256-PLUS"'),
        ('mechanisms = ["SCRAM-SHA-256"]', TOKENS, "listener[0].mechanisms[0]: SCRAM-SHA-256 needs [[credentials]]"),
        (
            'mechanisms = ["PLAIN"]',
            TOKENS,
            "listener[0].mechanisms[0]: PLAIN needs [[credentials]] that know passwords",
        ),
        (
            'mechanisms = ["XOAUTH2"]',
            USERS,
            'listener[0].mechanisms[0]: XOAUTH2 needs [[credentials]] with kind = "oauth2"',
        ),
        (
            'mechanisms = ["SCRAM-SHA-256-PLUS"]',
            USERS,
            "listener[0].mechanisms: clients that cannot bind a log-in to TLS",
        ),
        ('tls = "none"', USERS, "listener[0].role: a log-in is offered under TLS only"),
        ('auth = "any"', USERS, 'listener[0].auth: "any" accepts every log-in'),
        ('auth = "any"\nmechanisms = ["PLAIN"]', USERS, "listener[0].mechanisms: has no effect with auth"),
    ],
)
def test_a_listener_that_will_not_do(listener: str, credentials: str, found: str) -> None:
    said = of_listener(listener, credentials)
    assert any(line.startswith(found) for line in said), said


def test_credentials_for_nobody() -> None:
    text = f'{BASE}[[listener]]\nname = "x"\nlisten = "127.0.0.1:25"\nrole = "relay"\nrelay_networks = ["10.0.0.0/8"]\n'
    (problem,) = examine_text(text + DOVECOT).problems
    assert (problem.severity, problem.message) == (
        "warning",
        'nobody can log in: no listener has role = "submission" or mechanisms',
    )


def test_it_travels_to_the_processes() -> None:
    text = f'{BASE}[[listener]]\nname = "x"\nlisten = "127.0.0.1:25"\nrole = "relay"\nrelay_networks = ["10.0.0.0/8"]\n'
    text += '[[credentials]]\nkind = "http"\nurl = "https://a"\ntoken = "s3cret"\n[access]\nban = "1h"\n'
    config = examine_text(text).config
    assert config is not None
    assert load_dump(dump(config)) == config
    assert config.access == Access(ban_s=3600.0)
    (one,) = config.credentials
    assert isinstance(one, Credentials)
    assert one.token is not None
    assert "s3cret" not in repr(one)
