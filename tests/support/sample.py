"""The complete configurations of docs/, to be run in a folder of a test: with other paths, ports and users, and nothing
else changed.

    sample = Sample(tmp_path, Path("docs/bulk.toml").read_text(), hostname="out1.bulk.example")
    sample.port("10.0.0.10:25")          the port that stands for it here; the address becomes 127.0.0.1
    with sample.relay() as relay: ...

Folders of the configuration (/etc/angarium, /var/spool/angarium, /run/…) stand below `folder`. What is listened on,
name servers, and next hops with a port are moved to ports of 127.0.0.1, sources to 127.0.0.N.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from angarium.app.certificate import ensure_certificate
from tests.support.ports import free_port
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PATH = re.compile(r'(?<=[":])/(?:etc|var|run)/[^"]*')
_LISTEN = re.compile(r'^((?:listen|servers) = \[?)"([0-9.:\[\]]+):(\d+)"', re.M)
_HOP = re.compile(r"(smtps?|lmtp)://([a-z0-9.-]+):(\d+)")
_SOURCE = re.compile(r'^(ipv4 = )"[0-9.]+\.(\d+)"', re.M)
_USER = re.compile(r'^(user|group) = "[a-z]+".*\n', re.M)


class Sample:
    """One configuration of docs/."""

    def __init__(self, folder: Path, text: str, *, hostname: str, ports: Mapping[str, int] | None = None) -> None:
        """hostname: of the certificate that is made in the place of the one that the configuration names.

        ports: those that something of the test listens on already, by address and port of the configuration.
        """
        self.folder = folder
        self._ports = dict(ports or {})
        text = _USER.sub("", text)  # whoever runs the tests
        text = _SOURCE.sub(r'\1"127.0.0.\2"', text)
        text = _PATH.sub(lambda path: str(folder) + path[0], text)
        text = _LISTEN.sub(lambda found: f'{found[1]}"127.0.0.1:{self.port(f"{found[2]}:{found[3]}")}"', text)
        self.text = _HOP.sub(lambda found: f"{found[1]}://127.0.0.1:{self.port(f'{found[2]}:{found[3]}')}", text)
        for name in ("etc/angarium/tls", "var/log/angarium", "run/angarium", "var/spool"):
            (folder / name).mkdir(parents=True)
        ensure_certificate(folder / "etc/angarium/tls", (hostname, "localhost"))
        (folder / "etc/angarium/users").touch(mode=0o600)

    def port(self, address: str) -> int:
        """The port that stands here for an address and port of the configuration."""
        return self._ports.setdefault(address, free_port())

    def path(self, path: str) -> Path:
        """Where a path of the configuration is here."""
        return self.folder / path.lstrip("/")

    def relay(self) -> Relay:
        """The relay with this configuration."""
        return _SampleRelay(self)


class _SampleRelay(Relay):
    def __init__(self, sample: Sample) -> None:
        super().__init__(sample.folder)
        self._text = sample.text
        self.events_file = sample.path("/var/log/angarium/events.jsonl")
        self.spool = sample.path("/var/spool/angarium")
        self.admin_port = sample.port("127.0.0.1:8025")

    def write_config(self) -> None:
        self.config_file.write_text(self._text)
