"""A relay of its own for a test: `angarium serve` in a process, on free ports, with a spool in a temporary folder.

    with Relay(tmp_path, {"route": [{"recipients": ["*"], "next_hop": sink.url}]}) as relay:
        with relay.client() as client: ...
        relay.wait_event("delivery", recipient="you@example.com")

The configuration is a dictionary in the shape of the TOML file, laid over the one of `base_config`. `with` starts the
relay and ends it whatever happens: it is the leader of a process group, and the group is killed when it does not go.

Everything that waits looks again and again until a deadline, and says at the end of it what it saw last.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from angarium.app.node_socket import Request, ask
from angarium.outcome.event_files import LogFile, list_files, open_file
from tests.support.clients import PATIENCE_S, Dialogue
from tests.support.events import check_events
from tests.support.ports import free_port

LOOK_S = 0.01
MOST_DEATHS = 3  # of its processes before it is ready

PR_SET_PDEATHSIG = 1  # prctl(2)

T = TypeVar("T")
_libc = ctypes.CDLL(None)


class RelayFailure(AssertionError):
    """The relay did not do what was waited for; the text has its standard error."""


def wait_until(condition: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """The first true value of condition(); AssertionError with its last value after patience_s."""
    until = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= until:
            raise AssertionError(f"waited {patience_s:g} s for {what}; at last: {value!r}")
        time.sleep(LOOK_S)


def _contents(file: LogFile) -> bytes:
    with open_file(file) as opened:
        return opened.read()


def read_event(line: bytes) -> dict[str, Any] | None:
    """One line of the event log, or what stands behind the half line that a killed process left; None: half a line."""
    try:
        return json.loads(line)
    except ValueError:
        if line.count(b'{"time":"') > 1:
            return json.loads(line[line.rfind(b'{"time":"') :])
        assert line[:1] == b"{", line
        assert line[-1:] != b"}", line
        return None


def run_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`angarium ARGUMENTS`, to its end, with its output as text."""
    given = {"capture_output": True, "text": True, "timeout": PATIENCE_S, "env": clean_environment()} | options
    return subprocess.run(command_line(*arguments), check=False, **given)


def command_line(*arguments: str) -> list[str]:
    """The command of this interpreter's installation, whatever is first in the PATH."""
    return [sys.executable, "-m", "angarium.cli.main", *arguments]


def clean_environment() -> dict[str, str]:
    """The environment without what would change the commands' defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ANGARIUM_")}


def base_config(spool: Path, smtp_port: int, admin_port: int, events: Path) -> dict[str, Any]:
    """One worker, one listener on loopback, retries within fractions of a second, no route."""
    return {
        "node": {"hostname": "relay.test", "spool": str(spool), "workers": 1},
        "admin": {"listen": f"127.0.0.1:{admin_port}"},
        "events": {"file": str(events), "flush_interval": "50ms"},
        "queue": {
            "shards": 2,
            "segment_size": "4MB",
            "retry": {
                "first": "200ms",
                "factor": 1.5,
                "longest": "1s",
                "expire": "1h",
                "warn_after": "0s",
                "jitter": 0.0,
            },
        },
        "listener": [
            {"name": "relay", "listen": f"127.0.0.1:{smtp_port}", "role": "relay", "relay_networks": ["127.0.0.0/8"]}
        ],
    }


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables key by key; everything else, arrays too, as `over` has it. None takes a key out."""
    result = dict(under)
    for key, value in over.items():
        old = result.get(key)
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def to_toml(config: Mapping[str, Any]) -> str:
    """A configuration as TOML: tables and arrays of tables at the top, inline tables below."""
    parts = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            parts.append(f"[{name}]\n" + _pairs(value))
        elif isinstance(value, Sequence) and value and all(isinstance(entry, Mapping) for entry in value):
            parts += [f"[[{name}]]\n" + _pairs(entry) for entry in value]
        else:
            parts.insert(0, f"{name} = {_value(value)}\n")
    return "\n".join(parts)


