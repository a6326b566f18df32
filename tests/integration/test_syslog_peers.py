"""Events in a real syslog daemon (rsyslog) and in a real systemd journal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from angarium.app.stream.journald import Journald
from angarium.app.stream.sink import Batch, Item
from angarium.app.stream.syslog import Syslog
from angarium.config.check_stream import parse_syslog
from tests.support.ports import free_port
from tests.support.relay import wait_until
from tests.support.stream import event_line

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.peer

ITEMS = tuple(
    Item(event_line(number, "bounce", id="0SAQS2V780G00", text='"quoted" \\ käthe')[:-1], f"abc-{number}")
    for number in range(3)
)
JOURNALD = Path("/usr/lib/systemd/systemd-journald")


@contextmanager
def rsyslog(folder: Path, inputs: str) -> Iterator[Path]:
    """rsyslog with these inputs; the file that it writes, a line of JSON a message."""
    found = shutil.which("rsyslogd") or shutil.which("rsyslogd", path="/usr/sbin")
    if found is None:
        pytest.skip("rsyslogd is not installed (.ci/install-peers)")
    out = folder / "out"
    config = folder / "rsyslog.conf"
    config.write_text(
        f'global(workDirectory="{folder}" parser.escapeControlCharactersOnReceive="off")\n{inputs}\n'
        'template(name="t" type="list" option.jsonf="on") {\n'
        + "".join(
            f'property(outname="{name}" name="{name}" format="jsonf")\n'
            for name in ("app-name", "msgid", "hostname", "syslogfacility-text", "syslogseverity", "msg")
        )
        + f'}}\naction(type="omfile" file="{out}" template="t")\n'
    )
    process = subprocess.Popen(
        [found, "-n", "-f", str(config), "-i", str(folder / "pid")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: (folder / "pid").exists() or process.poll() is not None, "rsyslogd to start")
        yield out
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("transport", ["tcp", "udp", "unix", "unix-rfc5424"])
async def test_rsyslog_reads_what_is_sent(tmp_path: Path, transport: str) -> None:
    port = free_port()
    inputs = {
        "tcp": f'module(load="imtcp")\ninput(type="imtcp" port="{port}" address="127.0.0.1")',
        "udp": f'module(load="imudp")\ninput(type="imudp" port="{port}" address="127.0.0.1")',
        "unix": f'module(load="imuxsock" SysSock.Use="off")\ninput(type="imuxsock" Socket="{tmp_path}/log")',
        "unix-rfc5424": 'module(load="imuxsock" SysSock.Use="off")\n'
        f'input(type="imuxsock" Socket="{tmp_path}/log" useSpecialParser="off")',
    }[transport]
    unix = transport.startswith("unix")
    target = parse_syslog(f"{transport}:{tmp_path}/log" if unix else f"{transport}://127.0.0.1:{port}")
    sink = Syslog(target, "relay.example.org", "mail")
    with rsyslog(tmp_path, inputs) as out:

        def lines() -> list[str]:
            return out.read_text().splitlines() if out.exists() else []

        if unix:
            wait_until((tmp_path / "log").exists, "its socket")
        elif transport == "udp":
            wait_until(lambda: f":{port:04X} " in Path("/proc/net/udp").read_text(), "its port")
        else:
            wait_until(lambda: f":{port:04X} " in Path("/proc/net/tcp").read_text(), "its port")
        await sink.send(Batch(ITEMS))
        wait_until(lambda: len(lines()) == 3, "three messages")
        await sink.close()
        told = [json.loads(line) for line in lines()]
    assert [json.loads(one["msg"])["number"] for one in told] == [0, 1, 2]
    assert json.loads(told[0]["msg"])["text"] == '"quoted" \\ käthe'
    assert {(one["app-name"], one["syslogfacility-text"], one["syslogseverity"]) for one in told} == {
        ("angarium", "mail", "4")
    }
    if transport != "unix":
        assert told[0]["msgid"] == "bounce"
        assert told[0]["hostname"] == "relay.example.org"


@pytest.mark.skipif(os.geteuid() != 0 or not JOURNALD.exists(), reason="a journal of our own needs root and systemd")
async def test_the_journal_finds_an_event_by_its_fields(tmp_path: Path) -> None:
    """systemd-journald in a mount namespace of its own, with an empty /run."""
    run = tmp_path / "run"
    run.mkdir()
    script = (
        f"mount --bind {run} /run && mkdir -p /run/systemd/journal /run/log/journal && "
        f"cat /proc/sys/kernel/random/uuid | tr -d - > {tmp_path}/machine-id && "
        f"mount --bind {tmp_path}/machine-id /etc/machine-id && exec {JOURNALD}"
    )
    (tmp_path / "machine-id").touch()
    if not Path("/etc/machine-id").exists():
        pytest.skip("there is no /etc/machine-id to stand in for")
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        path = run / "systemd" / "journal" / "socket"
        wait_until(lambda: path.exists() or process.poll() is not None, "the journal's socket")
        if process.poll() is not None:
            assert process.stderr is not None
            pytest.skip(f"systemd-journald does not run here: {process.stderr.read().strip()[-200:]}")
        sink = Journald("mail", str(path))
        huge = Item(event_line(3, "bounce", id="0SAQS2V780G01", text="x" * 300_000)[:-1], "abc-3")
        await sink.send(Batch((*ITEMS, huge)))
        await sink.close()

        def found(*matches: str) -> list[dict[str, str]]:
            done = subprocess.run(
                ["journalctl", "-D", str(run / "log" / "journal"), "-o", "json", "--all", *matches],
                capture_output=True,
                text=True,
                check=False,
            )
            return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

        wait_until(lambda: len(found("SYSLOG_IDENTIFIER=angarium")) == 4, "four entries")
        told = found("-t", "angarium", "ANGARIUM_ID=0SAQS2V780G00")
        assert [one["ANGARIUM_NUMBER"] for one in told] == ["0", "1", "2"]
        assert (told[0]["PRIORITY"], told[0]["SYSLOG_FACILITY"]) == ("4", "2")
        assert told[0]["MESSAGE"].startswith("bounce 0SAQS2V780G00")
        assert len(found("ANGARIUM_ID=0SAQS2V780G01")[0]["ANGARIUM_TEXT"]) == 300_000
    finally:
        process.terminate()
        process.communicate()
