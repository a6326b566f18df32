"""The DNS of the bench: an authoritative nsd with the zone, and an unbound in front of it, which both relays ask.

`d0.tail.test` to `dN.tail.test` have one MX record each, to `mxM.tail.test`, M = the domain's number modulo `hosts`,
and these are at the addresses given, in turn. unbound listens where it is told: Postfix can only ask port 53.
`fresh()` gives the next relay an empty cache. Only processes that were started here are ended.

Fails: RelayFailure, with the end of the log, when one of them does not answer.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from bench.load.relays import RelayFailure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ZONE = "tail.test"
START_LIMIT_S = 60.0
LOOK_S = 0.05
ANSWER_S = 1.0
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

NSD = """\
server:
    ip-address: 127.0.0.1@{authority}
    username: ""
    chroot: ""
    zonesdir: "{folder}"
    database: ""
    zonelistfile: "{folder}/zone.list"
    xfrdfile: "{folder}/xfrd.state"
    xfrdir: "{folder}"
    pidfile: ""
    server-count: 1
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: "{zone}."
    zonefile: "zone"
"""

UNBOUND = """\
server:
    interface: {address}@{port}
    access-control: 127.0.0.0/8 allow
    username: ""
    chroot: ""
    directory: "{folder}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    num-threads: 1
    module-config: "iterator"
    do-not-query-localhost: no
    do-ip6: no
    outgoing-range: 4096
    num-queries-per-thread: 2048
    msg-cache-size: 128m
    rrset-cache-size: 256m
    so-reuseport: no
    local-zone: "test." nodefault
remote-control:
    control-enable: no
stub-zone:
    name: "{zone}."
    stub-addr: 127.0.0.1@{authority}
"""


class Names:
    """Both servers."""

    def __init__(
        self,
        folder: Path,
        *,
        domains: int,
        hosts: int,
        host_addresses: Sequence[str],
        address: str,
        port: int,
        authority: int,
    ) -> None:
        for program in ("nsd", "unbound"):
            if shutil.which(program, path=PATH) is None:
                raise RelayFailure(f"{program} is not installed (`make peers` does that)")
        self.address = address
        self.port = port
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        names = {"folder": folder, "zone": ZONE, "authority": authority, "address": address, "port": port}
        (folder / "nsd.conf").write_text(NSD.format(**names))
        (folder / "unbound.conf").write_text(UNBOUND.format(**names))
        with (folder / "zone").open("w", encoding="ascii") as zone:
            zone.write(f"$ORIGIN {ZONE}.\n$TTL 86400\n@ IN SOA ns hostmaster 1 7200 900 1209600 300\n@ IN NS ns\n")
            zone.write(f"ns IN A 127.0.0.1\nanswers IN A {host_addresses[0]}\n")
            zone.writelines(f"d{number} IN MX 10 mx{number % hosts}\n" for number in range(domains))
            zone.writelines(
                f"mx{number} IN A {host_addresses[number % len(host_addresses)]}\n" for number in range(hosts)
            )

    def start(self) -> None:
        """Begin to serve."""
        self._start("nsd")
        self._start("unbound")
        self._wait()

    def fresh(self) -> None:
        """An empty cache."""
        self._stop("unbound")
        self._start("unbound")
        self._wait()

    def close(self) -> None:
        """End both."""
        for name in tuple(self._running):
            self._stop(name)

    def _start(self, name: str) -> None:
        program = shutil.which(name, path=PATH)
        assert program is not None
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [program, "-d", "-c", str(self._folder / f"{name}.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _stop(self, name: str) -> None:
        process = self._running.pop(name)
        process.terminate()
        process.wait()

    def _wait(self) -> None:
        """Until the resolver says what the zone says."""
        name = b"".join(bytes((len(label),)) + label.encode() for label in f"answers.{ZONE}".split(".")) + b"\0"
        query = b"\x12\x34\x01\x00\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1"
        until = time.monotonic() + START_LIMIT_S
        while time.monotonic() < until:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(ANSWER_S)
                try:
                    sock.connect((self.address, self.port))
                    sock.send(query)
                    answer = sock.recv(512)
                except OSError:
                    answer = b""
            if answer[3:4] and answer[3] & 15 == 0 and answer[7]:
                return
            for each, process in self._running.items():
                if process.poll() is not None:
                    raise RelayFailure(f"{each} has ended: {self._log(each)}")
            time.sleep(LOOK_S)
        raise RelayFailure(f"the resolver does not answer on {self.address}:{self.port}: {self._log('unbound')}")

    def _log(self, name: str) -> str:
        return " ".join((self._folder / f"{name}.log").read_text("utf-8", "replace").split())[-300:]