def _pairs(table: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(
        str(value) if isinstance(value, Path) else value
    )  # JSON's strings, numbers and booleans are TOML's


class Relay:
    """One relay. `config` may be changed between stop and start, or before reload."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        *,
        arguments: Sequence[str] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        """prefix: a program that becomes the relay, and its arguments."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.spool = folder / "spool"
        self.events_file = folder / "events.jsonl"
        self.config_file = folder / "angarium.toml"
        self.stderr_file = folder / "stderr"
        self.smtp_port = free_port()
        self.admin_port = free_port()
        self.config = merged(base_config(self.spool, self.smtp_port, self.admin_port, self.events_file), config or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._arguments = ["--config", str(self.config_file), *arguments]
        self._own_config = True
        self._prefix = prefix
        self._announced = 0

    @classmethod
    def sandbox(cls, folder: Path) -> SandboxRelay:
        """`angarium serve --sandbox` with its own configuration."""
        return SandboxRelay(folder)

    # -------------------------------------------------------------- life

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def stderr(self) -> str:
        """What it has said so far, over all its starts."""
        return self.stderr_file.read_text("utf-8", "replace") if self.stderr_file.exists() else ""

    def write_config(self) -> None:
        """The configuration as it is now, into the file."""
        self.config_file.write_text(to_toml(self.config))

    def launch(self) -> None:
        """Start it without waiting until it is ready."""
        assert self.process is None, "it runs already"
        if self._own_config:
            self.write_config()
        self._announced = self.stderr.count("angarium is ready")
        with open(self.stderr_file, "ab") as stderr:
            self.process = subprocess.Popen(
                [*self._prefix, *command_line("serve", *self._arguments)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  # it calls nothing but prctl
                env=clean_environment(),
            )

    def start(self) -> None:
        """Start it and wait until it serves."""
        self.launch()
        self.wait_ready()

    def wait_ready(self, patience_s: float = PATIENCE_S) -> None:
        """Until it says that it is ready."""
        process = self.process
        assert process is not None
        said_before = len(self.stderr)

        def announced() -> bool:
            if process.poll() is not None:
                raise RelayFailure(f"the relay ended with status {process.returncode}:\n{self.stderr}")
            said = self.stderr
            if said[said_before:].count("starting it again") >= MOST_DEATHS:
                raise RelayFailure(f"its processes die:\n{said[-4000:]}")
            return said.count("angarium is ready") > self._announced

        try:
            wait_until(announced, "the relay to be ready", patience_s)
        except AssertionError as failure:
            raise RelayFailure(f"{failure}\n{self.stderr}") from None

    def terminate(self) -> None:
        """SIGTERM to the supervisor; wait_ended tells when it is over."""
        os.kill(self.pid, signal.SIGTERM)

    def wait_ended(self, patience_s: float = PATIENCE_S) -> int:
        """The supervisor's exit status, and nothing of its group left."""
        process = self.process
        assert process is not None
        status = process.wait(patience_s)
        wait_until(lambda: not _group(process.pid), f"the processes of group {process.pid} to end", patience_s)
        self.process = None
        return status

    def stop(self) -> int:
        """SIGTERM, and wait. Returns the exit status."""
        self.terminate()
        return self.wait_ended()

    def kill(self) -> None:
        """SIGKILL to the supervisor and all its children at once, as when the machine stops."""
        if self.process is None:
            return
        if self.process.poll() is None or _group(self.pid):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait_ended()

    def kill_process(self, pid: int, number: int = signal.SIGKILL) -> None:
        """A signal to one process of this relay."""
        assert pid in _group(self.pid), f"{pid} is no process of this relay"
        os.kill(pid, number)

    def restart(self) -> None:
        """Stop and start."""
        assert self.stop() == 0
        self.start()

    def reload(self, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`angarium reload` with a changed configuration; what it says when every process has it."""
        self.config = merged(self.config, config or {})
        self.write_config()
        answer = self.ask("reload")
        assert answer["ok"], answer
        result: dict[str, Any] = answer["result"]
        return result

    def ask(self, op: str, **more: Any) -> dict[str, Any]:
        """What the supervisor answers to a command."""
        answer = ask(self.spool, Request(op, **more), PATIENCE_S)  # type: ignore[arg-type]
        assert answer is not None, f"the relay ended before it answered {op}:\n{self.stderr}"
        return answer

    def configuration(self) -> dict[str, Any]:
        """What the supervisor says of the configuration in force."""
        found: dict[str, Any] = self.ask("status")["result"]["configuration"]
        return found

    def __enter__(self) -> Relay:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        try:
            self._end()
        finally:
            if kind is None:
                check_events(self.events())

    def _end(self) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.terminate()
            try:
                self.wait_ended(10.0)
            except (subprocess.TimeoutExpired, AssertionError):
                self.kill()
        else:
            self.kill()

    # -------------------------------------------------------------- what it says

    def get(self, path: str, *, host: str = "127.0.0.1") -> tuple[int, bytes]:
        """GET on the admin port: status and body. A process that is being replaced may break off: then once more."""
        until = time.monotonic() + PATIENCE_S
        while True:
            connection = http.client.HTTPConnection(host, self.admin_port, timeout=PATIENCE_S)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (ConnectionError, http.client.IncompleteRead):
                ended = self.process is None or self.process.poll() is not None
                if ended or time.monotonic() > until:
                    raise
                time.sleep(LOOK_S)
            finally:
                connection.close()

    def api(self, path: str) -> Any:
        """GET /api/v1/PATH, decoded."""
        status, body = self.get(f"/api/v1/{path}")
        assert status == 200, f"{path}: {status} {body[:500]!r}"
        return json.loads(body)

    def summary(self) -> dict[str, Any]:
        """The queue in numbers."""
        answer: dict[str, Any] = self.api("queue/summary")
        return answer

    def queued(self) -> list[dict[str, Any]]:
        """The messages of the queue."""
        answer: list[dict[str, Any]] = self.api("queue?limit=1000")
        return answer

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as the exposition writes them."""
        status, body = self.get("/metrics")
        assert status == 200, status
        lines = (line for line in body.decode().splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that answer."""
        reports = self.api("status")["workers"]
        return [report["status"]["pid"] for report in reports if report["status"] is not None]

    def events(self, event: str | None = None, **fields: object) -> list[dict[str, Any]]:
        """Events so far of one kind, with these values."""
        # the last line may be half written
        whole, _, _ = b"".join(map(_contents, list_files(self.events_file))).rpartition(b"\n")
        found = (entry for line in whole.splitlines() if (entry := read_event(line)) is not None)
        return [
            entry
            for entry in found
            if (event is None or entry["event"] == event)
            and all(entry.get(name) == value for name, value in fields.items())
        ]

    def wait_event(
        self, event: str, *, count: int = 1, patience_s: float = PATIENCE_S, **fields: object
    ) -> dict[str, Any]:
        """Wait for the count-th event of this kind with these values, and return it."""
        self.wait(lambda: len(self.events(event, **fields)) >= count, f"{count} x {event} {fields}", patience_s)
        return self.events(event, **fields)[count - 1]

    def wait_empty(self, patience_s: float = PATIENCE_S) -> None:
        """Until nothing is queued."""
        self.wait(lambda: self.summary()["messages"] == 0, "an empty queue", patience_s)

    def wait(self, condition: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
        """wait_until, with standard error and the last events in the failure."""
        try:
            return wait_until(condition, what, patience_s)
        except AssertionError as failure:
            events = "\n".join(map(str, self.events()[-10:]))
            raise RelayFailure(f"{failure}\n--- events\n{events}\n--- standard error\n{self.stderr[-4000:]}") from None

    # -------------------------------------------------------------- speaking with it

    def client(self, port: int | None = None) -> Dialogue:
        """A connection on which the greeting has been read."""
        return Dialogue("127.0.0.1", port or self.smtp_port)

    def send(
        self,
        recipients: str | Sequence[str],
        content: bytes = b"Subject: test\r\n\r\nHello.\r\n",
        reverse_path: str = "me@origin.test",
    ) -> str:
        """Submit a message by DATA; returns its queue id."""
        with self.client() as client:
            client.ehlo()
            return client.send(reverse_path, [recipients] if isinstance(recipients, str) else recipients, content)


class SandboxRelay(Relay):
    """`angarium serve --sandbox` without a configuration file; its Maildir is `maildir`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.submission_port = free_port()
        self.submissions_port = free_port()
        self.sink_port = free_port()
        self.events_file = self.spool / "events.jsonl"
        self.maildir = self.spool / "sink" / "Maildir"
        self._own_config = False
        ports = {
            "--smtp-port": self.smtp_port,
            "--submission-port": self.submission_port,
            "--submissions-port": self.submissions_port,
            "--http-port": self.admin_port,
            "--sink-port": self.sink_port,
        }
        numbers = [word for option, port in ports.items() for word in (option, str(port))]
        self._arguments = ["--sandbox", "--spool", str(self.spool), *numbers]

    def arrived(self, recipient: str) -> list[bytes]:
        """The files of the Maildir that are for this recipient, oldest first."""
        mark = b"\nDelivered-To: " + recipient.encode() + b"\n"
        contents = (path.read_bytes() for path in sorted((self.maildir / "new").iterdir()))
        return [octets for octets in contents if mark in octets[:2000]]

    def wait_arrived(self, recipient: str, count: int = 1) -> list[bytes]:
        """Wait until so many have arrived for this recipient."""
        return self.wait(
            lambda: found if len(found := self.arrived(recipient)) >= count else [], f"mail for {recipient}"
        )


def _end_with_parent() -> None:
    """Have the kernel stop the relay when the test process is killed: nobody else would."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _group(leader: int) -> list[int]:
    """The live processes of a process group (one that has ended and waits for its parent is none)."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, group, *_ = stat.rpartition(")")[2].split()
        if int(group) == leader and state not in "ZX":
            found.append(int(entry))
    return found
