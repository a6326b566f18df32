"""Telling the service manager how the node is: systemd's notification protocol (sd_notify(3)).

Input: NOTIFY_SOCKET (a path, or an abstract name that begins with "@"), WATCHDOG_USEC and WATCHDOG_PID, which are taken
out of the environment: the children are not to tell it anything. Output: datagrams of lines `NAME=VALUE`. Without
NOTIFY_SOCKET nothing is sent.

    READY=1                               every process serves, or serves again after a reload
    RELOADING=1, MONOTONIC_USEC=…         a reload has begun
    STOPPING=1                            the node has begun to end
    STATUS=…                              one line for `systemctl status`, when it has changed
    WATCHDOG=1                            the supervisor is well: it sees to all others (angarium.app.hang_watch)

Fails: never. A manager that does not take a datagram is told at the next occasion; the first failure is logged.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["ServiceManager"]

log = logging.getLogger("angarium")

STATUS_S = 5.0  # between two STATUS lines


class ServiceManager:
    """Who started this node, if that is somebody who wants to hear of it."""

    def __init__(self, environment: MutableMapping[str, str], pid: int) -> None:
        """pid: this process' id; a watchdog that is another's is left alone."""
        address = environment.pop("NOTIFY_SOCKET", "")
        period_us = environment.pop("WATCHDOG_USEC", "")
        whose = environment.pop("WATCHDOG_PID", "")
        self._socket: socket.socket | None = None
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""
        self._status_at = -STATUS_S
        self._failed = False
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        elif address:
            log.warning("NOTIFY_SOCKET=%s is neither a path nor an abstract name; nobody is notified", address)
        mine = self._socket is not None and (not whose or whose == str(pid))
        self.watchdog_s = int(period_us) / 1e6 if mine and period_us.isdigit() else 0.0  # 0: there is none

    @property
    def listening(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """Every process serves; status: as `status` would say it."""
        self._send("READY=1", f"STATUS={status}")
        self._status = status

    def reloading(self) -> None:
        """The configuration is being read again; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The node has begun to end."""
        self._send("STOPPING=1", "STATUS=stopping")

    def alive(self) -> None:
        """The watchdog need not bite."""
        self._send("WATCHDOG=1")

    def status(self, text: str, now: float, *, at_once: bool = False) -> None:
        """One line for people, only what is new, and not more often than once in STATUS_S, unless it is to be said at
        once. now: monotonic."""
        due = at_once or now >= self._status_at + STATUS_S
        if text != self._status and due and self._send(f"STATUS={text}"):
            self._status = text
            self._status_at = now

    def close(self) -> None:
        """Tell nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as failure:
            if not self._failed:
                log.warning("the service manager cannot be notified: %s", failure.strerror or failure)
            self._failed = True
            return False
        return True
