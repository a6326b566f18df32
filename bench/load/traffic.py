"""Generator and sink: Postfix's smtp-source and smtp-sink, from Debian's package, run with a configuration of the
bench's own.

The generator speaks lock-step SMTP over `sessions` connections at once, either keeping each connection for many
messages (`reuse`) or opening one for every message (`new`). The sink discards what it takes and appends its running
counters to a file in memory, so that counting costs the bench no system call per message.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from .accounting import read_process

RELAY_PORT = 2525
SINK_PORT = 2526
SINK_BACKLOG = 1024
SINK_SESSIONS = 4000
TAIL_OCTETS = 160
START_LIMIT_S = 30
MODES = ("reuse", "new")


class MissingTool(Exception):
    """smtp-source or smtp-sink is not installed."""


def find_tool(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingTool(f"{name} not found: install Debian's postfix package (`make peers` does)")
    return found


def tool_environment(state: Path) -> dict[str, str]:
    """Both tools want a main.cf; it is ours, so that an installed Postfix's settings have no say."""
    folder = state / "tools"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.cf").write_text(
        "compatibility_level = 3.6\nmyhostname = generator.bench.test\ninet_protocols = ipv4\n", encoding="ascii"
    )
    return dict(os.environ, MAIL_CONFIG=str(folder))


def answers(
    port: int, limit_s: float, process: subprocess.Popen[bytes] | None = None, *, host: str = "127.0.0.1"
) -> bool:
    """Whether an SMTP server greets on `host` at `port` within `limit_s`; 0 asks once. Not if process has ended."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            with socket.create_connection((host, port), timeout=5) as connection:
                if connection.recv(200).startswith(b"220"):
                    connection.sendall(b"QUIT\r\n")
                    connection.recv(200)
                    return True
        except OSError:
            pass
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            return False
        time.sleep(0.05)


class Sink:
    """One smtp-sink for the whole series: a sink that is restarted would look to a relay like a failing next hop.

    `options` are smtp-sink's own, for a next hop that refuses (`-r rcpt`) or is slow (`-w seconds`).
    """

    def __init__(
        self, state: Path, port: int = SINK_PORT, options: tuple[str, ...] = (), *, host: str = "127.0.0.1"
    ) -> None:
        memory = Path("/dev/shm")
        self.port = port
        if answers(port, 0, host=host):
            raise MissingTool(f"something answers on {host}:{port} already: a sandbox, another bench?")
        self.counters = (memory if memory.is_dir() else state) / f"angarium-bench-{os.getpid()}-{host}-{port}.counters"
        self._file = os.open(self.counters, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        identity = ["-u", "nobody"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [
                find_tool("smtp-sink"),
                *identity,
                "-c",
                "-m",
                str(SINK_SESSIONS),
                *options,
                f"{host}:{port}",
                str(SINK_BACKLOG),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.DEVNULL,
            env=tool_environment(state),
        )
        self._pids = [self._process.pid]
        if not answers(port, START_LIMIT_S, self._process, host=host) or self._process.poll() is not None:
            self.close()
            raise MissingTool(f"smtp-sink does not answer on {host}:{port} (is the port taken?)")

    def _last(self, counter: bytes) -> int:
        size = os.fstat(self._file).st_size
        found = re.findall(rb"%s=(\d+)" % counter, os.pread(self._file, TAIL_OCTETS, max(0, size - TAIL_OCTETS)))
        return int(found[-1]) if found else 0

    def messages(self) -> int:
        return self._last(b"mesg")

    def sessions(self) -> int:
        return self._last(b"sess")

    def forget(self) -> None:
        """Drop the counters written so far, all but the last, so that a long series does not fill the memory file
        system.
        """
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, TAIL_OCTETS, max(0, size - TAIL_OCTETS))
        os.ftruncate(self._file, 0)
        os.write(self._file, tail)

    def count_too(self, pid: int) -> None:
        """What this process takes counts as the sink's: it stands in front of it."""
        self._pids.append(pid)

    def cpu_s(self) -> float:
        """Of the sink and what stands in front of it, since each began."""
        return sum(process.own.total_s for pid in self._pids if (process := read_process(pid)) is not None)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self.counters.unlink(missing_ok=True)


class Generator:
    """One run of smtp-source; `poll` reaps it and keeps its CPU time."""

    def __init__(
        self,
        state: Path,
        port: int,
        messages: int,
        *,
        size_octets: int,
        sessions: int,
        mode: str,
        recipient: str = "rcpt@dst.example",
    ) -> None:
        argv = [find_tool("smtp-source"), "-4", "-s", str(min(sessions, messages)), "-m", str(messages)]
        argv += [
            "-l",
            str(size_octets),
            "-f",
            "sender@src.example",
            "-t",
            recipient,
            "-M",
            "generator.bench.test",
        ]
        if mode == "reuse":
            argv.append("-d")
        self._errors = (state / "smtp-source.err").open("w+b")
        self._process = subprocess.Popen(
            [*argv, f"inet:127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=tool_environment(state),
        )
        self.exit_code: int | None = None
        self.cpu_s = 0.0

    def poll(self) -> bool:
        """True when it has ended."""
        if self.exit_code is None:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self._keep(status, usage.ru_utime + usage.ru_stime)
        return self.exit_code is not None

    def _keep(self, status: int, cpu_s: float) -> None:
        self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_s = cpu_s

    def stop(self) -> None:
        if not self.poll():
            # Not Popen's terminate: that may reap the process, and its CPU time with it.
            os.kill(self._process.pid, signal.SIGTERM)
            _, status, usage = os.wait4(self._process.pid, 0)
            self._keep(status, usage.ru_utime + usage.ru_stime)

    def errors(self) -> str:
        """The end of what it complained about, in one line."""
        self._errors.seek(0)
        return " ".join(self._errors.read().decode(errors="replace").split())[-300:]

    def close(self) -> None:
        self.stop()
        self._errors.close()
