"""How `angarium-sendmail` gives a message to the relay: over its Unix socket, or into its drop folder.

Both carry the same octets, one SMTP transaction that ends with `BDAT n LAST` (RFC 3030): over the socket they are a
dialogue, and success means that the relay has said 250; in the folder they are a file, and success means that it is on
disk under its name. `transaction` writes them, `speak` and `drop` carry them.

Fails: Away when there is no relay to speak to (nothing listens, it shuts down, the connection is lost before its last
reply), which is when the folder is for; Refused with the reply when the relay does not take the message; OSError when
the folder cannot be used.

Bounds: each step may take TIMEOUT_S. A reply has at most LONGEST_REPLY octets. Only the standard library's light parts
are imported, since this program is started for every message.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from angarium.delivery.short_path import short_path

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DROPPED_SUFFIX", "Away", "Refused", "connect", "drop", "speak", "transaction"]

TIMEOUT_S = 300.0  # RFC 5321 §4.5.3.2
LONGEST_REPLY = 1 << 16
DROPPED_SUFFIX = ".mail"
DROPPED_MODE = 0o640  # the relay reads it as the folder's group


class Away(Exception):
    """No relay takes the message now; the text says why."""


class Refused(Exception):
    """The relay does not take the message: `code`, `enhanced` and `text` of its reply."""

    def __init__(self, reply: bytes) -> None:
        text = reply.decode("utf-8", "replace")
        super().__init__(text)
        self.code = int(text[:3]) if text[:3].isdecimal() else 0
        words = text[4:].split(" ", 1)
        self.enhanced = words[0] if words[0][:2] in ("2.", "4.", "5.") else ""


def transaction(
    reverse_path: str,
    recipients: Sequence[str],
    mail_data: bytes,
    *,
    body: str | None = None,
    envelope_id: str | None = None,
    ret: str | None = None,
    notify: str | None = None,
) -> tuple[list[bytes], bytes]:
    """The commands, one a line, and the mail data behind the last of them."""
    parameters = []
    if body or not mail_data.isascii():
        parameters.append(f"BODY={body or '8BITMIME'}")
    if not all(address.isascii() for address in (reverse_path, *recipients)):
        parameters.append("SMTPUTF8")
    parameters.append(f"SIZE={len(mail_data)}")
    if ret:
        parameters.append(f"RET={ret}")
    if envelope_id:
        parameters.append(f"ENVID={_xtext(envelope_id)}")
    commands = [" ".join((f"MAIL FROM:<{reverse_path}>", *parameters))]
    commands += [f"RCPT TO:<{recipient}>" + (f" NOTIFY={notify}" if notify else "") for recipient in recipients]
    commands.append(f"BDAT {len(mail_data)} LAST")
    return [command.encode("utf-8", "surrogateescape") for command in commands], mail_data


def _xtext(text: str) -> str:
    """RFC 3461 §4."""
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in text)


# ------------------------------------------------------------------ over the socket


def connect(path: str) -> socket.socket:
    """A connection to the relay's socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT_S)
    try:
        with short_path(path) as name:
            sock.connect(name)
    except OSError as error:
        sock.close()
        raise Away(f"{path}: {error.strerror}") from None
    return sock


def speak(path: str, hostname: str, commands: Sequence[bytes], mail_data: bytes) -> str:
    """Hand the message in; the relay's last reply. All recipients or none: Refused has the first that is not taken."""
    with connect(path) as sock:
        dialogue = _Dialogue(sock)
        dialogue.expect(b"2")
        dialogue.say(b"EHLO " + hostname.encode("ascii", "replace"))
        dialogue.expect(b"2")
        *envelope, last = commands
        dialogue.say(*envelope)
        for _ in envelope:
            dialogue.expect(b"2")
        dialogue.say(last, behind=mail_data)
        reply = dialogue.expect(b"2")
        dialogue.part()
    return reply.decode("utf-8", "replace")


class _Dialogue:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._read = b""

    def say(self, *lines: bytes, behind: bytes = b"") -> None:
        try:
            self._socket.sendall(b"".join(line + b"\r\n" for line in lines))
            self._socket.sendall(behind)
        except (BrokenPipeError, ConnectionResetError):
            return  # it may have said why before it went: the reply tells
        except OSError as error:
            raise Away(str(error.strerror or error)) from None

    def expect(self, first: bytes) -> bytes:
        """The last line of the next reply."""
        while True:
            line = self._line()
            if line[3:4] != b"-":
                break
        if line[:3] == b"421":
            raise Away(line.decode("utf-8", "replace"))
        if line[:1] != first:
            self.part()
            raise Refused(line)
        return line

    def _line(self) -> bytes:
        while b"\n" not in self._read:
            try:
                octets = self._socket.recv(4096)
            except OSError as error:
                raise Away(str(error.strerror or "no answer in time")) from None
            if not octets or len(self._read) > LONGEST_REPLY:
                raise Away("the connection was lost")
            self._read += octets
        line, _, self._read = self._read.partition(b"\n")
        return line.rstrip(b"\r")

    def part(self) -> None:
        """QUIT, whatever comes of it."""
        try:
            self._socket.sendall(b"QUIT\r\n")
        except OSError:
            return


# ------------------------------------------------------------------ into the folder


def drop(folder: str, hostname: str, commands: Sequence[bytes], mail_data: bytes) -> str:
    """Leave the message for the relay's next start; the name of the file, which is on disk under it."""
    name = f"{time.time_ns():019d}-{os.getpid()}-{os.urandom(4).hex()}"
    hidden, final = os.path.join(folder, f".{name}"), os.path.join(folder, name + DROPPED_SUFFIX)
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, DROPPED_MODE)
    try:
        os.fchmod(fd, DROPPED_MODE)  # whatever the umask is
        with os.fdopen(os.dup(fd), "wb") as file:
            for line in (b"EHLO " + hostname.encode("ascii", "replace"), *commands):
                file.write(line + b"\r\n")
            file.write(mail_data)
        os.fsync(fd)
        os.rename(hidden, final)
    except OSError:
        os.unlink(hidden)
        raise
    else:
        _sync_name(folder, fd)
    finally:
        os.close(fd)
    return name


def _sync_name(folder: str, fd: int) -> None:
    """The name is on disk too. A folder that may be written and not read cannot be synced: then its file system is."""
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        import ctypes

        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), folder) from None
        return
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)
