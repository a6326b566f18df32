"""`angarium init`: what it writes is a configuration, and it destroys nothing."""

from __future__ import annotations

import os
import pwd
import re
import socket
import stat
import tomllib
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from angarium.cli.init import ROLES, Layout, compose
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
    text = compose(role, "relay.example.org", Layout())
    opened = re.sub(r"^# (?=\[|[a-z_]+ = )", "", text, flags=re.M)
    assert tomllib.loads(opened) != tomllib.loads(text)
    expected = {
        "bulk": ["tls.certificate", "tls.key"],
        "smarthost": ["tls.certificate", "tls.key", "route[3].auth.password_file"],
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


# ------------------------------------------------------------------ with what the configuration names


def test_one_folder_with_everything(tmp_path: Path) -> None:
    folder = tmp_path / "relay"
    result = run("--role", "smarthost", "--folder", str(folder), "--certificate", "--hostname", "relay.example.org")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    examination = examine(folder / "angarium.toml")
    assert examination.problems == ()
    config = examination.config
    assert config is not None
    assert config.node.spool == str(folder / "spool")
    assert config.node.user is None
    assert config.sendmail is not None
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {
        "angarium.toml": 0o644, "spool": 0o700, "tls": 0o750, "log": 0o750, "run": 0o755, "drop": 0o3733,
        "users": 0o640,
    }  # fmt: skip
    assert stat.S_IMODE((folder / "tls" / "key.pem").stat().st_mode) == 0o600
    assert f'angarium doctor --config "{folder}/angarium.toml"' in result.stderr
    assert f'angarium serve --config "{folder}/angarium.toml"' in result.stderr


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    arguments = ("--role", "smarthost", "--folder", str(tmp_path), "--certificate")
    assert run(*arguments).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "drop").chmod(0o2770)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "exists; --force overwrites it" in result.stderr
    assert run(*arguments, "--force").exit_code == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert stat.S_IMODE((tmp_path / "drop").stat().st_mode) == 0o2770


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")
def test_as_a_system_service_of_another_user(tmp_path: Path) -> None:
    result = run(
        "--role",
        "bulk",
        "--system",
        "--folder",
        str(tmp_path),
        "--user",
        "nobody",
        "--certificate",
        "--smtp-port",
        "2525",
    )
    assert result.exit_code == 0, result.output
    config = examine(tmp_path / "angarium.toml").config
    assert config is not None
    assert config.node.user == "nobody"
    assert config.listener[0].listen.port == 2525
    nobody = pwd.getpwnam("nobody")
    for name in ("spool", "log", "run", "drop", "drop/taken", "drop/refused"):
        assert (tmp_path / name).stat().st_uid == nobody.pw_uid, name
    for name in ("tls", "tls/key.pem", "users"):
        status = (tmp_path / name).stat()
        assert (status.st_uid, status.st_gid) == (0, nobody.pw_gid), name
    assert stat.S_IMODE((tmp_path / "tls/key.pem").stat().st_mode) == 0o640


def test_what_takes_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = run("--role", "bulk", "--system", "--folder", str(tmp_path))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_needs_a_place(tmp_path: Path) -> None:
    assert run("--role", "smarthost", "--certificate").exit_code == 2
    assert run("--role", "sandbox", "--certificate", "--folder", str(tmp_path)).exit_code == 2
