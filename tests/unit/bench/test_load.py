"""The load bench's arithmetic and its report, on results made up for it; nothing is measured here."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bench.load import accounting, figures, report, soak, traffic

KEY = (1024, 100, "reuse")


def run(relay: str, repetition: int, rate: float, cpu: float | None, **more: Any) -> dict[str, Any]:
    return {
        "relay": relay,
        "size_octets": KEY[0],
        "sessions": KEY[1],
        "mode": KEY[2],
        "repetition": repetition,
        "messages": 1000,
        "ok": True,
        "error": "",
        "accept_rate": rate * 1.1,
        "end_to_end_rate": rate,
        "relay_cpu_us": cpu,
        "peak_pss_octets": None if cpu is None else 50_000_000,
        "generator_cpu_us": 50.0,
        "sink_cpu_us": 40.0,
        "kernel_threads_cpu_us": 3.0,
        "disk_flushes": 100,
        "disk_written_octets": 2_048_000,
        "idle_share": 0.02,
        "foreign_share": 0.01,
        "disturbed": False,
        "probe_ms": 30.0 + repetition,
        "fdatasync_per_s": 4000.0,
        "iowait_share": 0.05,
        **more,
    }


def result(*runs: dict[str, Any]) -> dict[str, Any]:
    relays = dict.fromkeys(each["relay"] for each in runs)
    return {
        "kind": "run",
        "command": "python -m bench.load run",
        "started": "2026-01-01T00:00:00+0000",
        "finished": "2026-01-01T01:00:00+0000",
        "options": {"durability": "fsync", "nice": -10},
        "autogroup_off": True,
        "machine": {
            "cores": 2,
            "cpu": "Model",
            "virtual": True,
            "memory_octets": 8 << 30,
            "system": "Debian",
            "kernel": "6",
            "accounting": "cgroup v2",
            "commit": "abc",
            "uncommitted_changes": False,
            "spool": {
                "kind": "loop ext4",
                "filesystem": "ext4",
                "journal": True,
                "options": "rw",
                "fdatasync_per_s": {"growing_file": 1000.0, "recycled_file": 4000.0},
            },
        },
        "relays": {name: {"summary": name, "version": "1", "durability": "fsync"} for name in relays},
        "at_rest": {"angarium": [{"pid": 1, "command": "a | b", "pss_octets": 41_000_000, "rss_octets": 50_000_000}]},
        "runs": list(runs),
    }


PAIRS = result(
    run("angarium", 1, 9000, 80),
    run("postfix", 1, 1000, 1600),
    run("angarium", 2, 12000, 70),
    run("postfix", 2, 1200, 1400),
    run("angarium", 3, 10000, 75),
    run("postfix", 3, 800, 2000),
)


class TestFigures:
    def test_spread(self) -> None:
        assert figures.spread([3.0, 1.0, 2.0]) == figures.Spread(2.0, 1.0, 3.0, 3)
        assert figures.spread([]) is None

    def test_a_ratio_is_of_the_medians_and_its_spread_of_the_pairs(self) -> None:
        assert figures.ratio(PAIRS, KEY, "angarium", "postfix", "end_to_end_rate") == figures.Spread(10.0, 9.0, 12.5, 3)
        cpu = figures.ratio(PAIRS, KEY, "postfix", "angarium", "relay_cpu_us")
        assert cpu is not None
        assert cpu.median == pytest.approx(1600 / 75)
        assert (cpu.least, cpu.most) == (20.0, pytest.approx(2000 / 75))

    def test_no_pair_no_ratio(self) -> None:
        alone = result(run("angarium", 1, 9000, 80), run("postfix", 2, 1000, 1600))
        assert figures.ratio(alone, KEY, "angarium", "postfix", "end_to_end_rate") is None

    def test_the_least_disturbed_attempt_that_succeeded_counts(self) -> None:
        attempts = result(
            run("angarium", 1, 5000, 90, foreign_share=0.3, disturbed=True),
            run("angarium", 1, 0, None, ok=False, foreign_share=0.0),
            run("angarium", 1, 8000, 85, foreign_share=0.02),
            run("angarium", 2, 7000, 85, foreign_share=0.01),
        )
        chosen = figures.good_runs(attempts, "angarium", KEY)
        assert [each["end_to_end_rate"] for each in chosen] == [8000, 7000]

    def test_slope(self) -> None:
        assert figures.slope([(0, 5), (10, 25), (20, 45)]) == pytest.approx(2.0)
        assert figures.slope([(1, 5), (1, 7)]) == 0.0
        assert figures.slope([]) == 0.0


class TestReport:
    def test_a_goal_that_is_met(self) -> None:
        text = report.render(PAIRS)
        assert "| 1 KiB | 100 | reused | 9× (aim 12×) | **10.0×** (9.0×–12.5×) |" in text
        assert "| yes |" in text
        assert "**no**" not in text

    def test_a_goal_that_is_missed(self) -> None:
        assert "**no**" in report.render(result(run("angarium", 1, 8900, 80), run("postfix", 1, 1000, 1600)))
        assert "**no**" in report.render(result(run("angarium", 1, 9900, 101), run("postfix", 1, 1000, 1600)))

    def test_every_table_has_as_many_cells_in_each_row(self) -> None:
        text = report.render(result(*PAIRS["runs"], run("direct", 1, 18000, None), run("postfix", 4, 0, 1, ok=False)))
        tables: list[list[str]] = [[]]
        for line in text.splitlines():
            if line.startswith("|"):
                tables[-1].append(line.replace("\\|", ""))
            elif tables[-1]:
                tables.append([])
        tables = [table for table in tables if table]
        assert len(tables) == 4
        for table in tables:
            assert len({line.count("|") for line in table}) == 1
        assert "1 failed" in text
        assert "took 32 ms of CPU (31–34)" in text

    def test_direct_has_no_cpu_of_a_relay(self) -> None:
        text = report.render(result(run("direct", 1, 18000, None)))
        assert "| 1 KiB | 100 | reused | direct | 19,800 | 18,000 | – | – |" in text


class TestSoak:
    def test_describe_tells_growth_from_flatness(self) -> None:
        flat = soak.describe("w", [(n * 10, 40_000_000) for n in range(101)], 30_000_000, 40_000_000, 1000)
        assert flat["slope_octets_per_message"] == 0
        assert flat["at_rest_octets"] == 30_000_000
        assert flat["first_half_octets"] == flat["second_half_octets"] == flat["peak_octets"] == 40_000_000
        grows = soak.describe("w", [(n * 10, 40_000_000 + n * 10 * 100) for n in range(101)], 30_000_000, 0, 1000)
        assert grows["slope_octets_per_message"] == pytest.approx(100)
        assert grows["second_half_octets"] > grows["first_half_octets"]
        assert grows["peak_octets"] == 40_100_000

    def test_the_start_does_not_count_as_growth(self) -> None:
        filling = [(n * 10, 40_000_000 if n > 5 else 20_000_000) for n in range(101)]
        assert soak.describe("w", filling, 20_000_000, 0, 1000)["slope_octets_per_message"] == 0

    def test_the_sum_includes_processes_that_came_later(self) -> None:
        samples = [{"received": n, "pss_octets": {1: 10, 2: 5} if n > 5 else {1: 10}} for n in range(11)]
        described = soak.describe_all({1: 10}, samples, 10)
        assert [each["peak_octets"] for each in described] == [10, 15]
        assert described[-1]["command"] == "all processes"
        assert described[-1]["after_octets"] == 15


class TestAccounting:
    def test_a_process_tree_counts_ended_children(self) -> None:
        spin = "import time\nwhile time.process_time() < 0.3: pass"
        script = (
            f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}]); print(1, flush=True); input()"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"1\n"
            group = accounting.ProcessTree()
            group.watch(parent.pid)
            assert group.pids() == [parent.pid]
            assert 0.2 < group.cpu().total_s < 5
            parent.communicate(b"\n")

    def test_load_differences(self) -> None:
        number = os.stat("/").st_dev
        before = accounting.read_load(f"{os.major(number)}:{os.minor(number)}", kernel_threads=True)
        spent = accounting.read_load(f"{os.major(number)}:{os.minor(number)}", kernel_threads=True).since(before)
        assert spent.all_s >= 0
        assert spent.at > 0
        assert spent.writes >= 0

    def test_a_control_group_wraps_without_touching_the_arguments(self, tmp_path: Path) -> None:
        (tmp_path / accounting.CGROUP_NAME).mkdir()
        group = accounting.ControlGroup(tmp_path, "cgroup v2")
        argv = group.command([sys.executable, "-c", "import sys; print(sys.argv[1:])", "a b", "$x"])
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert done.stdout == "['a b', '$x']\n"
        assert int((tmp_path / accounting.CGROUP_NAME / "cgroup.procs").read_text()) > 0


def test_a_sink_on_a_port_where_somebody_answers_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 sandbox.test ESMTP\r\n")
                connection.recv(100)
                connection.sendall(b"221 2.0.0 bye\r\n")

        other = threading.Thread(target=greet)
        other.start()
        with pytest.raises(traffic.MissingTool, match="something answers"):
            traffic.Sink(tmp_path, listener.getsockname()[1])
        other.join()
