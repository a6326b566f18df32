"""`angarium init`: what it writes is a configuration, and it destroys nothing."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from angarium.cli.init import ROLES, compose
from angarium.cli.main import cli
from angarium.config.load import examine, examine_text

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["init", *arguments], prog_name="angarium")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize("role", ROLES)
def test_check_accepts_what_init_writes(role: str, tmp_path: Path) -> None:
    file = tmp_path / "angarium.toml"
    result = run("--role", role, "-o", str(file))
    assert result.exit_code == 0
    assert result.stdout == ""
    assert str(file) in result.stderr
    examination = examine(file)
    assert examination.problems == ()
    assert examination.config is not None
    assert examination.config.sandbox == (role == "sandbox")


@pytest.mark.parametrize("role", ROLES)
def test_the_parts_in_comments_are_right_but_for_what_they_say_is_missing(role: str) -> None:
    """Taken out of its comment, each table or key is one that the relay knows."""
    text = compose(role, "relay.example.org", "/spool")
    opened = re.sub(r"^# (?=\[|[a-z_]+ = )", "", text, flags=re.M)
    assert tomllib.loads(opened) != tomllib.loads(text)
    expected = {
        "bulk": ["tls.certificate", "tls.key"],
        "smarthost": ["tls.certificate", "tls.key", "listener[1].role", "route[3].auth.password_file"],
        "sandbox": ["tls.certificate", "tls.key"],
    }[role]
    found = [problem.key for problem in examine_text(opened).problems if problem.severity == "error"]
    users = {"node.user", "node.group", "admin.token_file"}  # which this machine need not have
    assert sorted(set(found) - users) == sorted(expected)


def test_the_sandbox_delivers_to_its_own_spool(tmp_path: Path) -> None:
    result = run("--role", "sandbox", "--spool", str(tmp_path / "box"))
    config = examine_text(result.stdout).config
    assert config is not None
    assert [str(route.next_hop) for route in config.route] == [f"maildir:{tmp_path}/box/sink/Maildir"]


def test_standard_output_by_default() -> None:
    result = run("--role", "bulk", "--hostname", "mta1.example.net", "--spool", "/srv/spool")
    assert result.exit_code == 0
    node = tomllib.loads(result.stdout)["node"]
    assert (node["hostname"], node["spool"]) == ("mta1.example.net", "/srv/spool")


@pytest.mark.parametrize(
    ("machine", "hostname"),
    [("Mail.Example.NET", "mail.example.net"), ("laptop", "relay.example.org"), ("laptop.", "relay.example.org")],
)
def test_the_machine_gives_its_name_if_it_is_fully_qualified(
    machine: str, hostname: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: machine)
    assert tomllib.loads(run("--role", "bulk").stdout)["node"]["hostname"] == hostname


def test_a_file_is_overwritten_with_force_only(tmp_path: Path) -> None:
    file = tmp_path / "angarium.toml"
    file.write_text("precious")
    result = run("--role", "bulk", "-o", str(file))
    assert (result.exit_code, result.stderr) == (1, f"angarium: {file} exists; --force overwrites it\n")
    assert file.read_text() == "precious"
    assert run("--role", "bulk", "--force", "-o", str(file)).exit_code == 0
    assert examine(file).config is not None


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "none" / "angarium.toml"
    result = run("--role", "bulk", "-o", str(file))
    assert (result.exit_code, result.stderr) == (1, f"angarium: {file} cannot be written: No such file or directory\n")


@pytest.mark.parametrize(
    "arguments",
    [(), ("--role", "mailbox"), ("--role", "bulk", "--hostname", 'a"b'), ("--role", "bulk", "--spool", "a\nb")],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_relative_spool_is_made_absolute() -> None:
    assert tomllib.loads(run("--role", "bulk", "--spool", "queue").stdout)["node"]["spool"] == os.path.abspath("queue")
