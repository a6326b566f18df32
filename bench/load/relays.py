"""One class per relay: how to start, stop, watch and empty it.

A relay listens on 127.0.0.1:2525 and sends everything on to 127.0.0.1:2526, unless its ground names other ports. It
runs in the process group it is given, keeps its queue under the spool and everything else (configuration, log) under
the state folder. Only processes that were started here are ever ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .traffic import RELAY_PORT, SINK_PORT, answers

if TYPE_CHECKING:
    from .accounting import ProcessGroup
    from .spool import Spool

PROJECT = Path(__file__).resolve().parents[2]
ADMIN_PORT = 8925
START_LIMIT_S = 20
STOP_LIMIT_S = 30
RETRY_LIMIT_S = 600


class RelayFailure(Exception):
    """The relay did not start, stop or answer; the message says which relay and where its log is."""


@dataclass
class Ground:
    """What every relay of a series stands on."""

    spool: Spool
    state: Path
    group: ProcessGroup
    durability: str = "fsync"
    workers: int = 2
    relay_port: int = RELAY_PORT
    sink_port: int = SINK_PORT
    admin_port: int = ADMIN_PORT
    quiet_limit_s: float = 60  # how long a run waits for the rest of the machine to be quiet


class Relay:
    name: str
    summary: str
    measured = True  # False: there is nothing whose CPU or memory could be counted

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.queue = ground.spool.folder / self.name
        self.state = ground.state / self.name

    @property
    def port(self) -> int:
        """Where the generator connects to."""
        return self.ground.relay_port

    def unavailable(self) -> str | None:
        """Why this relay cannot run here, or None."""
        return None

    def version(self) -> str:
        return ""

    def durability(self) -> str:
        """What its 250 promises."""
        return "none"

    def settings(self) -> str:
        """The configuration it ran with, for the result."""
        return ""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def queue_length(self) -> int:
        return 0

    def retry_all(self) -> None:
        """Have everything that is queued tried now, as an operator would."""

    def purge(self) -> None:
        """Empty the queue of a running relay whatever is in it: stop, remove, start."""
        self.stop()
        shutil.rmtree(self.queue, ignore_errors=True)
        self.start()

    def wait_until_empty(self, limit_s: float = 30) -> bool:
        deadline = time.monotonic() + limit_s
        while self.queue_length():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.3)
        return True


class Direct(Relay):
    name = "direct"
    summary = "no relay: the generator straight to the sink, the floor that both set"
    measured = False

    @property
    def port(self) -> int:
        return self.ground.sink_port

    def purge(self) -> None:
        pass


class Angarium(Relay):
    name = "angarium"
    summary = "Angarium from this checkout"
    start_limit_s: float = START_LIMIT_S
    python = PROJECT / ".venv" / "bin" / "python"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self.config = self.state / "angarium.toml"
        self.log = self.state / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def unavailable(self) -> str | None:
        if not self.python.exists():
            return f"{self.python} does not exist (`make setup` makes it)"
        done = subprocess.run(self.command("serve", "--help"), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            return f"`angarium serve --help` fails: {' '.join(done.stderr.split())[-200:]}"
        return None

    def command(self, *arguments: str) -> list[str]:
        return [str(self.python), "-m", "angarium.cli.main", *arguments]

    def version(self) -> str:
        script = (
            "import angarium, importlib.metadata as m, platform;"
            "print('angarium', angarium.__version__, '| CPython', platform.python_version(), end=' ');"
            "print('| uvloop', m.version('uvloop'), '| Cython', m.version('cython'))"
        )
        done = subprocess.run([self.python, "-c", script], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def durability(self) -> str:
        promises = {
            "fsync": "fdatasync of the journal before 250",
            "async": "written before 250, synced soon after",
            "memory": "in memory only at 250",
        }
        return promises[self.ground.durability]

    def settings(self) -> str:
        return f"""\
