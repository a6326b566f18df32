"""A route's log-in: what is wrong with it is said at its key, and nothing secret is ever said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from angarium.config.load import examine_text
from angarium.config.model import dump, load_dump
from angarium.config.secret import Secret, read_secret, read_secret_file

if TYPE_CHECKING:
    from pathlib import Path

BASE = """\
[node]
hostname = "a.example"
spool = "/spool"
[[listener]]
name = "x"
listen = "127.0.0.1:99"
role = "relay"
relay_networks = ["10.0.0.0/8"]
[[route]]
recipients = ["*"]
"""
OAUTH2 = 'token_url = "https://t.example/", client_id = "c", client_secret = "s3cret"'


def problems(auth: str, next_hop: str = "smtps://h.example", more: str = "") -> list[str]:
    text = f'{BASE}next_hop = "{next_hop}"\nauth = {{ {auth} }}\n{more}'
    found = [f"{problem.key}: {problem.message}" for problem in examine_text(text).problems]
    assert not any("s3cret" in line for line in found)
    return found


@pytest.mark.parametrize(
    "auth",
    [
        'user = "u", password = "s3cret"',
        'user = "u", password_env = "SECRET"',
        'user = "u", password = "s3cret", mechanism = "CRAM-MD5", plaintext = true',
        f'user = "u", oauth2 = {{ {OAUTH2} }}',
        f'user = "u", mechanism = "XOAUTH2", oauth2 = {{ {OAUTH2}, scope = "a b" }}',
        f'user = "u", oauth2 = {{ {OAUTH2}, grant = "refresh_token", refresh_token = "s3cret" }}',
    ],
)
def test_what_will_do(auth: str) -> None:
    assert problems(auth) == []


@pytest.mark.parametrize(
    ("auth", "found"),
    [
        ('password = "s3cret"', "route[0].auth.user: is required and not there"),
        (
            'user = "u"',
            "route[0].auth: has nothing to log in with; write one of password, password_file, password_env, oauth2",
        ),
        (
            'user = "u", password = "s3cret", password_env = "X"',
            "route[0].auth.password_env: stands beside password: one of the two is enough",
        ),
        (
            f'user = "u", password = "s3cret", oauth2 = {{ {OAUTH2} }}',
            "route[0].auth.password: stands beside oauth2: a log-in has one of the two",
        ),
        ('user = "u", password = "s3cret", mechanism = "XOAUTH2"', "route[0].auth.mechanism: XOAUTH2 wants oauth2"),
        (
            f'user = "u", oauth2 = {{ {OAUTH2} }}, mechanism = "PLAIN"',
            "route[0].auth.mechanism: PLAIN wants a password",
        ),
        (
            f'user = "u", oauth2 = {{ {OAUTH2}, grant = "refresh_token" }}',
            "route[0].auth.oauth2.grant: wants one of refresh_token, refresh_token_file, refresh_token_env",
        ),
        (
            f'user = "u", oauth2 = {{ {OAUTH2}, refresh_token = "s3cret" }}',
            'route[0].auth.oauth2.refresh_token: is for grant = "refresh_token"',
        ),
        (
            'user = "u", oauth2 = { token_url = "https://t.example/", client_id = "c" }',
            "route[0].auth.oauth2.grant: wants one of client_secret, client_secret_file, client_secret_env",
        ),
        (
            'user = "u", oauth2 = { token_url = "http://t.example/", client_id = "c", client_secret = "s3cret" }',
            "route[0].auth.oauth2.token_url: sends the client's secret over the network in plaintext; it begins with "
            "https://",
        ),
        (
            'user = "u", oauth2 = { token_url = "t.example", client_id = "c", client_secret = "s3cret" }',
            'route[0].auth.oauth2.token_url: expected a URL such as "https://login.example.org/oauth2/token"',
        ),
        (
            'user = "u", password_file = "/none"',
            "route[0].auth.password_file: /none cannot be read: No such file or directory",
        ),
        ('user = "u", password = 12345', "route[0].auth.password: expected a string, found something else"),
        (
            'user = "u", password = "s3cret\\n"',
            "route[0].auth.password: expected a text that is not empty and has no line ends",
        ),
    ],
)
def test_what_will_not(auth: str, found: str) -> None:
    assert problems(auth) == [found]


@pytest.mark.parametrize("next_hop", ["mx", "discard:", "maildir:/m"])
def test_a_log_in_is_for_a_host_that_is_named(next_hop: str) -> None:
    (found,) = problems('user = "u", password = "s3cret"', next_hop)
    assert found.startswith("route[0].auth: a log-in is for a next hop that is named")


def test_a_log_in_that_would_never_be_sent() -> None:
    off = '[delivery]\ntls = "none"\n'
    (found,) = problems('user = "u", password = "s3cret"', "smtp://h.example", off)
    assert found.startswith("route[0].auth: would never be sent")
    assert problems('user = "u", password = "s3cret", plaintext = true', "smtp://h.example", off) == []
    assert problems('user = "u", password = "s3cret"', "smtps://h.example", off) == []


def test_a_file_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    file.chmod(0o600)
    assert problems(f'user = "u", password_file = "{file}"') == []
    file.chmod(0o644)
    (found,) = problems(f'user = "u", password_file = "{file}"')
    assert found.endswith("can be read by every user of this machine")


@pytest.mark.parametrize(
    ("octets", "why"), [(b"", "is not one line"), (b"a\nb\n", "is not one line"), (b"\xff", "is not UTF-8")]
)
def test_a_file_that_holds_no_secret(tmp_path: Path, octets: bytes, why: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(octets)
    with pytest.raises(ValueError, match=why):
        read_secret_file(str(file))


def test_where_a_secret_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("of the file\r\n")
    monkeypatch.setenv("OF_THE_ENVIRONMENT", "of the environment")
    assert read_secret(Secret("inline"), None, None) == "inline"
    assert read_secret(None, str(file), None) == "of the file"
    assert read_secret(None, None, "OF_THE_ENVIRONMENT") == "of the environment"
    with pytest.raises(ValueError, match="NOWHERE is not set"):
        read_secret(None, None, "NOWHERE")


def test_a_configuration_is_shown_without_its_secrets_and_reaches_the_workers_with_them() -> None:
    config = examine_text(BASE + f'next_hop = "smtps://h"\nauth = {{ user = "u", oauth2 = {{ {OAUTH2} }} }}\n').config
    assert config is not None
    assert "s3cret" not in f"{config} {config!r}"
    assert load_dump(dump(config)) == config
    auth = config.route[0].auth
    assert auth is not None
    assert auth.oauth2 is not None
    assert auth.oauth2.client_secret == Secret("s3cret")
    assert "s3cret" not in str(msgspec.structs.replace(auth, password=Secret("s3cret")))


def test_in_a_sandbox_the_token_host_is_on_this_machine() -> None:
    text = (
        BASE.replace("127.0.0.1:99", "127.0.0.1:2525")
        + f'next_hop = "smtps://127.0.0.1"\nauth = {{ user = "u", oauth2 = {{ {OAUTH2} }} }}\n'
    )
    found = [problem.message for problem in examine_text(text, sandbox=True).problems]
    assert found == ["t.example is not a loopback address, and this is a sandbox"]
