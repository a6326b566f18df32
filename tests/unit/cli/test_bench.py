"""`angarium bench`: its arithmetic, its generator against sinks that behave and that do not, the command itself."""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click import BadParameter
from click.testing import CliRunner

from angarium.cli import bench as bench_module
from angarium.cli import loadgen
from angarium.cli.bench import Worker, bench, resolve_target, started_sink
from angarium.cli.bench_report import latency_bars, rates, render_svg, round_up, sparkline
from angarium.cli.loadgen import (
    FAILURES_AT_MOST,
    Counters,
    Histogram,
    Load,
    Plan,
    SinkCounters,
    SinkSession,
    build_message,
    start_sink,
)
from angarium.cli.measured_relay import MeasuredRelay, RelayNotReady, filesystem_of, process_tree, pss_octets


@contextlib.asynccontextmanager
async def sink() -> AsyncIterator[tuple[int, SinkCounters]]:
    counters = SinkCounters()
    server = await start_sink(counters)
    try:
        yield server.sockets[0].getsockname()[1], counters
    finally:
        server.close()


class Refusing(asyncio.Protocol):
    """Answers each command from a table, line by line; a verb that the table lacks ends the connection."""

    def __init__(self, replies: dict[bytes, bytes]) -> None:
        self.replies = replies
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.replies[b"greeting"])

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        for line in data.split(b"\r\n")[:-1]:
            reply = self.replies.get(line[:4])
            if reply is None:
                self.transport.close()
                return
            self.transport.write(reply)


@contextlib.asynccontextmanager
async def refusing(**replies: bytes) -> AsyncIterator[int]:
    table = {b"greeting": b"220 hello\r\n", b"EHLO": b"250-hello\r\n250 PIPELINING\r\n", b"QUIT": b"221 bye\r\n"}
    table |= {verb.encode(): reply for verb, reply in replies.items()}
    server = await asyncio.get_running_loop().create_server(lambda: Refusing(table), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def ignore(counters: Counters) -> None:
    """Where a test does not look at the progress."""


class TestHistogram:
    def test_percentiles_are_within_the_stated_error_of_the_exact_ones(self) -> None:
        source = random.Random(7)
        values = [source.lognormvariate(-6, 1.5) for _ in range(5000)]
        histogram = Histogram()
        for value in values:
            histogram.record(value)
        ordered = sorted(values)
        for share in (0.01, 0.5, 0.9, 0.99, 0.999):
            exact = ordered[max(0, round(share * len(ordered)) - 1)]
            assert exact <= histogram.percentile(share) + 1e-9
            assert histogram.percentile(share) == pytest.approx(exact, rel=1 / 64, abs=2e-6)
        assert histogram.percentile(1.0) == histogram.longest_s == ordered[-1]

    def test_memory_is_bounded_by_the_range_not_by_the_count(self) -> None:
        histogram = Histogram()
        for microseconds in range(1, 1 << 18):
            histogram.record(microseconds / 1e6)
        assert histogram.count == (1 << 18) - 1
        assert len(histogram.buckets) <= 128 + 64 * 11

    def test_nothing_recorded_is_zero(self) -> None:
        assert Histogram().percentile(0.5) == 0.0

    def test_survives_the_way_through_json(self) -> None:
        histogram = Histogram()
        for seconds in (0.001, 0.002, 0.5):
            histogram.record(seconds)
        again = Histogram.from_pairs(json.loads(json.dumps(histogram.as_pairs())), histogram.longest_s)
        assert again.count == 3
        assert [again.percentile(share) for share in (0.3, 0.6, 1)] == [
            histogram.percentile(share) for share in (0.3, 0.6, 1)
        ]


class TestMessage:
    @pytest.mark.parametrize("size", [1024, 1025, 10240, 102400])
    def test_has_the_wanted_size_and_legal_lines(self, size: int) -> None:
        message = build_message(Plan("127.0.0.1", 25, size_octets=size))
        assert message.endswith(b"\r\n.\r\n")
        content = message[: -len(b".\r\n")]
        assert 0 <= size - len(content) <= 1
        assert all(len(line) <= 998 for line in content.split(b"\r\n"))
        assert content.count(b"\r\n") == content.count(b"\n") == content.count(b"\r")
        assert b"\r\n." not in content

    def test_a_tiny_size_gives_the_header_section_alone(self) -> None:
        assert build_message(Plan("127.0.0.1", 25, size_octets=1)).endswith(b"\r\n\r\n.\r\n")


class TestSink:
    class Transport(asyncio.Transport):
        def __init__(self) -> None:
            super().__init__()
            self.written = b""
            self.closed = False

        def write(self, data: bytes | bytearray | memoryview) -> None:
            self.written += bytes(data)

        def close(self) -> None:
            self.closed = True

        def is_closing(self) -> bool:
            return self.closed

    DIALOGUE = (
        b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"
        b"one\r\n..stuffed\r\nnot.\r\nthe end.\r\n.no\r\n.\r\n"
        b"MAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nWHAT\r\nQUIT\r\n"
    )

    @pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 7, 64, 4096])
    def test_counts_messages_however_the_octets_arrive(self, chunk: int) -> None:
        counters = SinkCounters()
        session, transport = SinkSession(counters), self.Transport()
        session.connection_made(transport)
        for start in range(0, len(self.DIALOGUE), chunk):
            session.data_received(self.DIALOGUE[start : start + chunk])
        codes = [int(line[:3]) for line in transport.written.split(b"\r\n")[:-1] if line[3:4] == b" "]
        assert codes == [220, 250, 250, 250, 354, 250, 250, 250, 354, 250, 500, 221]
        assert counters.messages == 2
        assert counters.octets >= len(self.DIALOGUE) - chunk
        assert transport.closed

    def test_a_line_without_end_is_bounded(self) -> None:
        session, transport = SinkSession(SinkCounters()), self.Transport()
        session.connection_made(transport)
        for _ in range(17):
            session.data_received(b"x" * 4096)
        assert transport.closed