[node]
hostname = "relay.bench.test"
spool = "{self.queue}"
workers = {self.ground.workers}
[admin]
listen = "127.0.0.1:{self.ground.admin_port}"
[events]
file = "{self.state}/events.jsonl"
[[listener]]
name = "bench"
listen = "127.0.0.1:{self.port}"
role = "relay"
tls = "none"
relay_networks = ["127.0.0.0/8"]
[queue]
durability = "{self.ground.durability}"
[[route]]
recipients = ["*"]
next_hop = "smtp://127.0.0.1:{self.ground.sink_port}"
"""

    def start(self) -> None:
        self.queue.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(parents=True, exist_ok=True)
        self.config.write_text(self.settings(), encoding="utf-8")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.ground.group.command(self.command("serve", "--config", str(self.config))),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.ground.group.watch(self.process.pid)
        if not answers(self.port, self.start_limit_s, self.process) or self.process.poll() is not None:
            self.stop()
            last = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
            raise RelayFailure(f"{self.name} does not answer on port {self.port} ({' / '.join(last)}); log: {self.log}")

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the session that start() made: this relay and nothing else
            process.wait()
        (self.state / "events.jsonl").unlink(missing_ok=True)

    def run_command(self, *arguments: str, limit_s: float = 60) -> str:
        """What `angarium ARGUMENTS` prints about this relay."""
        try:
            done = subprocess.run(
                self.command(*arguments, "--config", str(self.config)),
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RelayFailure(f"angarium {' '.join(arguments)}: no answer in {limit_s:g} s") from None
        if done.returncode:
            raise RelayFailure(f"angarium {' '.join(arguments)}: {' '.join(done.stderr.split())[-300:]}")
        return done.stdout

    def queue_length(self) -> int:
        return int(json.loads(self.run_command("queue", "summary", "--json"))["messages"])

    def retry_all(self) -> None:
        self.run_command("queue", "retry", "--all", "--yes", limit_s=RETRY_LIMIT_S)


class Postfix(Relay):
    """Debian's Postfix with a configuration, queue and data folder of the bench's own; the installed one is not
    touched.

    Tuned: room for as many processes as the scenario has sessions and more, an active queue that never blocks, no
    artificial delay at intake, processes that live long, no name lookups. Its promise is Postfix's own: cleanup(8)
    syncs the queue file before smtpd(8) answers 250.
    """

    name = "postfix"
    summary = "Postfix from Debian, tuned"
    process_limit = 150
    concurrency = 20
    daemons = Path("/usr/lib/postfix/sbin")
    services = frozenset(
        {"pickup", "cleanup", "qmgr", "tlsmgr", "rewrite", "bounce", "defer", "trace", "verify", "flush", "proxymap"}
        | {"proxywrite", "smtp", "showq", "error", "retry", "discard", "local", "virtual", "lmtp", "anvil", "scache"}
        | {"postlog"}
    )

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self.data = Path("/var/lib/angarium-bench-postfix")
        self.running = False

    def unavailable(self) -> str | None:
        if os.geteuid():
            return "Postfix can only be started by root"
        for path in (self.daemons / "master", Path("/usr/sbin/postfix"), Path("/etc/postfix/master.cf.proto")):
            if not path.exists():
                return f"{path} does not exist (`make peers` installs Debian's postfix)"
        return None

    def version(self) -> str:
        self.write_settings()
        done = subprocess.run(
            ["/usr/sbin/postconf", "-c", self.state, "-h", "mail_version"], capture_output=True, text=True, check=False
        )
        return f"Postfix {done.stdout.strip()}"

    def durability(self) -> str:
        return "fsync of the message's queue file before 250"

    def settings(self) -> str:
        return f"""\
compatibility_level = 3.6
queue_directory = {self.queue}
data_directory = {self.data}
command_directory = /usr/sbin
daemon_directory = {self.daemons}
mail_owner = postfix
setgid_group = postdrop
myhostname = relay.bench.test
mydomain = bench.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
local_recipient_maps =
alias_maps =
relayhost = [127.0.0.1]:{self.ground.sink_port}
disable_dns_lookups = yes
smtpd_peername_lookup = no
maillog_file = {self.state}/maillog
maillog_file_prefixes = {self.state.parent}
message_size_limit = 20480000
in_flow_delay = 0
default_process_limit = {self.process_limit}
default_destination_concurrency_limit = {self.concurrency}
initial_destination_concurrency = {self.concurrency}
qmgr_message_active_limit = 100000
qmgr_message_recipient_limit = 100000
smtpd_client_connection_count_limit = 0
max_use = 10000
"""

    def write_settings(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        (self.state / "main.cf").write_text(self.settings(), encoding="ascii")
        lines = [f"127.0.0.1:{self.port} inet n - n - - smtpd"]
        for line in Path("/etc/postfix/master.cf.proto").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            if len(fields) >= 8 and fields[0] in self.services and fields[1] != "inet":
                fields[4] = "n"  # no chroot: there is nothing to look up in one
                lines.append(" ".join(fields))
        (self.state / "master.cf").write_text("\n".join(lines) + "\n", encoding="ascii")

    def master_pid(self) -> int | None:
        try:
            return int((self.queue / "pid" / "master.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def starter(self) -> list[str]:
        """A program and its arguments by which `postfix start` is run, if not by itself."""
        return []

    def control(self, verb: str) -> subprocess.CompletedProcess[str]:
        argv = ["/usr/sbin/postfix", "-c", str(self.state), verb]
        if verb == "start":
            argv = self.ground.group.command([*self.starter(), *argv])
        # To a file, not a pipe: master inherits the descriptor, and a pipe would stay open as long as it lives.
        with (self.state / "control.log").open("w+") as log:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=60, check=False)
            log.seek(0)
            return subprocess.CompletedProcess(argv, done.returncode, log.read())

    def start(self) -> None:
        self.queue.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(parents=True, exist_ok=True)
        os.chown(self.queue, 0, 0)
        self.data.chmod(0o700)
        shutil.chown(self.data, "postfix", "postfix")
        self.write_settings()
        done = self.control("start")
        self.running = True
        pid = self.master_pid()
        if done.returncode or pid is None or not answers(self.port, START_LIMIT_S):
            self.stop()
            raise RelayFailure(f"postfix does not start: {done.stdout[-300:]} (log: {self.state}/maillog)")
        self.ground.group.watch(pid)

    def stop(self) -> None:
        if not self.running:
            return
        self.running = False
        pid = self.master_pid()
        self.control("stop")
        deadline = time.monotonic() + STOP_LIMIT_S
        while pid is not None and Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        (self.state / "maillog").unlink(missing_ok=True)
        shutil.rmtree(self.data, ignore_errors=True)

    def retry_all(self) -> None:
        argv = ["/usr/sbin/postqueue", "-c", str(self.state), "-f"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RelayFailure(f"postqueue -f: {done.stderr.strip()[-300:]}")

    def queue_length(self) -> int:
        folders = ("incoming", "active", "deferred", "maildrop")
        return sum(len(files) for name in folders for _, _, files in os.walk(self.queue / name))


RELAYS: dict[str, type[Relay]] = {kind.name: kind for kind in (Angarium, Postfix, Direct)}
