"""A node under a service manager: a real datagram socket in the place of systemd's. test_systemd.py has a real one."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from tests.support.clients import PATIENCE_S
from tests.support.relay import Relay

if TYPE_CHECKING:
    from pathlib import Path


class Manager:
    """Hears what it is told."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE_S)
        self.said: list[str] = []

    def wait(self, start: str) -> dict[str, str]:
        """The next message that begins so, as fields."""
        while True:
            message = self.socket.recv(4096).decode()
            self.said.append(message)
            if message.startswith(start):
                return dict(line.split("=", 1) for line in message.splitlines())


def test_a_node_tells_how_it_is(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify")
    # env(1) becomes the relay, as a service manager would have started it
    prefix = ["env", f"NOTIFY_SOCKET={tmp_path / 'notify'}", "WATCHDOG_USEC=4000000"]
    config = {"node": {"hang_timeout": "8s"}}
    with manager.socket, Relay(tmp_path / "relay", config, prefix=prefix) as relay:
        assert "serving" in manager.wait("READY=1")["STATUS"]
        assert not any(said.startswith("WATCHDOG") for said in manager.said)  # not before it is ready
        manager.wait("WATCHDOG=1")

        before = time.monotonic_ns() // 1000
        os.kill(relay.pid, signal.SIGHUP)
        reloading = manager.wait("RELOADING=1")
        assert int(reloading["MONOTONIC_USEC"]) >= before
        manager.wait("READY=1")

        # a worker that hangs is the supervisor's to mend, and the manager hears of it in words alone
        (worker,) = relay.worker_pids()
        relay.kill_process(worker, signal.SIGSTOP)
        manager.wait("WATCHDOG=1")
        relay.wait_event("process_ended", process="worker 0", why="hung")
        manager.wait("STATUS=worker 0 ")
        manager.wait("WATCHDOG=1")
        manager.wait("STATUS=serving")

        relay.terminate()
        manager.wait("STOPPING=1")
        assert relay.wait_ended() == 0
