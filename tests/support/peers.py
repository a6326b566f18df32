"""Next hops: one whose every reply a test can script, and Postfix.

SinkServer is a small SMTP server on a loop and thread of its own, so that plain blocking tests can use it. It offers
what it is told to offer, keeps what it took octet for octet, and counts connections. `answer` is asked for every step:

    def answer(step: Step) -> str | None:
        if step.verb == "RCPT" and "later@" in step.argument:
            return "451 4.2.1 Try again later"
        return None    # the usual reply

A step's verb is that of the command, "CONNECT" for the greeting, or "." for the end of mail data. CLOSE ends the
connection without a word. `hold(verb)` makes such steps wait until `release()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.clients import NODE_MODULES, PATIENCE_S
from tests.support.loop_end import end_tasks
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CLOSE = "close"
EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES", "DSN", "SIZE 100000000")
USUAL = {
    "CONNECT": "220 sink.test ESMTP",
    "HELO": "250 sink.test",
    "MAIL": "250 2.1.0 OK",
    "RCPT": "250 2.1.5 OK",
    "DATA": "354 Go on",
    "BDAT": "250 2.0.0 OK",
    ".": "250 2.0.0 Taken",
    "RSET": "250 2.0.0 OK",
    "NOOP": "250 2.0.0 OK",
    "QUIT": "221 2.0.0 Bye",
}


@dataclass
class Mail:
    """One transaction: what was asked for, and the octets between the dots taken off."""

    connection: int
    reverse_path: str = ""
    parameters: str = ""
    recipients: list[str] = field(default_factory=list)
    content: bytes = b""
    chunked: bool = False
    tls: bool = False
    ready: bool = False  # MAIL was accepted
    client: str = ""  # its address, and what it said in EHLO
    greeting: str = ""


@dataclass(frozen=True)
class Step:
    """What the server is about to answer. `number` counts the steps with this verb, over all connections, from 1."""

    verb: str
    argument: str
    connection: int
    number: int
    mail: Mail


class SinkServer:
    """The server; `with` starts and stops it, and `start` and `stop` may be called again: the port stays."""

    def __init__(
        self,
        *,
        extensions: Sequence[str] = EXTENSIONS,
        answer: Callable[[Step], str | None] | None = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int | None = None,
        esmtp: bool = True,
        defiant: bool = False,
    ) -> None:
        """defiant: behind a 421 it goes on as if it had said nothing."""
        self.host = host
        self.defiant = defiant
        self.port = port or free_port(host)
        self.extensions = list(extensions)
        self.answer = answer
        self.esmtp = esmtp
        self.mails: list[Mail] = []
        self.lines: list[tuple[int, str]] = []  # (connection, command line)
        self.connections = 0
        self.open = 0
        self.early = 0  # command lines with more behind them, before an answer
        self.errors: list[BaseException] = []
        self._tls = tls
        self._counts: dict[str, int] = {}
        self._changed = threading.Condition()
        self._held: dict[str, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """As a route's next hop."""
        return f"smtp://{self.host}:{self.port}"

    # -------------------------------------------------------------- life

    def start(self) -> None:
        """Listen."""
        assert self._thread is None
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, started), name="sink server", daemon=True)
        self._thread.start()
        assert started.wait(PATIENCE_S)
        if self._server is None:
            self._thread.join()
            self._thread = None
            raise self.errors.pop()

    def stop(self) -> None:
        """Listen no longer, and end every connection without a word."""
        if self._thread is None:
            return
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._thread = None
        self._server = None

    def __enter__(self) -> SinkServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.errors:
            raise BaseExceptionGroup("the sink server of the test failed", self.errors)

    def _run(self, loop: asyncio.AbstractEventLoop, started: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        try:
            self._server = loop.run_until_complete(
                asyncio.start_server(self._accept, self.host, self.port, limit=1 << 20, backlog=512)
            )
        except OSError as failure:
            self.errors.append(failure)
            loop.close()
            return
        finally:
            started.set()
        loop.run_forever()
        self._server.close()
        loop.run_until_complete(end_tasks())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    # -------------------------------------------------------------- what tests ask

    def to(self, recipient: str) -> list[Mail]:
        """What was taken for this recipient."""
        with self._changed:
            return [mail for mail in self.mails if recipient in mail.recipients]

    def wait(self, condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        """Until a condition on this server holds; it is looked at whenever something has happened."""
        with self._changed:
            assert self._changed.wait_for(condition, patience_s), f"waited for {what}; lines: {self.lines[-20:]}"

    def wait_mail(self, recipient: str, count: int = 1) -> Mail:
        """Until so many messages were taken for this recipient; the last of them."""
        self.wait(lambda: len(self.to(recipient)) >= count, f"{count} messages for {recipient}")
        return self.to(recipient)[count - 1]

    def wait_line(self, start: str, count: int = 1) -> None:
        """Until so many command lines beginning like that have come."""
        self.wait(lambda: self.count(start) >= count, f"{count} x {start}")

    def count(self, start: str) -> int:
        """Command lines that begin like that."""
        return sum(line.upper().startswith(start.upper()) for _, line in self.lines)

    def hold(self, verb: str) -> None:
        """From now on steps with this verb are not answered until release()."""
        self._held[verb] = asyncio.Event()

    def release(self) -> None:
        """Answer what waits, and nothing waits any more."""
        assert self._loop is not None
        held, self._held = self._held, {}
        for event in held.values():
            self._loop.call_soon_threadsafe(event.set)

    def close_connections(self) -> None:
        """End every open connection without a word."""
        assert self._loop is not None

        def close() -> None:
            for task in tuple(self._tasks):
                task.cancel()

        self._loop.call_soon_threadsafe(close)
        self.wait(lambda: self.open == 0, "no connection")

    # -------------------------------------------------------------- SMTP

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with self._changed:
            self.connections += 1
            self.open += 1
            number = self.connections
            self._changed.notify_all()
        try:
            await _Connection(self, number, reader, writer).serve()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass  # the client has gone, or the test ends the connection
        except Exception as failure:  # noqa: BLE001  # shown to the test when the server stops
            self.errors.append(failure)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            with self._changed:
                self.open -= 1
                self._changed.notify_all()

    async def reply_to(self, verb: str, argument: str, mail: Mail) -> str:
        """The script's reply or the usual one, after what holds it back."""
        held = self._held.get(verb)
        if held is not None:
            await held.wait()
        self._counts[verb] = number = self._counts.get(verb, 0) + 1
        scripted = None
        if self.answer is not None:
            scripted = self.answer(Step(verb, argument, mail.connection, number, mail))
        if scripted is not None:
            return scripted
        return USUAL.get(verb, "502 5.5.1 Not here")

    def note_line(self, connection: int, line: str) -> None:
        with self._changed:
            self.lines.append((connection, line))
            self._changed.notify_all()

    def note_mail(self, mail: Mail) -> None:
        with self._changed:
            self.mails.append(mail)
            self._changed.notify_all()

    @property
    def tls(self) -> ssl.SSLContext | None:
        return self._tls


class _Connection:
    def __init__(
        self, server: SinkServer, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._number = number
        self._reader = reader
        self._writer = writer
        self._secure = False
        peer = writer.get_extra_info("peername")
        self._client = peer[0] if peer else ""
        self._greeting = ""
        self._mail = Mail(number, client=self._client)

    def _reset(self) -> None:
        self._mail = Mail(self._number, tls=self._secure, client=self._client, greeting=self._greeting)

    async def _say(self, verb: str, argument: str = "") -> str:
        """Answer a step. Returns the reply's code; ConnectionResetError after CLOSE."""
        reply = await self._server.reply_to(verb, argument, self._mail)
        if reply == CLOSE:
            raise ConnectionResetError
        self._writer.write(reply.encode() + b"\r\n")
        if reply.startswith("421") and not self._server.defiant:
            await self._writer.drain()
            raise ConnectionResetError
        return reply[:3]

    async def serve(self) -> None:
        if (await self._say("CONNECT"))[0] != "2":
            return
        while True:
            line = (await self._reader.readuntil(b"\r\n"))[:-2].decode("utf-8", "surrogateescape")
            self._server.early += bool(self._reader._buffer)
            self._server.note_line(self._number, line)
            verb, _, argument = line.partition(" ")
            verb = verb.upper()
            if verb in {"EHLO", "HELO", "LHLO"}:
                self._greeting = argument
            if verb == "EHLO" and self._server.esmtp:
                await self._ehlo(argument)
            elif verb == "STARTTLS" and self._server.tls is not None and not self._secure:
                self._writer.write(b"220 2.0.0 Go\r\n")
                await self._writer.start_tls(self._server.tls)
                self._secure = True
                self._reset()
            elif verb == "MAIL":
                await self._mail_from(argument)
            elif verb == "RCPT" and not self._mail.ready:
                self._writer.write(b"503 5.5.1 MAIL first\r\n")
            elif verb == "RCPT":
                code = await self._say("RCPT", argument)
                if code[0] == "2":
                    self._mail.recipients.append(_path_of(argument))
            elif verb == "DATA":
                await self._data()
            elif verb == "BDAT":
                await self._chunk(argument)
            elif verb == "RSET":
                await self._say("RSET")
                self._reset()
            else:
                await self._say(verb, argument)
            await self._writer.drain()
            if verb == "QUIT":
                return

    async def _ehlo(self, argument: str) -> None:
        scripted = self._server.answer and self._server.answer(Step("EHLO", argument, self._number, 0, self._mail))
        if scripted:
            self._writer.write(scripted.encode() + b"\r\n")
            return
        keywords = list(self._server.extensions)
        if self._server.tls is not None and not self._secure:
            keywords.append("STARTTLS")
        lines = ["sink.test", *keywords]
        self._writer.write(b"".join(b"250-" + line.encode() + b"\r\n" for line in lines[:-1]))
        self._writer.write(b"250 " + lines[-1].encode() + b"\r\n")
        self._reset()

    async def _mail_from(self, argument: str) -> None:
        self._reset()
        path, _, parameters = argument.partition(">")
        self._mail.reverse_path = path.partition("<")[2]
        self._mail.parameters = parameters.strip()
        code = await self._say("MAIL", argument)
        self._mail.ready = code[0] == "2" or (self._server.defiant and code == "421")

    async def _data(self) -> None:
        if not self._mail.recipients:
            self._writer.write(b"554 5.5.1 No valid recipients\r\n")
            return
        if await self._say("DATA") != "354":
            return
        lines = []
        while (line := await self._line()) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
        self._mail.content = b"".join(lines)
        await self._end()

    async def _line(self) -> bytes:
        """One line of mail data, however long."""
        parts = []
        while True:
            try:
                return b"".join([*parts, await self._reader.readuntil(b"\r\n")])
            except asyncio.LimitOverrunError as overrun:
                parts.append(await self._reader.readexactly(overrun.consumed))

    async def _chunk(self, argument: str) -> None:
        size, _, last = argument.partition(" ")
        octets = await self._reader.readexactly(int(size))
        if not self._mail.recipients:
            self._writer.write(b"554 5.5.1 No valid recipients\r\n")
            return
        self._mail.content += octets
        self._mail.chunked = True
        if last.upper() == "LAST":
            await self._end()
        else:
            await self._say("BDAT", argument)

    async def _end(self) -> None:
        mail = self._mail
        reply = await self._server.reply_to(".", "", mail)
        self._reset()
        if reply == CLOSE:
            raise ConnectionResetError
        if reply.startswith("2"):
            self._server.note_mail(mail)
        self._writer.write(reply.encode() + b"\r\n")
        if reply.startswith("421"):
            await self._writer.drain()
            raise ConnectionResetError


def _path_of(argument: str) -> str:
    return argument.partition("<")[2].partition(">")[0]


# ------------------------------------------------------------------ real programs


def require(program: str) -> str:
    """The path of a program; skips the test, with the reason, when it is not installed."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed (.ci/install-peers)")
    return found


def require_perl_module(module: str) -> None:
    """Skip when perl does not have a module; swaks needs some for TLS."""
    if subprocess.run([require("perl"), f"-M{module}", "-e1"], capture_output=True, check=False).returncode:
        pytest.skip(f"perl has no {module} (Debian: lib{module.lower().replace('::', '-')}-perl)")


def require_nodemailer() -> None:
    """Skip when node or nodemailer is missing."""
    require("node")
    if not (NODE_MODULES / "nodemailer" / "package.json").is_file():
        pytest.skip("nodemailer is not in .cache/node (.ci/install-peers)")


class Postfix:
    """A Postfix of its own: configuration, queue and Maildir in a temporary folder, one smtpd on loopback.

    It takes mail for one.postfix.test and two.postfix.test and delivers it to `maildir`; nobody@… does not exist there.
    Only root can start it.
    """

    SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""

    def __init__(
        self,
        *,
        size_limit: int = 20_480_000,
        hidden: str = "",
        services: str = "",
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """hidden: extensions that it does not offer, in its own words (`dsn, chunking`).

        services, settings: more lines of master.cf, more or other settings of main.cf.
        """
        self._hidden = hidden
        self._services = services
        self._settings = settings or {}
        self._postfix = require("postfix")
        if os.geteuid() != 0:
            pytest.skip("Postfix can be started by root only")
        self.port = free_port()
        # not in pytest's own folders: Postfix's users may not enter them
        self.folder = folder = Path(tempfile.mkdtemp(prefix="angarium-postfix-"))
        folder.chmod(0o755)
        self.maildir = folder / "mail" / "box"
        self.log_file = folder / "log"
        self._configuration = folder / "etc"
        self._size_limit = size_limit

    @property
    def url(self) -> str:
        """As a route's next hop."""
        return f"smtp://127.0.0.1:{self.port}"

    def __enter__(self) -> Postfix:
        for name in ("etc", "queue", "data", "mail"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        shutil.chown(self.folder / "data", "postfix")
        shutil.chown(self.folder / "mail", "nobody")
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": self.folder / "queue",
            "data_directory": self.folder / "data",
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "myhostname": "mail.postfix.test",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "mydestination": "",
            "local_recipient_maps": "",
            "alias_maps": "",
            "alias_database": "",
            "disable_dns_lookups": "yes",
            "smtpd_peername_lookup": "no",
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
            "smtpd_tls_security_level": "none",
            "maillog_file": self.log_file,
            "maillog_file_prefixes": "/",
            "message_size_limit": self._size_limit,
            "virtual_mailbox_limit": 0,
            "virtual_mailbox_domains": "one.postfix.test, two.postfix.test",
            "virtual_mailbox_base": self.folder / "mail",
            "virtual_mailbox_maps": f"regexp:{self._configuration}/boxes",
            "virtual_uid_maps": "static:65534",
            "virtual_gid_maps": "static:65534",
            "always_add_missing_headers": "no",
            "local_header_rewrite_clients": "",  # for others nothing is added or rewritten
            "smtputf8_enable": "yes",
            "smtpd_discard_ehlo_keywords": self._hidden,
            **self._settings,
        }
        (self._configuration / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        (self._configuration / "master.cf").write_text(self.SERVICES.format(port=self.port) + self._services)
        (self._configuration / "boxes").write_text("!/^nobody@/ box/\n")
        try:
            self._control("start")
        except AssertionError:
            shutil.rmtree(self.folder)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._control("stop")
        master = self._master()
        until = time.monotonic() + PATIENCE_S
        while master is not None and _alive(master):
            if time.monotonic() > until:
                os.kill(master, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(self.folder)

    def _control(self, verb: str) -> None:
        done = subprocess.run(
            [self._postfix, "-c", str(self._configuration), verb],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_S,
            check=False,
        )
        log = self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""
        assert done.returncode == 0, f"postfix {verb}: {done.stdout.decode()}\n{log[-2000:]}"

    def _master(self) -> int | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((self.folder / "queue" / "pid" / "master.pid").read_text())
        return None

    def arrived(self) -> list[bytes]:
        """The files of the Maildir, oldest first."""
        folder = self.maildir / "new"
        return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
