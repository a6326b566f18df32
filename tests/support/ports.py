"""Free TCP ports on loopback, below the range from which the kernel takes those of outgoing connections.

A port that bind(0) gave and that was closed again may be some client's own port a moment later; one from here is not.
Where several processes run the tests side by side, each has a part of the range for itself.
"""

import os
import random
import socket

_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ROOM = 12_000 // _PROCESSES
FIRST = 20_000 + _NUMBER * _ROOM
LAST = FIRST + _ROOM - 1
_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now and that this process has not given out before."""
    for _ in range(1000):
        port = random.SystemRandom().randint(FIRST, LAST)
        if port not in _given and is_free(host, port):
            _given.add(port)
            return port
    raise OSError(f"no free port on {host}")


def free_ports_in_a_row(count: int, host: str = "127.0.0.1") -> int:
    """The first of so many ports of that kind."""
    for _ in range(1000):
        first = free_port(host)
        row = range(first + 1, first + count)
        if row.stop <= LAST + 1 and all(port not in _given and is_free(host, port) for port in row):
            _given.update(row)
            return first
    raise OSError(f"no {count} free ports in a row on {host}")


def is_free(host: str, port: int) -> bool:
    """Whether one could listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
