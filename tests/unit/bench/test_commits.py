"""The bench of one commit beside another: a run beside itself, and its report. The figures mean nothing."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from bench import commits
from bench.load.relays import RelayFailure

if TYPE_CHECKING:
    from pathlib import Path


def test_a_checkout_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "result.json"
    tree = tmp_path / "checkout"
    (tree / ".venv/bin").mkdir(parents=True)
    command = tree / ".venv/bin/angarium"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m angarium.cli.main "$@"\n')
    command.chmod(0o755)
    monkeypatch.setattr(commits, "HERE", tree)
    options = ["run", str(tree), "--pairs", "1", "--seconds", "2.5", "--sessions", "3", "--nice", "0"]
    given = commits.parse_arguments([*options, "--spool", str(tmp_path), "--out", str(out)])
    assert commits.run(given) == 0
    result = json.loads(out.read_text())
    assert [(one["pair"], one["tree"]) for one in result["runs"]] == [
        (0, "other"), (0, "this"), (1, "this"), (1, "other"),
    ]  # fmt: skip
    assert all(one["accepted"] > 0 and one["scrapes"] > 0 for one in result["runs"])
    assert "| this / other, by pairs |" in out.with_suffix(".md").read_text()


def test_a_run_that_fails_is_said(tmp_path: Path) -> None:
    given = commits.parse_arguments(["run", str(tmp_path), "--spool", str(tmp_path)])
    (tmp_path / ".venv/bin").mkdir(parents=True)
    command = tmp_path / ".venv/bin/angarium"
    command.write_text("#!/bin/sh\necho the disk is gone >&2\nexit 1\n")
    command.chmod(0o755)
    with pytest.raises(RelayFailure, match="the disk is gone"):
        commits.measure(tmp_path, given)
