"""`angarium bench` with the real relay: every message accepted is in the sink, none twice, nothing stays behind."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from angarium.cli.bench import bench


@pytest.mark.parametrize("options", [["--pipelining"], ["--no-reuse", "--durability", "memory"], ["--size", "100k"]])
def test_every_accepted_message_reaches_the_sink_once(options: list[str], tmp_path: Path) -> None:
    spool, report = tmp_path / "spool", tmp_path / "result.json"
    spool.mkdir()
    argv = ["--messages", "300", "--sessions", "10", "--spool", str(spool), "--json", str(report), "--quiet"]
    done = CliRunner().invoke(bench, [*argv, *options])
    assert done.exit_code == 0, done.output
    result = json.loads(report.read_text())
    assert (result["accepted"], result["received"], result["failed"]) == (300, 300, 0)
    assert result["relay"]["cpu_us"] > 0
    assert list(spool.iterdir()) == []
