"""A real Dovecot: mailboxes by LMTP in, by IMAP out, and log-ins that a Postfix asks it about."""

from __future__ import annotations

import imaplib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.clients import PATIENCE_S
from tests.support.peers import require
from tests.support.ports import free_port
from tests.support.relay import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

PASSWORD = "an old secret"
LIBRARIES = Path("/usr/lib/dovecot")
MAIL_USER = 65534  # nobody


class Dovecot:
    """A Dovecot of its own in a temporary folder, with a mailbox for each of `users`.

    Nobody else exists there. A user in `full` has a quota that the first message exceeds. LMTP is served on `lmtp_port`
    and on `lmtp_socket`; the log-ins on `login_socket`. Of the users in `scram` nothing is kept but what SCRAM-SHA-256
    needs. Only root can start it.
    """

    def __init__(
        self,
        users: Sequence[str],
        *,
        full: Sequence[str] = (),
        scram: Sequence[str] = (),
        mechanisms: str = "plain login cram-md5",
    ) -> None:
        self._dovecot = require("dovecot")
        for program in ("lmtp", "imap"):
            if not (LIBRARIES / program).exists():
                pytest.skip(f"Dovecot's {program} is not installed (.ci/install-peers)")
        if os.geteuid() != 0:
            pytest.skip("Dovecot can be started by root only")
        self._users = users
        self._full = full
        self._scram = scram
        self._mechanisms = mechanisms
        self.lmtp_port = free_port()
        self.imap_port = free_port()
        # not in pytest's own folders: Dovecot's users may not enter them
        self.folder = folder = Path(tempfile.mkdtemp(prefix="angarium-dovecot-"))
        folder.chmod(0o755)
        self.lmtp_socket = folder / "lmtp"
        self.login_socket = folder / "login"
        self.log_file = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As a route's next hop, over TCP."""
        return f"lmtp://127.0.0.1:{self.lmtp_port}"

    @property
    def unix_url(self) -> str:
        """As a route's next hop, over the Unix socket."""
        return f"lmtp+unix:{self.lmtp_socket}"

    def __enter__(self) -> Dovecot:
        folder = self.folder
        (folder / "mail").mkdir()
        shutil.chown(folder / "mail", MAIL_USER, MAIL_USER)
        (folder / "users").write_text(
            "".join(
                f"{user}:{self._kept(user)}:{MAIL_USER}:{MAIL_USER}::{folder}/mail/{user}::"
                f"{'userdb_quota_rule=*:bytes=10' if user in self._full else ''}\n"
                for user in self._users
            )
        )
        configuration = folder / "dovecot.conf"
        configuration.write_text(f"""\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {self.log_file}
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = {self._mechanisms}
mail_location = maildir:~/Maildir
mail_plugins = quota
first_valid_uid = 1
plugin {{
  quota = maildir:User quota
  quota_grace = 0
}}
passdb {{
  driver = passwd-file
  args = scheme=plain username_format=%u {folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {folder}/users
}}
service imap-login {{
  inet_listener imap {{
    address = 127.0.0.1
    port = {self.imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {self.lmtp_port}
  }}
  unix_listener {self.lmtp_socket} {{
    mode = 0666
  }}
}}
service auth {{
  unix_listener {self.login_socket} {{
    mode = 0666
  }}
}}
""")
        with (folder / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                [self._dovecot, "-F", "-c", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        wait_until(self._is_up, "Dovecot to answer")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)

    def _kept(self, user: str) -> str:
        """The password as the file has it."""
        if user not in self._scram:
            return f"{{PLAIN}}{PASSWORD}"
        words = ["doveadm", "-c", "/dev/null", "pw", "-s", "SCRAM-SHA-256", "-p", PASSWORD]
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout.strip()

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "stderr").read_text() + self.log
        try:
            with socket.create_connection(("127.0.0.1", self.lmtp_port), 1):
                return True
        except OSError:
            return False

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def messages(self, user: str) -> list[bytes]:
        """The user's INBOX, read by IMAP, oldest first."""
        with imaplib.IMAP4("127.0.0.1", self.imap_port, timeout=PATIENCE_S) as client:
            client.login(user, PASSWORD)
            client.select("INBOX", readonly=True)
            _, found = client.search(None, "ALL")
            octets = []
            for number in found[0].split():
                _, parts = client.fetch(number, "(BODY.PEEK[])")
                assert isinstance(parts[0], tuple)
                octets.append(parts[0][1])
            return octets