class TestGenerator:
    @pytest.mark.parametrize("pipelining", [False, True])
    @pytest.mark.parametrize("reuse", [False, True])
    async def test_every_message_arrives(self, reuse: bool, pipelining: bool) -> None:
        async with sink() as (port, received):
            load = Load(
                Plan("127.0.0.1", port, sessions=7, messages=100, reuse=reuse, pipelining=pipelining, size_octets=3000),
                ignore,
            )
            counters = await load.run()
            assert (counters.accepted, counters.failed, received.messages) == (100, 0, 100)
            assert counters.failures == {}
            assert counters.connections == received.connections == (7 if reuse else 100)
            assert load.latency.count == 100
            assert 0 < load.latency.percentile(0.5) <= load.latency.longest_s <= counters.at - counters.started_at
            assert received.octets > 100 * 3000

    async def test_no_more_sessions_than_messages(self) -> None:
        async with sink() as (port, received):
            counters = await Load(Plan("127.0.0.1", port, sessions=50, messages=3), ignore).run()
            assert (counters.accepted, counters.connections, received.messages) == (3, 3, 3)

    async def test_a_duration_ends_the_load_with_every_message_answered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loadgen, "REPORT_EVERY_S", 0.01)
        async with sink() as (port, received):
            reports: list[int] = []
            load = Load(Plan("127.0.0.1", port, sessions=4, duration_s=0.5), lambda seen: reports.append(seen.accepted))
            counters = await load.run()
            assert counters.accepted == received.messages > 0
            assert counters.failed == 0
            assert counters.at - counters.started_at >= 0.5
            assert reports == sorted(reports)
            assert len(reports) >= 2

    @pytest.mark.parametrize("pipelining", [False, True])
    async def test_a_refusal_is_counted_by_its_text_and_the_rest_goes_on(self, pipelining: bool) -> None:
        async with refusing(MAIL=b"250 ok\r\n", RCPT=b"550 5.7.1 no relaying\r\n", DATA=b"554 5.5.1 no\r\n") as port:
            plan = Plan("127.0.0.1", port, sessions=3, messages=10, pipelining=pipelining)
            counters = await Load(plan, ignore).run()
            assert (counters.accepted, counters.failed) == (0, 10)
            assert counters.failures == {"550 5.7.1 no relaying": 10}

    async def test_a_greeting_of_421_is_a_failure(self) -> None:
        async with refusing(greeting=b"421 4.3.2 too busy\r\n") as port:
            counters = await Load(Plan("127.0.0.1", port, sessions=2, messages=5), ignore).run()
            assert counters.failures == {"421 4.3.2 too busy": 5}

    async def test_a_lost_connection_is_a_failure(self) -> None:
        async with refusing() as port:
            counters = await Load(Plan("127.0.0.1", port, sessions=2, messages=5), ignore).run()
            assert (counters.accepted, counters.failed) == (0, 5)
            assert counters.failures == {"connection closed by the relay": 5}

    async def test_a_refused_connection_is_a_failure_and_it_gives_up(self) -> None:
        async with sink() as (port, _):
            pass  # the port is free again: nobody listens
        counters = await Load(Plan("127.0.0.1", port, sessions=5, messages=1_000_000), ignore).run()
        assert counters.accepted == 0
        assert counters.failed >= FAILURES_AT_MOST
        assert f"given up after {FAILURES_AT_MOST} failures" in counters.failures

    async def test_a_reply_without_end_is_bounded(self) -> None:
        async with refusing(greeting=b"220 " + b"x" * 100_000) as port:
            counters = await Load(Plan("127.0.0.1", port, sessions=1, messages=1), ignore).run()
            assert counters.failures == {"a reply line without an end": 1}

    async def test_a_relay_that_never_answers_ends_at_the_limit(self) -> None:
        async with refusing(MAIL=b"") as port:
            counters = await Load(Plan("127.0.0.1", port, sessions=2, messages=5, limit_s=0.3), ignore).run()
            assert (counters.accepted, counters.failed) == (0, 0)
            assert counters.failures == {"not done after 0.3 s": 1}


