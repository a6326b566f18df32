"""A small network of its own: the test, its relay and its name server on one side, mail hosts on the other.

Two network namespaces joined by a veth pair. `with Network() as network` moves the calling thread, and what it starts
(threads, processes), into the relay's side; `network.among_hosts()` does so for the other side. Nothing of the
machine's own network is touched, and both are gone afterwards. `silence(address)` makes an address where packets
vanish.

Fails: Unavailable where the kernel or the user does not allow it; a test skips then.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
RELAY4, RELAY6 = "10.231.7.1", "fd00:231:7::1"
NOBODY_LINK = "02:00:00:00:00:99"
IP = shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")

_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """There are no namespaces here."""


def _ip(*words: str) -> None:
    if IP is None or os.geteuid() != 0:
        raise Unavailable("needs root and ip(8)")
    done = subprocess.run([IP, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _enter(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET):
            raise Unavailable(os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)


class Network:
    """Both sides. `hosts` are the addresses of the mail hosts' side, IPv4 and IPv6."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self._relay = f"angarium-relay-{os.getpid()}"
        self._far = f"angarium-hosts-{os.getpid()}"
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Network:
        try:
            for name in (self._relay, self._far):
                _ip("netns", "add", name)
                self._undo.callback(_ip, "netns", "del", name)
            _ip("-n", self._relay, "link", "add", "relay", "type", "veth", "peer", "name", "hosts", "netns", self._far)
            for name, link in ((self._relay, "relay"), (self._far, "hosts")):
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "link", "set", link, "up")
            for address in (RELAY4, RELAY6):
                self._address(self._relay, "relay", address)
            for address in self.hosts:
                self._address(self._far, "hosts", address)
            _ip("-n", self._relay, "-6", "route", "add", "default", "dev", "relay")  # so that IPv6 counts as usable
            home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._undo.callback(os.close, home)
            self._undo.callback(_libc.setns, home, CLONE_NEWNET)
            _enter(f"/run/netns/{self._relay}")
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @contextlib.contextmanager
    def among_hosts(self) -> Iterator[None]:
        """On the other side: what is started here listens at the hosts' addresses."""
        _enter(f"/run/netns/{self._far}")
        try:
            yield
        finally:
            _enter(f"/run/netns/{self._relay}")

    def add(self, address: str) -> None:
        """Give the relay's side one more address."""
        self._address(self._relay, "relay", address)

    def silence(self, address: str) -> None:
        """From now on nobody answers at address, not even that nobody is there."""
        _ip("-n", self._relay, "neigh", "replace", address, "lladdr", NOBODY_LINK, "dev", "relay", "nud", "permanent")

    @staticmethod
    def _address(name: str, link: str, address: str) -> None:
        wanted = [f"{address}/64", "nodad"] if ":" in address else [f"{address}/24"]
        _ip("-n", name, "address", "add", *wanted, "dev", link)
