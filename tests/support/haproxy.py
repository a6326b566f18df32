"""HAProxy in front of a relay: ports on loopback, each with its way of saying who the client is."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.peers import require
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SETTINGS = """\
global
    maxconn 200
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
"""
SECTION = """\
listen {name}
    bind 127.0.0.1:{port}
{options}    server relay {server}
"""


class Haproxy:
    """`servers`: a name -> what stands behind `server relay`, such as "127.0.0.1:25 send-proxy". `ports`: by name.

    options: further lines of every section.
    """

    def __init__(self, servers: Mapping[str, str], options: Sequence[str] = ()) -> None:
        self._program = require("haproxy")
        self._servers = servers
        self._options = "".join(f"    {line}\n" for line in options)
        self.ports = {name: free_port() for name in servers}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Haproxy:
        text = SETTINGS + "".join(
            SECTION.format(name=name, port=self.ports[name], server=server, options=self._options)
            for name, server in self._servers.items()
        )
        self._folder = tempfile.TemporaryDirectory(prefix="angarium-haproxy-")
        file = Path(self._folder.name) / "haproxy.cfg"
        file.write_text(text)
        # ports are bound before the parent of a daemon ends; here it stays, and a connection waits in the kernel
        checked = subprocess.run([self._program, "-c", "-f", file], capture_output=True, check=False, text=True)
        assert checked.returncode == 0, f"{checked.stdout}{checked.stderr}\n{text}"
        self._process = subprocess.Popen(
            [self._program, "-db", "-q", "-f", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()
