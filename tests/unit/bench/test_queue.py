"""The queue bench: a smoke run of every scenario at a few hundred messages, and its arithmetic and report on results
made up for it. Figures of a smoke run mean nothing; that every step comes to its end does.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.load import accounting, relays, spool, stage
from bench.queue import __main__ as command
from bench.queue import dead_hop, depth, head_of_line, judge, node, report, space, ten_million
from bench.queue.stand import Ports, Sizes, Stand
from tests.support.ports import free_port

TOOLS = [name for name in ("smtp-source", "smtp-sink") if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
needs_tools = pytest.mark.skipif(len(TOOLS) < 2, reason="smtp-source and smtp-sink are not installed (`make peers`)")

SMOKE = Sizes(
    messages=300,
    domains=40,
    accept_repetitions=1,
    idle_seconds=0.1,
    accept_seconds=0.01,
    warm_up=100,
    pass_seconds=60.0,
    dead_messages=200,
    dead_repetitions=1,
    pile=300,
    probe_rate=40.0,
    probe_seconds=1.0,
    space_seconds=4.0,
    space_rate=200,
    space_segment_mib=1,
    space_least_mib=0,
    huge_messages=5000,
    huge_domains=300,
    sessions=10,
    limit_s=120.0,
)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    ports = Ports(*(free_port() for _ in range(8)))
    ground = relays.Ground(
        spool.Spool(tmp_path / "spool", "plain directory"),
        tmp_path / "state",
        accounting.ProcessTree(),
        relay_port=ports.relay,
        sink_port=ports.sink,
        admin_port=ports.admin,
        quiet_limit_s=0,
    )
    ground.spool.folder.mkdir()
    ground.state.mkdir()
    return Stand(ground, accounting.ProcessTree(), ports, SMOKE, look_s=0.05)


def rendered(stand: Stand, **scenarios: dict[str, Any]) -> str:
    """The report of these scenarios, by way of JSON as in a result."""
    options = argparse.Namespace(durability="fsync", nice=0)
    result = stage.describe("queue", "bench.queue", options, stand.ground, [], False)
    result |= {"runs": [], "scenarios": scenarios}
    return report.render(json.loads(json.dumps(result)))


@needs_tools
@pytest.mark.timeout(400)  # of many processes, on a machine that may be busy
class TestSmoke:
    def test_depth(self, stand: Stand) -> None:
        result = depth.run(stand)
        assert result["fill"]["accepted"] == SMOKE.messages
        assert result["fill"]["refused"] == {}
        assert result["recovery"]["stop"]["found"] == result["recovery"]["kill"]["found"] == SMOKE.messages
        assert result["pass"]["attempts"] >= SMOKE.messages
        assert result["drain"]["delivered"] == SMOKE.messages
        assert result["drain"]["left"] == 0
        # how many there are says how long the pass took, and that is the machine's matter
        assert result["pass"]["noop"]["count"] > 0
        assert result["pass"]["loop"]["observed"] > 0
        assert all(run["ok"] for run in result["accept"])
        text = rendered(stand, depth=result)
        assert "## 300 deferred messages to 40 domains" in text
        looks = result["operators"]["looks"]
        assert looks["queue list --state scheduled"]["found"] == 100
        assert looks["queue list --to-domain"]["found"] == SMOKE.messages // SMOKE.domains + 1
        assert all(step["done"] == SMOKE.messages for step in result["operators"]["actions"].values())
        assert len(judge.judge({"scenarios": {"depth": result}})) == 9

    def test_a_dead_next_hop_and_a_drain(self, stand: Stand) -> None:
        result = dead_hop.run(stand, [relays.Angarium(stand.ground)])
        (run,) = result["runs"]
        assert run["ok"], run
        assert run["drained"] == SMOKE.dead_messages
        assert run["duplicates"] == 0
        assert run["accept_rate"] > 0
        assert run["drain_rate"] > 0
        assert "## A dead next hop, then a drain" in rendered(stand, dead_hop=result)

    def test_head_of_line(self, stand: Stand) -> None:
        result = head_of_line.run(stand)
        assert result["without"]["sent"] == result["with"]["sent"] == SMOKE.probe_rate * SMOKE.probe_seconds
        assert result["without"]["missing"] == result["with"]["missing"] == 0
        assert result["queued_after"] > 0, "the pile was gone before the measurement"
        assert "## Head of line" in rendered(stand, head_of_line=result)

    def test_space(self, stand: Stand) -> None:
        result = space.run(stand)
        assert result["sent"] == SMOKE.space_rate * SMOKE.space_seconds
        assert result["counted"] > 0
        assert result["most_whole"] > 0
        assert result["write_amplification"] > 1
        assert "## Space" in rendered(stand, space=result)


class TestTenMillion:
    def test_at_five_thousand(self, stand: Stand) -> None:
        result = ten_million.run(stand)
        assert result["messages"] == 5000
        assert result["whole"]
        assert [each["passed"] for each in result["fill"]] == [2500, 2500]
        assert [each["harmed"] for each in result["recovery"]] == [0, 0]
        assert not (stand.ground.spool.folder / "ten-million").exists()
        assert "## 5,000 messages" in rendered(stand, ten_million=result)


class TestPauses:
    BOUNDS = ("0.01", "0.05", "0.1", "+Inf")

    def scrape(self, *counts: int) -> dict[str, float]:
        return {f'{node.LAG}_bucket{{le="{bound}"}}': count for bound, count in zip(self.BOUNDS, counts, strict=True)}

    def test_the_bucket_of_the_longest(self) -> None:
        found = node.pauses(self.scrape(5, 9, 9, 9), self.scrape(15, 20, 20, 20))
        assert found == {"observed": 11, "longest_s_at_most": 0.05, "over_50_ms": 0}

    def test_one_that_is_too_long(self) -> None:
        found = node.pauses(self.scrape(5, 5, 5, 5), self.scrape(8, 9, 10, 10))
        assert found == {"observed": 5, "longest_s_at_most": 0.1, "over_50_ms": 1}

    def test_what_was_before_does_not_count(self) -> None:
        found = node.pauses(self.scrape(0, 0, 0, 3), self.scrape(2, 2, 2, 5))
        assert found == {"observed": 2, "longest_s_at_most": 0.01, "over_50_ms": 0}


class TestJudge:
    @staticmethod
    def runs(relay: str, *rates: float, **more: Any) -> list[dict[str, Any]]:
        return [
            {"relay": relay, "repetition": n, "ok": True, "accept_rate": rate, "drain_rate": rate, **more}
            for n, rate in enumerate(rates, 1)
        ]

    def test_ratios_are_of_medians_and_their_spread_of_pairs(self) -> None:
        runs = self.runs("angarium", 7000, 8000, 9000) + self.runs("postfix", 1000, 1000, 1500)
        found = judge.paired(runs, "relay", "angarium", "postfix", "accept_rate")
        assert found is not None
        assert (found.median, found.least, found.most, found.count) == (8.0, 6.0, 8.0, 3)

    def test_a_failed_run_has_no_pair(self) -> None:
        runs = self.runs("angarium", 7000, 8000) + self.runs("postfix", 1000, ok=False)
        assert judge.paired(runs, "relay", "angarium", "postfix", "accept_rate") is None

    def test_the_goals_beside_postfix(self) -> None:
        runs = self.runs("angarium", 5500) + self.runs("postfix", 1000)
        assert [verdict.met for verdict in judge.dead_hop({"runs": runs})] == [False, True]

    def test_space_counts_the_worst_moment_with_enough_alive(self) -> None:
        samples = [
            {"alive_octets": 10, "disk_octets": 1000},
            {"alive_octets": 1000, "disk_octets": 2500},
            {"alive_octets": 2000, "disk_octets": 3000},
        ]
        found = space.evaluate(samples, 1000, 400)
        assert found == {
            "counted": 2,
            "constant_octets": 400,
            "most": 2.1,
            "most_whole": 2.5,
            "median": 2.1,
            "last": 1.3,
        }
        assert not judge.space(found)[0].met
        assert judge.space(space.evaluate(samples, 1000, 500))[0].met
        assert not judge.space(space.evaluate(samples, 10_000, 0))[0].met, "nothing was measured, and yet it is well"

    def test_a_scenario_that_failed_is_named(self) -> None:
        result = {"scenarios": {"space": {"error": "it did not start"}}}
        assert judge.judge(result) == []


class TestCommand:
    def test_sizes_are_options(self) -> None:
        options = command.parse_arguments(["run", "--messages", "500", "--scenarios", "depth,space"])
        assert options.messages == 500
        assert options.scenarios == ["depth", "space"]
        assert options.dead_messages == Sizes().dead_messages

    def test_an_unknown_scenario_is_wrong_usage(self) -> None:
        with pytest.raises(SystemExit) as ended:
            command.parse_arguments(["run", "--scenarios", "breadth"])
        assert ended.value.code == 2