class TestReport:
    def test_rates(self) -> None:
        assert rates([(0.0, 0), (0.5, 100), (0.5, 100), (1.5, 400)]) == [(0.5, 200.0), (1.5, 300.0)]
        assert rates([]) == []

    def test_sparkline(self) -> None:
        assert sparkline([]) == ""
        assert sparkline([0, 0]) == "  "
        assert sparkline([0, 4, 8]) == " ▄█"
        assert sparkline([8.0] * 1000, width=10) == "█" * 10
        assert len(sparkline(list(range(61)), width=60)) == 60

    def test_latency_bars_count_every_message(self) -> None:
        histogram = Histogram()
        for seconds in (0.000_1, 0.001, 0.001, 0.1):
            histogram.record(seconds)
        bars = latency_bars(histogram, rows=4)
        assert sum(count for _, _, count in bars) == 4
        assert len(bars) == 4
        assert bars[-1][0] == "131.1 ms"
        assert max(bars, key=lambda bar: len(bar[1]))[2] == 3
        assert latency_bars(Histogram()) == []

    @pytest.mark.parametrize(("value", "rounded"), [(0, 1), (0.3, 0.5), (1, 1), (1.1, 2), (4999, 5000), (5001, 10000)])
    def test_round_up(self, value: float, rounded: float) -> None:
        assert round_up(value) == pytest.approx(rounded)


