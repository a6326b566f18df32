"""`angarium log`: what each option leaves of a log with rotated and compressed files."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from angarium.cli.log import log
from angarium.outcome.event_keeping import compress, rotate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPLY = {"code": 250, "enhanced": "2.0.0", "text": "ok"}


def event(number: int, name: str, **fields: Any) -> bytes:
    stamp = f"2026-11-26T{number:02}:00:00.000000Z"
    return (
        json.dumps({"time": stamp, "event": name} | fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    )


LINES = [
    event(0, "log_opened", schema=1, release="1", node="n", previous=""),
    event(
        1,
        "reception",
        id="0SAQS2V780G00",
        reverse_path="ada@example.org",
        recipients=["bob@Example.NET", "eve@example.com"],
        listener="relay",
        client="192.0.2.1",
        tenant="shop",
    ),
    event(
        2,
        "delivery",
        id="0SAQS2V780G00",
        reverse_path="ada@example.org",
        recipient="bob@Example.NET",
        tenant="shop",
        site="mx.example.net",
        reply=REPLY,
        **{"class": "delivered"},
    ),
    event(
        3,
        "deferral",
        id="0SAQS2V780G00",
        reverse_path="ada@example.org",
        recipient="eve@example.com",
        tenant="shop",
        site="mx.example.com",
        reply=REPLY | {"code": 451, "text": "later\x1b[2J"},
        **{"class": "deferred"},
    ),
    event(4, "rejection", client="192.0.2.9", tenant="", reverse_path="x@bad.test", recipient="", reply=REPLY),
    event(5, "notification", id="0SAQS2V780G01", about="0SAQS2V780G00", **{"class": "failed"}),
    event(
        6,
        "reception",
        id="0SAQS2V780G02",
        reverse_path="jörg@example.org",
        recipients=["käthe@bücher.test"],
        listener="submission",
        client="192.0.2.1",
        tenant="bücher",
    ),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three files: compressed, rotated, and the one that is written, with a torn line in the second."""
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"".join(LINES[:3]))
    compress(rotate(file, 1795694400.0), "zstd")
    file.write_bytes(LINES[3] + b'{"time":"2026-11\n' + LINES[4])
    rotate(file, 1795694401.0)
    file.write_bytes(b"".join(LINES[5:]))
    return file


@pytest.fixture
def run(path: Path) -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(log, ["--file", str(path), *arguments])


def hours(result: Result) -> list[int]:
    assert result.exit_code == 0, result.output
    return [int(json.loads(line)["time"][11:13]) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--event", "reception"], [1, 6]),
        (["--event", "reception", "--event", "rejection"], [1, 4, 6]),
        (["--id", "0SAQS2V780G00"], [1, 2, 3, 5]),  # what is about it, too
        (["--id", "0SAQS2V780G01", "--id", "0SAQS2V780G02"], [5, 6]),
        (["--id", "0SAQS2V780G0"], []),
        (["--address", "BOB@example.net"], [1, 2]),
        (["--address", "ob@example.net"], []),
        (["--address", "käthe@bücher.test"], [6]),
        (["--domain", "example.net"], [1, 2]),
        (["--domain", "EXAMPLE.org"], [1, 2, 3, 6]),
        (["--domain", "ample.net"], []),
        (["--domain", "bücher.test"], [6]),
        (["--tenant", "shop"], [1, 2, 3]),
        (["--tenant", "bücher"], [6]),
        (["--listener", "relay"], [1]),
        (["--class", "deferred", "--class", "delivered"], [2, 3]),
        (["--site", "mx.example.com"], [3]),
        (["--client", "192.0.2.1", "--event", "reception", "--tenant", "shop"], [1]),
        (["--since", "2026-11-26T02:00:00Z", "--until", "2026-11-26T04:30:00Z"], [2, 3, 4]),
        (["--since", "2026-11-26T06:00+02:00"], [4, 5, 6]),
        (["--until", "2026-11-26 01:00"], [0, 1]),
        (["--since", "2026-11-27"], []),
        (["--last", "2"], [5, 6]),
        (["--event", "reception", "--last", "1"], [6]),
    ],
)
def test_what_is_asked_for(run: Callable[..., Result], arguments: list[str], wanted: list[int]) -> None:
    assert hours(run("--json", *arguments)) == wanted


def test_without_a_filter_the_lines_are_those_of_the_log(run: Callable[..., Result]) -> None:
    result = run("--json")
    assert result.stdout_bytes == b"".join(LINES[:4]) + b'{"time":"2026-11\n' + b"".join(LINES[4:])


def test_in_words(run: Callable[..., Result]) -> None:
    result = run("--event", "deferral")
    assert result.stdout == (
        "2026-11-26 03:00:00.000 deferral 0SAQS2V780G00 from <ada@example.org> to <eve@example.com> "
        "said 451 2.0.0 later\\x1b[2J tenant=shop\n"
    )
    every = run()
    assert len(every.stdout.splitlines()) == len(LINES)
    assert every.stderr == "1 lines are no events, and passed over\n"


def test_a_time_may_be_so_long_ago(path: Path, run: Callable[..., Result]) -> None:
    now = datetime.now(UTC)
    with path.open("ab") as file:
        for minutes in (90, 30):
            stamp = (now - timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            made = {"time": stamp, "event": "release", "id": "x", "by": str(minutes)}
            file.write(json.dumps(made, separators=(",", ":")).encode() + b"\n")
    result = run("--json", "--since", "1h")
    assert [json.loads(line).get("by") for line in result.stdout.splitlines() if b"release" in line.encode()] == ["30"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--since", "yesterday"], 2, "neither a time"),
        (["--event", "delivry"], 2, "delivry"),
        (["--last", "0"], 2, "0"),
    ],
)
def test_wrong_usage(run: Callable[..., Result], arguments: list[str], status: int, says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == status
    assert says in result.output


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(log, ["--file", str(tmp_path / "none.jsonl")])
    assert (result.exit_code, result.stderr) == (1, f"angarium: {tmp_path / 'none.jsonl'}: there is no event log\n")


def test_the_log_of_the_configuration(tmp_path: Path, path: Path) -> None:
    config = tmp_path / "angarium.toml"
    listener = '[[listener]]\nname = "r"\nlisten = "127.0.0.1:25"\nrole = "relay"\nrelay_networks = ["127.0.0.0/8"]\n'
    node = f'[node]\nhostname = "a.example"\nspool = "{tmp_path}"\n'
    config.write_text(node + listener + f'[events]\nfile = "{path}"\n')
    result = CliRunner().invoke(log, ["--config", str(config), "--json", "--listener", "relay"])
    assert hours(result) == [1]
    config.write_text(node + listener)
    result = CliRunner().invoke(log, ["--config", str(config)])
    assert (result.exit_code, result.stderr) == (1, "angarium: there is no event log: events.file is not set\n")


def test_the_schema_is_printed() -> None:
    result = CliRunner().invoke(log, ["--schema"])
    Draft202012Validator.check_schema(json.loads(result.stdout))
