"""The bench that counts instructions: its driver with a real relay, its counting with a real valgrind, its report."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bench import instructions
from bench.load.relays import RelayFailure

if TYPE_CHECKING:
    from pathlib import Path


def phases(a_second: int, a_message: int) -> dict[str, Any]:
    """Of a relay that does so much each second and for each of 1,000 messages."""
    return {
        "idle": {"seconds": 10.0, "instructions": {"worker": 10 * a_second, "events": 0}},
        "load": {"seconds": 4.0, "instructions": {"worker": 4 * a_second + 1000 * a_message, "events": 0}},
    }


def options(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(spool=tmp_path, sessions=3, profiles=None)


def checkout(tmp_path: Path) -> Path:
    tree = tmp_path / "checkout"
    (tree / ".venv/bin").mkdir(parents=True)
    python = tree / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return tree


def test_what_is_done_each_second_is_not_charged_to_messages() -> None:
    assert instructions.each_message(phases(3_000_000, 40_000), "worker", 1000) == pytest.approx(40_000)
    assert instructions.each_message(phases(3_000_000, 40_000), "events", 1000) == 0


def test_the_driver_takes_a_relay_through_its_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "WARM_UP", 5)
    monkeypatch.setattr(instructions, "SETTLE_S", 0.1)
    found = instructions.drive(checkout(tmp_path), options(tmp_path), messages=20, idle_s=0.5, roles=())
    assert list(found) == ["ready", "idle", "load"]
    assert found["idle"]["seconds"] >= 0.5
    assert (found["idle"]["received"], found["load"]["received"]) == (5, 25)


def test_a_relay_that_does_not_start_is_said(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    (tree / ".venv/bin/python").write_text("#!/bin/sh\necho the disk is gone >&2\nexit 1\n")
    with pytest.raises(RelayFailure, match="the disk is gone"):
        instructions.drive(tree, options(tmp_path), messages=0, idle_s=0.1, roles=())


def test_the_processes_of_these_roles_are_counted_and_no_others(tmp_path: Path) -> None:
    said = tmp_path / "said"
    said.write_text('#!/bin/sh\necho "$@"\n')
    said.chmod(0o755)
    made = instructions.shim(tmp_path, said, ["worker"])
    words = made.read_text()
    assert f"--callgrind-out-file={tmp_path}/worker.out" in words
    done = subprocess.run(
        [made, "-m", "angarium.app.process", "admin"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "-m angarium.app.process admin\n"


@pytest.mark.skipif(shutil.which("callgrind_control") is None, reason="valgrind is not installed")
def test_instructions_are_those_since_the_dump_before(tmp_path: Path) -> None:
    out = tmp_path / "worker.out"
    loop = "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; echo done; read line; read line"
    with subprocess.Popen(
        ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", "sh", "-c", loop],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"done\n"
        counted = instructions.dump(tmp_path, "worker", 1)
        since = instructions.dump(tmp_path, "worker", 2)
        process.stdin.close()
    assert counted > 1_000_000 > since
    assert instructions.dump(tmp_path, "worker", 3) == 0  # it has ended


def test_the_report_sets_one_beside_the_other() -> None:
    result = {
        "options": {"messages": 1000, "repetitions": 2, "sessions": 20},
        "machine": {"cores": 2, "cpu": "a processor"},
        "commits": {"this": "aaaaaaa", "other": "bbbbbbb"},
        "runs": [
            {"tree": tree, "instructions": {"worker": count, "events": 0.0}, "idle_cores": 0.02}
            for tree, counts in (("this", (41_200, 41_400)), ("other", (40_000, 40_000)))
            for count in counts
        ],
    }
    report = instructions.render(json.loads(json.dumps(result)))
    assert "| this: aaaaaaa | 41,300 (41,200 to 41,400) | 0 (0 to 0) |" in report
    assert "| this / other | 103.2% | – | 103.2% | 100.0% |" in report