class TestTarget:
    @pytest.mark.parametrize("target", ["127.0.0.1:2525", "localhost:2525", "[::1]:2525", "127.8.9.10:25"])
    def test_loopback_passes(self, target: str) -> None:
        address, port = resolve_target(target, owned=False)
        assert address.startswith("127.") or address == "::1"
        assert port == int(target.rpartition(":")[2])

    @pytest.mark.parametrize("target", ["192.0.2.1:25", "0.0.0.0:25", "[2001:db8::1]:25", "[::ffff:192.0.2.1]:25"])
    def test_another_host_is_refused(self, target: str) -> None:
        with pytest.raises(BadParameter, match="is not of this machine"):
            resolve_target(target, owned=False)

    def test_another_host_passes_when_it_is_the_users_own(self) -> None:
        assert resolve_target("192.0.2.1:25", owned=True) == ("192.0.2.1", 25)

    @pytest.mark.parametrize("target", ["127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:0", "[::1]:70000", ":"])
    def test_a_malformed_one_is_wrong_usage(self, target: str) -> None:
        with pytest.raises(BadParameter):
            resolve_target(target, owned=True)

    def test_the_command_refuses_before_it_connects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bench_module, "greets", lambda host, port: pytest.fail("it connected"))
        done = CliRunner().invoke(bench, ["--target", "192.0.2.1:25"])
        assert done.exit_code == 2
        assert "--i-own-this-host" in done.output


@pytest.fixture
def sink_process() -> Iterator[Worker]:
    with started_sink() as worker:
        yield worker


