"""`angarium user`: log-ins of a file; a password is asked for, read or made, and never an argument."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import argon2
import pytest
from click.testing import CliRunner, Result

from angarium.cli import user as user_command
from angarium.cli.main import cli
from angarium.policy import credentials_file
from angarium.policy.credentials_file import read_credentials

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """\
[node]
hostname = "a.example"
spool = "/spool"
[[listener]]
name = "x"
listen = "127.0.0.1:99"
role = "relay"
relay_networks = ["10.0.0.0/8"]
"""
FILE = '[[credentials]]\nkind = "file"\nfile = "users"\n'


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr(credentials_file, "HASHER", quick)
    monkeypatch.setattr(credentials_file, "SCRAM_ITERATIONS", 4096)
    monkeypatch.delenv("ANGARIUM_CONFIG", raising=False)


def run(*arguments: str, said: str = "") -> Result:
    result = CliRunner().invoke(cli, arguments, input=said, prog_name="angarium")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_add_list_and_remove(tmp_path: Path) -> None:
    users = tmp_path / "users"
    file = ["--file", str(users)]
    added = run("user", "add", "alice", "--password-stdin", *file, said="correct horse\n")
    assert (added.exit_code, added.output) == (0, f"alice added to {users}\n")
    assert run("user", "add", "bob", "--password-stdin", "--no-scram", *file, said="battery").exit_code == 0
    shown = json.loads(run("user", "list", "--json", *file).output)
    assert shown == [{"log_in": "alice", "scram": True}, {"log_in": "bob", "scram": False}]
    assert run("user", "list", *file).output.split() == ["log-in", "scram", "alice", "yes", "bob", "no"]
    assert read_credentials(users).verify("alice", "correct horse")
    removed = run("user", "remove", "alice", *file)
    assert (removed.exit_code, removed.output) == (0, f"alice removed from {users}\n")
    assert list(read_credentials(users).entries) == ["bob"]


def test_another_password(tmp_path: Path) -> None:
    file = ["--file", str(tmp_path / "users")]
    run("user", "add", "alice", "--password-stdin", *file, said="old\n")
    changed = run("user", "password", "alice", "--password-stdin", *file, said="new\n")
    assert changed.exit_code == 0
    known = read_credentials(tmp_path / "users")
    assert (known.verify("alice", "new"), known.verify("alice", "old")) == (True, False)


def test_a_password_that_is_made_is_shown_once(tmp_path: Path) -> None:
    result = run("user", "add", "alice", "--generate", "--file", str(tmp_path / "users"))
    assert result.exit_code == 0
    assert len(result.stdout.strip()) == 24
    assert read_credentials(tmp_path / "users").verify("alice", result.stdout.strip())


def test_a_password_is_asked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    asked: list[str] = []

    def prompt(text: str, **options: object) -> str:
        asked.append(text)
        assert options == {"hide_input": True, "confirmation_prompt": "Once more"}
        return "typed"

    monkeypatch.setattr(user_command.sys, "stdin", Terminal())
    monkeypatch.setattr(user_command.click, "prompt", prompt)
    assert user_command._password(password_stdin=False, generate=False) == "typed"
    assert asked == ["Password"]


def test_without_a_terminal_it_says_how(tmp_path: Path) -> None:
    result = run("user", "add", "alice", "--file", str(tmp_path / "users"))
    assert result.exit_code == 2
    assert "--password-stdin or --generate" in result.output
    assert run("user", "add", "a", "--generate", "--password-stdin", "--file", str(tmp_path / "users")).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said", "why"),
    [
        (["add", "alice"], "new\n", "alice is in {file} already; angarium user password gives it another password"),
        (["password", "bob"], "new\n", "there is no log-in bob in {file}; angarium user add makes one"),
        (["add", "a b"], "new\n", "a log-in has no spaces"),
        (["add", "bob"], "\n", "a password has from 1 to 1024 octets"),
    ],
)
def test_what_will_not_do(tmp_path: Path, arguments: list[str], said: str, why: str) -> None:
    users = tmp_path / "users"
    run("user", "add", "alice", "--password-stdin", "--file", str(users), said="old\n")
    before = users.read_bytes()
    result = run("user", *arguments, "--password-stdin", "--file", str(users), said=said)
    assert result.exit_code == 1
    assert why.format(file=users) in result.output
    assert len(result.output.splitlines()) == 1
    assert users.read_bytes() == before


def test_a_log_in_that_is_not_there(tmp_path: Path) -> None:
    users = tmp_path / "users"
    run("user", "add", "alice", "--password-stdin", "--file", str(users), said="old\n")
    result = run("user", "remove", "bob", "--file", str(users))
    assert (result.exit_code, result.output) == (1, f"angarium: there is no log-in bob in {users}\n")
    assert run("user", "list", "--file", str(tmp_path / "none")).output == f"no log-ins in {tmp_path}/none\n"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = run("user", "add", "a", "--password-stdin", "--file", str(tmp_path / "none" / "users"), said="x\n")
    assert result.exit_code == 1
    assert "No such file or directory" in result.output


def test_the_file_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "angarium.toml"
    config.write_text(CONFIG + FILE)
    assert run("user", "add", "alice", "--password-stdin", "--config", str(config), said="x\n").exit_code == 0
    assert (tmp_path / "users").exists()
    config.write_text(CONFIG)
    result = run("user", "list", "--config", str(config))
    assert result.exit_code == 1
    assert 'has no [[credentials]] with kind = "file"; name one with --file' in result.output


def test_unban_names_somebody_or_everybody() -> None:
    for arguments in ([], ["192.0.2.1", "--all"]):
        result = run("user", "unban", *arguments, "--admin", "127.0.0.1:1")
        assert result.exit_code == 2
        assert "Name an address or a log-in, or give --all" in result.output


def test_a_log_in_is_the_same_in_capitals(tmp_path: Path) -> None:
    users = tmp_path / "users"
    file = ["--file", str(users)]
    assert run("user", "add", "Alice", "--password-stdin", *file, said="correct horse\n").exit_code == 0
    again = run("user", "add", "ALICE", "--password-stdin", *file, said="battery\n")
    assert (again.exit_code, "Alice is in" in again.output) == (1, True)
    assert run("user", "password", "alice", "--password-stdin", *file, said="battery\n").exit_code == 0
    assert list(read_credentials(users).entries) == ["Alice"]
    assert read_credentials(users).verify("alice", "battery")
    assert run("user", "remove", "aLICE", *file).exit_code == 0
    assert list(read_credentials(users).entries) == []
