"""A relay with submission listeners and log-ins of its own, for tests and benches."""

from __future__ import annotations

import base64
import ssl
from typing import TYPE_CHECKING, Any

import trustme

from angarium.policy.credentials_file import editing, make_entry
from tests.support.clients import Dialogue
from tests.support.ports import free_port
from tests.support.relay import Relay, merged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LOG_IN, PASSWORD = "alice@example.org", "correct horse battery"


class Submission(Relay):
    """A relay that people log in to: STARTTLS on `submission_port`, TLS on `submissions_port`, `users` is its file."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        *,
        log_ins: Mapping[str, str] | None = None,
        mechanisms: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.users = folder / "users"
        self.chain = folder / "chain.pem"
        key = folder / "key.pem"
        self.authority = trustme.CA()
        certificate = self.authority.issue_cert("localhost", "127.0.0.1")
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(self.chain), append=True)
        certificate.private_key_pem.write_to_path(str(key))
        with editing(self.users) as entries:
            for log_in, password in (log_ins or {LOG_IN: PASSWORD}).items():
                entries[log_in] = make_entry(password)
        self.submission_port, self.submissions_port = free_port(), free_port()
        chosen = {"mechanisms": list(mechanisms)} if mechanisms else {}
        listeners = [
            {"name": name, "listen": f"127.0.0.1:{port}", "role": "submission", "tls": tls, **chosen}
            for name, port, tls in (
                ("submission", self.submission_port, "starttls"),
                ("submissions", self.submissions_port, "implicit"),
            )
        ]
        own: dict[str, Any] = {
            "tls": {"certificate": str(self.chain), "key": str(key)},
            "credentials": [{"kind": "file", "file": str(self.users)}],
            "access": {"delay": "10ms", "longest_delay": "50ms"},
            "listener": listeners,
        }
        super().__init__(folder, merged(own, config or {}))

    def context(self) -> ssl.SSLContext:
        """Of a client that trusts it."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def dialogue(self) -> Dialogue:
        """A client on the STARTTLS port, after STARTTLS and EHLO."""
        client = Dialogue("127.0.0.1", self.submission_port)
        client.ehlo()
        client.start_tls()
        client.ehlo()
        return client


def plain(log_in: str, password: str) -> str:
    """The initial response of PLAIN."""
    return base64.b64encode(f"\0{log_in}\0{password}".encode()).decode()
