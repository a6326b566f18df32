"""The log-in bench: a smoke run of both scenarios, and their reports. The figures mean nothing."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

import pytest

from bench.login_storm import __main__ as command
from bench.login_storm.report import render

if TYPE_CHECKING:
    from pathlib import Path

SHORT = {
    "storm": ["--seconds", "1", "--rate", "30", "--addresses", "2", "--messages-s", "20"],
    "submission": ["--seconds", "0.5", "--reps", "1", "--sessions", "3"],
}


@pytest.mark.parametrize("scenario", SHORT)
def test_a_scenario_runs_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str) -> None:
    out = tmp_path / "result.json"
    arguments = [
        "bench.login_storm",
        scenario,
        *SHORT[scenario],
        "--workers",
        "1",
        "--nice",
        "0",
        "--durability",
        "memory",
    ]
    monkeypatch.setattr(command, "alone", contextlib.nullcontext)  # whoever else measures, this measures nothing
    monkeypatch.setattr(sys, "argv", [*arguments, "--spool", str(tmp_path), "--out", str(out)])
    assert command.main() == 0
    result = json.loads(out.read_text())
    assert out.with_suffix(".md").read_text() == render(result)
    if scenario == "storm":
        quiet, stormy = result["runs"]
        assert quiet["others"]["accept"]["count"] > 0
        assert stormy["storm"]["replies"].keys() <= {"535", "454", "421", "closed"}
        assert stormy["storm"]["attempts"] > 0
        assert quiet["others"]["wrong"] == stormy["others"]["wrong"] == {}
    else:
        assert {run["way"] for run in result["runs"]} == {"plain", "submission"}
        assert all(run["accepted"] > 0 and run["failed"] == 0 for run in result["runs"])
