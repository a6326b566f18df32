"""SMTP clients: one that says exactly what it is told, and real programs started with the right words.

Dialogue is a blocking connection for transcripts. The functions below it run swaks, msmtp, curl and nodemailer; each
returns when the program has ended, and fails with its output when it did not succeed.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE_S = float(os.environ.get("TEST_PATIENCE_S", "60"))  # how long anything here is waited for
ROOT = Path(__file__).parents[2]
NODE_MODULES = ROOT / ".cache" / "node" / "node_modules"


def stuffed(content: bytes) -> bytes:
    """Mail data as DATA carries it (RFC 5321 §4.5.2), with its end; content must end with CRLF."""
    assert content == b"" or content.endswith(b"\r\n"), "DATA adds a CRLF; use BDAT"
    dotted = content.replace(b"\r\n.", b"\r\n..")
    return (b"." if content.startswith(b".") else b"") + dotted + b".\r\n"


class Dialogue:
    """A connection to an SMTP server, greeting read. Replies are (code, lines).

    `source`: the client's own address. `path`: of a Unix socket, in place of host and port.
    """

    def __init__(self, host: str, port: int, *, greet: bool = True, source: str = "", path: str = "") -> None:
        self.socket: socket.socket
        if path:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(PATIENCE_S)
            self.socket.connect(path)
        else:
            own = (source, 0) if source else None
            self.socket = socket.create_connection((host, port), timeout=PATIENCE_S, source_address=own)
        self._file = self.socket.makefile("rb")
        self.greeting = self.read() if greet else (0, [])
        self.extensions: dict[str, str] = {}

    def __enter__(self) -> Dialogue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def read(self) -> tuple[int, list[str]]:
        """One reply, all its lines. ConnectionResetError when the server has closed."""
        lines = []
        while True:
            line = self._file.readline()
            if not line.endswith(b"\r\n"):
                raise ConnectionResetError(f"the server closed the connection after {lines} {line!r}")
            lines.append(line[4:-2].decode("utf-8", "replace"))
            if line[3:4] != b"-":
                return int(line[:3]), lines

    def write(self, octets: bytes) -> None:
        self.socket.sendall(octets)

    def command(self, line: str) -> tuple[int, list[str]]:
        """A command line without its CRLF, and its reply."""
        self.write(line.encode() + b"\r\n")
        return self.read()

    def expect(self, code: int, line: str) -> list[str]:
        """A command whose reply must have this code."""
        got, lines = self.command(line)
        assert got == code, f"{line}: {got} {lines}"
        return lines

    def ehlo(self, name: str = "client.test") -> dict[str, str]:
        """EHLO; keywords and their parameters."""
        lines = self.expect(250, f"EHLO {name}")
        pairs = (line.partition(" ") for line in lines[1:])
        self.extensions = {keyword.upper(): argument for keyword, _, argument in pairs}
        return self.extensions

    def start_tls(self) -> None:
        """STARTTLS, whatever the certificate."""
        self.expect(220, "STARTTLS")
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.take_over(context.wrap_socket(self.socket))

    def take_over(self, wrapped: socket.socket) -> None:
        """Go on over this socket: the same connection under TLS."""
        self._file.close()
        self.socket = wrapped
        self._file = wrapped.makefile("rb")

    def envelope(self, reverse_path: str, recipients: Sequence[str], parameters: str = "") -> None:
        """MAIL and RCPT, all of which must be accepted."""
        self.expect(250, f"MAIL FROM:<{reverse_path}>{' ' if parameters else ''}{parameters}")
        for recipient in recipients:
            self.expect(250, f"RCPT TO:<{recipient}>")

    def send(self, reverse_path: str, recipients: Sequence[str], content: bytes, parameters: str = "") -> str:
        """A whole transaction by DATA. Returns the queue id."""
        self.envelope(reverse_path, recipients, parameters)
        self.expect(354, "DATA")
        self.write(stuffed(content))
        return self.queued()

    def send_chunks(
        self, reverse_path: str, recipients: Sequence[str], chunks: Sequence[bytes], parameters: str = ""
    ) -> str:
        """A whole transaction by BDAT (RFC 3030), every chunk and its command in one write. Returns the queue id."""
        self.envelope(reverse_path, recipients, parameters)
        for chunk in chunks[:-1]:
            self.write(b"BDAT %d\r\n" % len(chunk) + chunk)
            code, lines = self.read()
            assert code == 250, lines
        self.write(b"BDAT %d LAST\r\n" % len(chunks[-1]) + chunks[-1])
        return self.queued()

    def queued(self) -> str:
        """Read the reply to mail data; the queue id in it."""
        code, lines = self.read()
        assert code == 250, f"{code} {lines}"
        words = lines[-1].split()
        return words[words.index("as") + 1]


def run_program(arguments: Sequence[str], content: bytes = b"", **environment: str) -> str:
    """A program to its end; AssertionError with its output when it fails."""
    done = subprocess.run(
        list(arguments),
        input=content,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE_S,
        check=False,
        env=os.environ | environment,
    )
    output = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, f"{arguments[0]} ended with {done.returncode}:\n{output}"
    return output


def swaks(port: int, reverse_path: str, recipient: str, file: Path, *options: str) -> str:
    """swaks sends a file as it is; its transcript."""
    where = ["--server", "127.0.0.1", "--port", str(port), "--helo", "swaks.test"]
    return run_program(["swaks", *where, "--from", reverse_path, "--to", recipient, "--data", f"@{file}", *options])


def msmtp(folder: Path, port: int, reverse_path: str, recipient: str, content: bytes, *options: str) -> str:
    """msmtp with a configuration of its own (it refuses one that others may read)."""
    settings = folder / "msmtprc"
    settings.touch(mode=0o600)
    settings.write_text(f"account default\nhost 127.0.0.1\nport {port}\ntimeout 30\ndomain msmtp.test\n")
    return run_program(
        ["msmtp", f"--file={settings}", f"--from={reverse_path}", *options, "--", recipient], content, HOME=str(folder)
    )


def curl(url: str, reverse_path: str, recipient: str, file: Path, *options: str) -> str:
    """curl's SMTP; `url` is smtp://… or smtps://…, with the EHLO name as its path."""
    envelope = ["--mail-from", reverse_path, "--mail-rcpt", recipient]
    return run_program(
        ["curl", "-sS", "-v", "--noproxy", "*", "--url", url, *envelope, "--upload-file", str(file), *options]
    )


NODE_SENDER = """
const nodemailer = require(process.argv[1]);
const {transport, envelope, messages} = JSON.parse(process.argv[2]);
const transporter = nodemailer.createTransport(transport);
(async () => {
  for (const message of messages) {
    const info = await transporter.sendMail({envelope, ...message});
    console.log(info.response);
  }
  transporter.close();
})().catch((error) => { console.error(error); process.exitCode = 1; });
"""


def nodemailer(request: str) -> str:
    """nodemailer with {transport, envelope, messages} in JSON; one line of output per message, the server's reply."""
    return run_program(["node", "-e", NODE_SENDER, str(NODE_MODULES / "nodemailer"), request])
