"""A real systemd, as process 1 of namespaces of its own, with a journal of its own.

`with Systemd(folder) as systemd` boots it: own processes, mounts, cgroups, network (loopback alone), host name and
IPC. It sees the machine's files, but may write only to `folder`: everything else is read-only, or a tmpfs that is gone
afterwards. `units` are what it knows; `systemctl`, `journal` and `run` are carried out in it. At the end all its
processes are killed, and its cgroup is removed.

Fails: Unavailable, with the reason, where the machine does not allow it; a test skips then. Bounds: BOOT_S to boot,
COMMAND_S for a command.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.relay import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

BOOT_S = 30.0
COMMAND_S = 60.0

# What is run in the new namespaces, before it becomes systemd. $1: the test's folder, the rest: folders to be seen.
PREPARE = r"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/kept
n=0
for folder in "$@"; do
    n=$((n + 1))
    mkdir "/run/kept/$n"
    mount --bind "$folder" "/run/kept/$n"
done
for place in /tmp /var/tmp /var/log /var/spool /var/lib/systemd /etc/systemd/system; do
    [ -d $place ] || continue
    mode=755
    case $place in */tmp) mode=1777 ;; esac
    mount -t tmpfs -o mode=$mode tmpfs $place
done
# devices: those that every program expects, and none of the machine's
mkdir /run/dev
mount -t tmpfs -o mode=755 tmpfs /run/dev
mkdir /run/dev/pts /run/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /run/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /run/dev/shm
for device in null zero full random urandom tty; do
    : > /run/dev/$device
    mount --bind /dev/$device /run/dev/$device
done
ln -s pts/ptmx /run/dev/ptmx
ln -s /proc/self/fd /run/dev/fd
mount --rbind /run/dev /dev
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
n=0
for folder in "$@"; do
    n=$((n + 1))
    mkdir -p "$folder"
    mount --bind "/run/kept/$n" "$folder"
    [ $n = 1 ] || mount -o remount,bind,ro "$folder"
    umount "/run/kept/$n"
done
mount -o remount,bind,ro /
mkdir -p /run/lock
cat > /etc/systemd/system/angarium-test.target <<END
[Unit]
Wants=systemd-journald.service
After=systemd-journald.service
END
ip link set lo up
export container=angarium-test
exec /lib/systemd/systemd --system --unit=angarium-test.target --show-status=0 --log-target=console --log-level=warning
"""


class Unavailable(Exception):
    """No systemd can be booted here; the text says why."""


def _cgroups() -> Path:
    """Where cgroups of version 2 are."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise Unavailable("no cgroup2 is mounted")


class Systemd:
    """One that runs. `folder` is the one place that its units may write to, and `seen` further ones that they see."""

    def __init__(self, folder: Path, *seen: Path) -> None:
        self.folder = folder
        self._seen = seen
        self._log = folder / "systemd.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._cgroup = Path()

    def __enter__(self) -> Self:
        for program in ("unshare", "nsenter", "systemctl", "journalctl", "ip"):
            if shutil.which(program, path=_path()) is None:
                raise Unavailable(f"there is no {program}")
        if not Path("/lib/systemd/systemd").exists():
            raise Unavailable("systemd is not installed")
        if os.geteuid() != 0:
            raise Unavailable("needs root")
        try:
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _boot(self) -> None:
        self._cgroup = _cgroups() / f"angarium-test-{os.getpid()}"
        try:
            self._cgroup.mkdir()
        except OSError as failure:
            raise Unavailable(f"no cgroup can be made: {failure}") from failure
        enter = f'echo $$ > "{self._cgroup}/cgroup.procs" && exec "$@"'
        unshare = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--cgroup", "--net"]
        inner = ["--uts", "--ipc", "sh", "-c", PREPARE, "sh", str(self.folder), *map(str, self._seen)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", enter, "sh", *unshare, *inner],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": _path()},
            )
        try:
            wait_until(self._is_up, "systemd to boot", BOOT_S)
        except AssertionError as failure:
            raise Unavailable(f"{failure}: {self.log}") from failure

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise Unavailable(f"it ended with status {self._process.returncode}: {self.log}")
        if not self._pid:
            found = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            self._pid = int(found[0]) if found else 0
            return False
        done = self.run("systemctl", "is-system-running", check=False)
        return done.stdout.strip() in {"running", "degraded"}

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text("utf-8", "replace")[-4000:] if self._log.exists() else ""

    def _end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                if self._pid:
                    os.kill(self._pid, signal.SIGKILL)  # all of its namespace ends with it
                self._process.kill()
            self._process.wait(COMMAND_S)
        if self._cgroup.is_dir() and self._cgroup != Path():
            until = time.monotonic() + 5.0
            while not _remove_cgroups(self._cgroup) and time.monotonic() < until:
                time.sleep(0.05)

    # -------------------------------------------------------------- what it is asked

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command within."""
        done = subprocess.run(
            ["nsenter", f"--target={self._pid}", "--all", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
            env={"PATH": _path(), "LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
            cwd="/",
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.log}"
        return done

    def spawn(self, *command: str) -> subprocess.Popen[str]:
        """A command within, which is spoken with by its standard input and output."""
        return subprocess.Popen(
            ["nsenter", f"--target={self._pid}", "--all", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": _path()},
            cwd="/",
        )

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """systemctl."""
        return self.run("systemctl", *words, check=check)

    def add(self, units: Mapping[str, str]) -> None:
        """Units, or drop-ins of them, by the name of their file."""
        for name, text in units.items():
            script = 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"'
            self.run("sh", "-c", script, "sh", f"/etc/systemd/system/{name}", text)
        self.systemctl("daemon-reload")

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit).stdout.strip()

    def pids(self, unit: str) -> list[int]:
        """The processes of a unit, by the ids that they have within."""
        group = self.show(unit, "ControlGroup")
        if not group:
            return []
        done = self.run("sh", "-c", f'cat "/sys/fs/cgroup{group}/cgroup.procs"', check=False)
        return [int(word) for word in done.stdout.split()]

    def journal(self, *words: str) -> list[dict[str, Any]]:
        """Entries of the journal."""
        done = self.run("journalctl", "--output=json", "--no-pager", "--quiet", *words)
        return [json.loads(line) for line in done.stdout.splitlines()]


def _remove_cgroups(top: Path) -> bool:
    for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()
    with contextlib.suppress(OSError):
        top.rmdir()
    return not top.exists()


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def python_folders() -> list[Path]:
    """What a unit must see to run this interpreter with this checkout."""
    checkout = Path(__file__).parents[2]
    return list({checkout: 0, Path(sys.prefix): 0, Path(sys.base_prefix): 0})
