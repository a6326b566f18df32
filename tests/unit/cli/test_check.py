"""`angarium check` and the frame that all commands share."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from angarium import __version__
from angarium.cli.main import COMMANDS, DEFAULT_CONFIG, cli, config_option, fail, open_config

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """[node]
hostname = "relay.example.org"
spool = "/var/spool/angarium"
workers = 2
[[listener]]
name = "relay"
listen = "127.0.0.1:25"
role = "relay"
relay_networks = ["10.0.0.0/8"]
"""


@pytest.fixture(autouse=True)
def _no_configuration_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANGARIUM_CONFIG", raising=False)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments, prog_name="angarium")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def written(folder: Path, text: str) -> str:
    file = folder / "angarium.toml"
    file.write_text(text)
    return str(file)


def test_a_good_configuration_is_one_line(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD)
    result = run("check", "--config", file)
    assert result.exit_code == 0
    (line,) = result.output.splitlines()
    assert line.startswith(f"{file}: valid: relay.example.org: relay on 127.0.0.1:25; 0 routes, 2 workers, 8 shards, ")


def test_every_problem_is_a_line(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD + 'tls = "startls"\n[queue]\nshard = 3\n[limits]\nrecipients = 5\n')
    result = run("check", "--config", file)
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f'{file}:10:1: listener[0].tls: expected one of "none", "starttls", "implicit", found the string "startls" '
        '(did you mean "starttls"?)',
        f'{file}:12:1: queue.shard: unknown key in [queue] (did you mean "shards"?)',
        f"{file}:14:1: limits.recipients: warning: 5 are fewer than the 100 a client may count on "
        "(RFC 5321 §4.5.3.1.8)",
    ]


def test_a_warning_is_not_a_failure(tmp_path: Path) -> None:
    result = run("check", "--config", written(tmp_path, GOOD + "[limits]\nrecipients = 5\n"))
    assert result.exit_code == 0
    assert [": warning: " in line for line in result.output.splitlines()] == [True, False]


def test_json(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD + "[queue]\nshard = 3\n")
    result = run("check", "--config", file, "--json")
    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "file": file,
        "valid": False,
        "problems": [
            {
                "file": file,
                "line": 11,
                "column": 1,
                "key": "queue.shard",
                "message": "unknown key in [queue]",
                "suggestion": "shards",
                "severity": "error",
            }
        ],
    }
    result = run("check", "--json", "--config", written(tmp_path, GOOD))
    assert (result.exit_code, json.loads(result.output)) == (0, {"file": file, "valid": True, "problems": []})


def test_check_as_a_sandbox(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD)
    result = run("check", "--sandbox", "--config", file)
    assert result.exit_code == 1
    assert 'a sandbox needs a route for "*"' in result.output
    file = written(tmp_path, GOOD + '[[route]]\nrecipients = ["*"]\nnext_hop = "discard:"\n')
    result = run("check", "--sandbox", "--config", file)
    assert result.exit_code == 0
    assert ": valid (sandbox): " in result.output


def test_the_file_comes_from_the_option_or_the_variable_or_its_usual_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, GOOD)
    monkeypatch.setenv("ANGARIUM_CONFIG", file)
    assert run("check").output.startswith(f"{file}: valid")
    other = str(tmp_path / "other.toml")
    result = run("check", "--config", other)
    assert (result.exit_code, result.output) == (1, f"{other}: cannot be read: No such file or directory\n")
    monkeypatch.delenv("ANGARIUM_CONFIG")
    assert json.loads(run("check", "--json").output)["file"] == DEFAULT_CONFIG == "/etc/angarium/angarium.toml"


# --- the frame


@click.command()
@config_option
def greet(config: str | None) -> None:
    if config is None:
        fail("there is nobody to greet")
    click.echo(f"hello {open_config(config).node.hostname}")


def test_a_command_that_needs_the_configuration(tmp_path: Path) -> None:
    result = CliRunner().invoke(greet, ["--config", written(tmp_path, GOOD)])
    assert (result.exit_code, result.output) == (0, "hello relay.example.org\n")


def test_a_failure_is_one_line_and_status_1(tmp_path: Path) -> None:
    result = CliRunner().invoke(greet, [])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "angarium: there is nobody to greet\n")
    file = written(tmp_path, GOOD + "a = 1\nb = 2\n[limits]\nrecipients = 1\n")
    result = CliRunner().invoke(greet, ["--config", file])
    assert result.exit_code == 1
    assert result.stderr.startswith(
        f"angarium: {file}:10:1: listener[0].a: unknown key in [listener[0]]; its keys are "
    )
    assert result.stderr.endswith('; 1 more, see "angarium check"\n')
    assert result.stderr.count("\n") == 1


def test_wrong_usage_is_status_2() -> None:
    assert run("chek").exit_code == 2
    assert run("check", "--colour").exit_code == 2
    assert run("check", "extra").exit_code == 2


def test_version() -> None:
    assert run("--version").output == f"angarium {__version__}\n"


def test_help_lists_every_command_in_one_line() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name, entry in COMMANDS.items():
        assert any(line.split() == [name, *entry.summary.split()] for line in result.output.splitlines())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_can_be_loaded_and_explains_itself(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: angarium {name}")


def test_help_imports_no_command() -> None:
    program = (
        "import sys\nfrom angarium.cli.main import cli\n"
        "cli(['--help'], prog_name='angarium', standalone_mode=False)\n"
        "print(sorted(name for name in sys.modules if name.startswith('angarium') or name in ('msgspec', 'asyncio')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "['angarium', 'angarium.cli', 'angarium.cli.main']"