class TestCommand:
    def test_loads_a_target_and_writes_json_and_plot(self, sink_process: Worker, tmp_path: Path) -> None:
        report, plot = tmp_path / "result.json", tmp_path / "plot.svg"
        argv = ["--target", f"127.0.0.1:{sink_process.latest['port']}", "--messages", "200", "--sessions", "5"]
        done = CliRunner().invoke(bench, [*argv, "--size", "2k", "--json", str(report), "--plot", str(plot)])
        assert done.exit_code == 0, done.output
        result = json.loads(report.read_text())
        assert result["accepted"] == 200
        assert result["failed"] == 0
        assert result["connections"] == 5
        assert result["plan"]["size_octets"] == 2048
        assert result["relay"] is None
        assert result["received"] is None
        assert result["accept_rate"] == pytest.approx(200 / result["accept_s"])
        latency = result["latency_s"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
        assert sum(count for _, count in latency["buckets"]) == 200
        assert result["timeline"]["accepted"][-1][1] == 200
        assert "time to 250" in done.output
        assert f"{result['accept_rate']:,.0f}/s" in done.output
        drawn = ElementTree.fromstring(plot.read_text())
        assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(drawn.findall("{http://www.w3.org/2000/svg}polyline")) == 2

    def test_the_sinks_figures_enter_the_result(self, sink_process: Worker, tmp_path: Path) -> None:
        plan = Plan("127.0.0.1", sink_process.latest["port"], messages=100, sessions=4)
        with bench_module.started_generator(plan) as generator:
            measurement = bench_module.Measurement(generator, sink_process)
            bench_module.follow(measurement, lambda generator, sink: None)
            result = bench_module.assemble(plan, measurement)
        assert result["received"] == 100
        assert 0 < result["end_to_end_s"] <= result["accept_s"] + 0.1
        assert result["end_to_end_rate"] == pytest.approx(100 / result["end_to_end_s"])
        assert result["timeline"]["received"][-1][1] == 100
        assert 'class="received"' in render_svg(result)

    async def test_failures_make_it_exit_with_1(self) -> None:
        async with refusing(MAIL=b"451 4.3.0 not now\r\n") as port:
            argv = ["--target", f"127.0.0.1:{port}", "--messages", "3", "--quiet"]
            done = await asyncio.to_thread(CliRunner().invoke, bench, argv)
        assert done.exit_code == 1
        assert "failed 3 times: 451 4.3.0 not now" in done.output

    async def test_a_target_where_nobody_listens_is_one_line(self) -> None:
        async with sink() as (port, _):
            pass
        done = CliRunner().invoke(bench, ["--target", f"127.0.0.1:{port}", "--messages", "3"])
        assert done.exit_code == 1
        assert done.output == f"Error: no SMTP server greets on 127.0.0.1:{port}\n"

    @pytest.mark.parametrize(
        "argv",
        [
            ["--messages", "5", "--duration", "1"],
            ["--messages", "0"],
            ["--size", "zero"],
            ["--size", "0"],
            ["--sessions", "0"],
            ["--durability", "hope"],
        ],
    )
    def test_wrong_usage(self, argv: list[str]) -> None:
        assert CliRunner().invoke(bench, [*argv, "--target", "127.0.0.1:1"]).exit_code == 2


# Stands in for `angarium serve`: passes octets on to the next hop of its configuration, so that the sink speaks for it.
PASSING_RELAY = """
import asyncio, sys, tomllib
with open(sys.argv[-1], "rb") as file:
    config = tomllib.load(file)
assert config["queue"]["durability"] == "async" and config["node"]["workers"] == 3
port = int(config["listener"][0]["listen"].rpartition(":")[2])
next_port = int(config["route"][0]["next_hop"].rpartition(":")[2])
async def pump(reader, writer):
    while octets := await reader.read(65536):
        writer.write(octets)
    writer.close()
async def serve(reader, writer):
    onward = await asyncio.open_connection("127.0.0.1", next_port)
    await asyncio.gather(pump(reader, onward[1]), pump(onward[0], writer))
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
        await server.serve_forever()
asyncio.run(main())
"""


class TestOwnRelay:
    def test_generator_relay_and_sink_in_one_command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake, wrapper, spool = tmp_path / "relay.py", tmp_path / "python", tmp_path / "spool"
        fake.write_text(PASSING_RELAY)
        spool.mkdir()
        wrapper.write_text(
            f'#!/bin/sh\ncase "$*" in *angarium.cli.main*) exec {sys.executable} {fake} "$@";; esac\n'
            f'exec {sys.executable} "$@"\n'
        )
        wrapper.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(wrapper))
        report = tmp_path / "result.json"
        argv = [
            "--messages",
            "300",
            "--sessions",
            "6",
            "--workers",
            "3",
            "--durability",
            "async",
            "--spool",
            str(spool),
        ]
        done = CliRunner().invoke(bench, [*argv, "--no-reuse", "--json", str(report)])
        assert done.exit_code == 0, done.output
        result = json.loads(report.read_text())
        assert (result["accepted"], result["received"], result["failed"]) == (300, 300, 0)
        assert result["connections"] == 300
        assert result["relay"]["durability"] == "async"
        assert result["relay"]["workers"] == 3
        assert result["relay"]["cpu_us"] > 0
        assert result["relay"]["peak_pss_octets"] > 1_000_000
        assert result["relay"]["filesystem"] == filesystem_of(spool)
        assert "end to end" in done.output
        assert "durability=async, 3 workers" in done.output
        assert list(spool.iterdir()) == []


class TestMeasuredRelay:
    def test_a_relay_that_ends_at_once_is_explained_and_cleaned_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = tmp_path / "python"
        broken.write_text("#!/bin/sh\necho 'no such luck' >&2\nexit 3\n")
        broken.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(broken))
        relay = MeasuredRelay("discard:", workers=1, durability="fsync", folder=tmp_path)
        with pytest.raises(RelayNotReady, match="the relay ended: no such luck"):
            relay.__enter__()
        assert list(tmp_path.iterdir()) == [broken]

    def test_the_tree_holds_descendants_and_their_time(self) -> None:
        script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
        with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"1\n"
            tree = process_tree(parent.pid)
            assert len(tree) == 2
            assert parent.pid in tree
            assert os.getpid() not in tree
            assert sum(map(sum, tree.values())) > 0
            assert pss_octets(parent.pid) > 1_000_000
            parent.communicate(b"\n")
        assert process_tree(parent.pid) == {}
        assert pss_octets(parent.pid) == 0

    def test_filesystem_of(self) -> None:
        assert filesystem_of(Path("/proc")) == "proc"
