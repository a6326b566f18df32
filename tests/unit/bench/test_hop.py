"""The hop bench: a smoke run of both scenarios, and its report. The figures mean nothing."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from bench.hop import __main__ as command
from tests.support.ports import free_ports_in_a_row, is_free

PATH = f"{os.environ['PATH']}:/usr/sbin"
TOOLS = ("smtp-sink", "smtp-source", "nsd", "unbound", "stunnel4", "openssl")
PLACES = ((command.HOST, 25), (command.RESOLVER, 53))


@pytest.mark.timeout(400)  # of many processes, on a machine that may be busy
@pytest.mark.skipif(
    os.geteuid() != 0
    or not all(shutil.which(tool, path=PATH) for tool in TOOLS)
    or not all(is_free(*place) for place in PLACES),
    reason=f"needs root, {', '.join(TOOLS)} (`make peers`), and ports 25 and 53 of loopback addresses",
)
def test_both_scenarios_run_and_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "tls", _without_postfix(command.tls))
    monkeypatch.setattr(command, "Ground", partial(command.Ground, quiet_limit_s=0))
    state = tmp_path / "state"
    options = command.parse_arguments(
        [
            *("run", "--disk", "plain", "--spool", str(tmp_path / "spool"), "--state", str(state), "--nice", "0"),
            *(
                "--first-port",
                str(free_ports_in_a_row(5)),
                "--messages",
                "60",
                "--sessions",
                "4",
                "--reps",
                "1",
                "--out",
                str(tmp_path / "hop.json"),
            ),
        ]
    )
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)  # smtp-sink and the servers of names are nobody
    assert command.run(options) == 0
    result = json.loads((tmp_path / "hop.json").read_text())
    assert {run["relay"] for run in result["scenarios"]["policy"]["runs"]} == {"fixed", "policy"}
    text = (tmp_path / "hop.md").read_text()
    assert "## policy" in text
    assert "## tls" in text
    assert "with everything on beside the least" in text


def _without_postfix(of: object) -> object:
    def tls(*given: object) -> object:
        sink, relays, recipient = of(*given)  # type: ignore[operator]
        return sink, relays[:1], recipient

    return tls


def test_the_goal_is_the_median_of_the_pairs() -> None:
    runs = [
        {"relay": relay, "repetition": n, "ok": True, "disturbed": False, "end_to_end_rate": rate, "relay_cpu_us": 60.0}
        | {"sink_sessions": 40}
        for n in (1, 2, 3)
        for relay, rate in (("fixed", 10_000.0), ("policy", 9_600.0))
    ]
    scenario = {"runs": runs, "relays": {"fixed": {"summary": "a"}, "policy": {"summary": "b"}}}
    assert "| ≥ 97% | 96% (96%–96%) | **no** |" in "\n".join(command.section("policy", scenario))
