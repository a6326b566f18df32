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


def test_pairs_are_set_beside_each_other() -> None:
    runs = [
        {"pair": pair, "tree": tree, "rate": rate, "relay_cpu_us": 50.0, "scrapes": 7}
        for pair, rates in enumerate(((1.0, 9.0), (110.0, 100.0), (90.0, 100.0), (130.0, 100.0)))
        for tree, rate in zip(("this", "other"), rates, strict=True)
    ]
    result = {
        "options": {"sessions": 3, "pairs": 3, "seconds": 6.0},
        "machine": {"cores": 2, "cpu": "a processor", "load": 0.5},
        "commits": {"this": "aaaaaaa", "other": "bbbbbbb"},
        "runs": runs,
    }
    report = commits.render(result)
    assert "| this / other, by pairs | 110.0% (90.0% to 130.0%) | 100.0% (100.0% to 100.0%) |  |" in report
    assert "| the same, mean ± standard error | 110.0% ± 11.5% | 100.0% ± 0.0% |  |" in report  # without the warm-up


def test_a_run_that_fails_is_said(tmp_path: Path) -> None:
    given = commits.parse_arguments(["run", str(tmp_path), "--spool", str(tmp_path)])
    (tmp_path / ".venv/bin").mkdir(parents=True)
    command = tmp_path / ".venv/bin/angarium"
    command.write_text("#!/bin/sh\necho the disk is gone >&2\nexit 1\n")
    command.chmod(0o755)
    with pytest.raises(RelayFailure, match="the disk is gone"):
        commits.measure(tmp_path, given)
