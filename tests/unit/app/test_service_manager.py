"""What a service manager is told, by a real datagram socket."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from angarium.app.service_manager import ServiceManager

if TYPE_CHECKING:
    from pathlib import Path


def listen(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind("\0" + address[1:] if address.startswith("@") else address)
    sock.setblocking(False)
    return sock


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract name"])
def test_what_is_told(tmp_path: Path, abstract: bool) -> None:
    address = f"@angarium-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": address, "PATH": "/bin", "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "4711"}
    with listen(address) as sock:
        manager = ServiceManager(environment, 4711)
        assert environment == {"PATH": "/bin"}  # nobody below is to speak for the node
        assert manager.watchdog_s == 10.0
        manager.ready("beginning")
        assert sock.recv(4096) == b"READY=1\nSTATUS=beginning"
        manager.reloading()
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", sock.recv(4096))
        manager.alive()
        assert sock.recv(4096) == b"WATCHDOG=1"
        manager.status("serving", 100.0)
        assert sock.recv(4096) == b"STATUS=serving"
        manager.status("serving", 200.0)  # nothing new
        manager.status("draining", 204.9)
        assert sock.recv(4096) == b"STATUS=draining"
        manager.status("serving", 205.0)  # too soon
        manager.status("worker 0 hangs", 205.0, at_once=True)
        assert sock.recv(4096) == b"STATUS=worker 0 hangs"
        manager.stopping()
        assert sock.recv(4096).startswith(b"STOPPING=1\n")
        with pytest.raises(BlockingIOError):
            sock.recv(4096)
        manager.close()
        manager.ready("")


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "1000000"}, 0.0),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000000"}, 1.0),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_whose_watchdog_it_is(environment: dict[str, str], watchdog_s: float) -> None:
    manager = ServiceManager(environment, 4711)
    assert manager.watchdog_s == watchdog_s
    manager.close()


def test_nobody_there_is_said_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, 1)
    manager.ready("serving")
    manager.alive()
    assert caplog.text.count("cannot be notified") == 1
    manager.close()
    other = ServiceManager({"NOTIFY_SOCKET": "vsock:2:1"}, 1)
    assert not other.listening
    assert "vsock:2:1" in caplog.text


def test_a_socket_path_that_systemd_reads_too(tmp_path: Path) -> None:
    """The same socket takes what systemd-notify sends: it is the protocol's own client."""
    program = shutil.which("systemd-notify")
    if program is None:
        pytest.skip("systemd-notify is not installed")
    address = str(tmp_path / "notify")
    with listen(address) as sock:
        environment = {"NOTIFY_SOCKET": address}
        subprocess.run([program, "--ready", "--no-block"], env=environment, check=False, timeout=60)
        theirs = sock.recv(4096)
        manager = ServiceManager(environment, os.getpid())
        manager.ready("serving")
        assert sock.recv(4096).splitlines()[0] in theirs.splitlines()
        manager.close()
