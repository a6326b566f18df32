"""`angarium-sendmail`: its options, what it sends, and its exit statuses. The relay is a script on a Unix socket."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from angarium.cli.hand_in import DROPPED_SUFFIX
from angarium.cli.sendmail import UsageError, parse, read_settings
from angarium.config.model import Sendmail
from angarium.queue.dropped import split_transaction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 30.0
USER = pwd.getpwuid(os.getuid()).pw_name
OK_REPLIES = {"EHLO": "250 relay", "MAIL": "250 2.1.0 ok", "RCPT": "250 2.1.5 ok", "BDAT": "250 2.0.0 queued as X"}


class ScriptedRelay:
    """Answers each command by its verb, and keeps what it was told."""

    def __init__(self, path: Path) -> None:
        self.greeting = "220 relay ESMTP"
        self.replies = dict(OK_REPLIES)
        self.lines: list[str] = []
        self.mail_data = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            # a client may be gone before the last reply
            with contextlib.suppress(OSError), connection, connection.makefile("rwb") as stream:
                self._speak(stream)

    def _speak(self, stream: object) -> None:
        def say(text: str) -> None:
            stream.write(text.encode() + b"\r\n")  # type: ignore[attr-defined]
            stream.flush()  # type: ignore[attr-defined]

        say(self.greeting)
        while line := stream.readline():  # type: ignore[attr-defined]
            text = line.rstrip(b"\r\n").decode()
            self.lines.append(text)
            verb = text.split(" ")[0]
            if verb == "QUIT":
                say("221 bye")
                return
            if verb == "BDAT":
                self.mail_data = stream.read(int(text.split(" ")[1]))  # type: ignore[attr-defined]
            if (reply := self.replies.get(verb)) is None:
                return
            say(reply)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(PATIENCE_S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "drop").mkdir()
    (tmp_path / "angarium.toml").write_text(
        '[node]\nhostname = "relay.example"\nspool = "spool"\n[limits]\nmessage_size = "1MB"\n'
        '[sendmail]\nsocket = "sendmail.sock"\ndrop = "drop"\n'
    )
    return tmp_path


@pytest.fixture
def relay(folder: Path) -> Iterator[ScriptedRelay]:
    relay = ScriptedRelay(folder / "sendmail.sock")
    yield relay
    relay.close()


def sendmail(
    folder: Path, *arguments: str, message: bytes = b"Subject: s\n\nbody\n", name: str = ""
) -> tuple[int, str]:
    environment = {**os.environ, "ANGARIUM_CONFIG": str(folder / "angarium.toml")}
    program = [sys.executable, "-m", "angarium.cli.sendmail"]
    if name:
        program = [
            sys.executable,
            "-c",
            f"import sys; sys.argv[0] = {name!r}; from angarium.cli.sendmail import main; main()",
        ]
    done = subprocess.run(
        [*program, *arguments], input=message, capture_output=True, env=environment, check=False, timeout=PATIENCE_S
    )
    return done.returncode, (done.stdout + done.stderr).decode()


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("arguments", "options", "recipients"),
    [
        (["a@b"], {}, ["a@b"]),
        (["-t"], {"t": ""}, []),
        (["-ti"], {"t": "", "i": ""}, []),
        (["-t", "-oi"], {"t": "", "i": ""}, []),
        (["-oi", "-oem", "-odb", "a@b"], {"i": "", "o": "db"}, ["a@b"]),
        (["-o", "i", "a@b"], {"i": ""}, ["a@b"]),
        (["-f", "me@x", "a@b"], {"f": "me@x"}, ["a@b"]),
        (["-fme@x", "a@b"], {"f": "me@x"}, ["a@b"]),
        (["-f<>", "a@b"], {"f": "<>"}, ["a@b"]),
        (["-f", "", "a@b"], {"f": ""}, ["a@b"]),
        (["-rme@x", "a@b"], {"f": "me@x"}, ["a@b"]),
        (["-i", "-F", "Some One", "--", "-a@b"], {"i": "", "F": "Some One"}, ["-a@b"]),
        (["-N", "success,delay", "-R", "hdrs", "-V", "id", "-B8BITMIME"],
         {"N": "success,delay", "R": "hdrs", "V": "id", "B": "8BITMIME"}, []),
        (["-bs"], {"b": "s"}, []),
        (["-bm", "-Am", "-v", "-O", "Mode=b", "a@b"], {"b": "m", "A": "m", "v": "", "O": "Mode=b"}, ["a@b"]),
        (["-q30m"], {"q": "30m"}, []),
        (["-"], {}, ["-"]),
    ],
)  # fmt: skip
def test_options(arguments: list[str], options: dict[str, str], recipients: list[str]) -> None:
    assert parse(arguments) == (options, recipients)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-Z"],
        ["-f"],
        ["-bd"],
        ["-bv", "a@b"],
        ["-N", "sometimes"],
        ["-N", "never,delay"],
        ["-R", "some"],
        ["-B", "9BIT"],
    ],
)
def test_wrong_options(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(arguments)


def test_what_it_takes_for_granted_is_what_the_relay_does() -> None:
    settings = read_settings("/nonexistent/angarium.toml")
    assert (settings.socket, settings.drop) == (Sendmail().socket, Sendmail().drop)


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys, angarium.cli.sendmail\n"
        "print([name for name in ('asyncio', 'click', 'email', 'msgspec', 'ssl', 'http', 'ctypes', 'tomllib', 'uvloop',"
        " 'angarium._core.server_session') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"


# ------------------------------------------------------------------ with a relay


def test_a_message(folder: Path, relay: ScriptedRelay) -> None:
    assert sendmail(folder, "-i", "-F", "Some One", "a@x.example", "root", message=b"Subject: s\n\n.\nbody\n") == (
        0,
        "",
    )
    assert relay.lines == [
        "EHLO relay.example",
        f"MAIL FROM:<{USER}@relay.example> SIZE={len(relay.mail_data)}",
        "RCPT TO:<a@x.example>",
        "RCPT TO:<root@relay.example>",
        f"BDAT {len(relay.mail_data)} LAST",
        "QUIT",
    ]
    header, _, body = relay.mail_data.partition(b"\r\n\r\n")
    assert body == b".\r\nbody\r\n"
    assert f"From: Some One <{USER}@relay.example>".encode() in header.split(b"\r\n")
    assert header.count(b"\r\n") == 3


def test_the_parameters_of_a_message(folder: Path, relay: ScriptedRelay) -> None:
    arguments = ("-f", "Me <me@x.example>", "-N", "success,delay", "-R", "hdrs", "-V", "a+b=c", "a@x.example")
    assert sendmail(folder, *arguments, message="Subject: ü\n\n".encode())[0] == 0
    mail = relay.lines[1].split(" ")
    assert mail[:3] == ["MAIL", "FROM:<me@x.example>", "BODY=8BITMIME"]
    assert mail[4:] == ["RET=HDRS", "ENVID=a+2Bb+3Dc"]
    assert relay.lines[2] == "RCPT TO:<a@x.example> NOTIFY=SUCCESS,DELAY"


def test_addresses_beyond_ascii_ask_for_smtputf8(folder: Path, relay: ScriptedRelay) -> None:
    assert sendmail(folder, "-f", "me@x.example", "jörg@x.example")[0] == 0
    assert "SMTPUTF8" in relay.lines[1].split(" ")
    assert relay.lines[2] == "RCPT TO:<jörg@x.example>"


def test_recipients_from_the_header(folder: Path, relay: ScriptedRelay) -> None:
    message = b"To: A <a@x.example>\nCc: b@x.example, a@x.example\nBcc: c@x.example\n\nbody\n"
    assert sendmail(folder, "-t", "d@x.example", message=message) == (0, "")
    recipients = [line[9:-1] for line in relay.lines if line.startswith("RCPT")]
    assert recipients == ["d@x.example", "a@x.example", "b@x.example", "c@x.example"]
    assert b"c@x.example" not in relay.mail_data


@pytest.mark.parametrize(
    ("options", "kept"), [((), b"one\r\n"), (("-i",), b"one\r\n.\r\ntwo\r\n"), (("-oi",), b"one\r\n.\r\ntwo\r\n")]
)
def test_a_dot_alone(folder: Path, relay: ScriptedRelay, options: tuple[str, ...], kept: bytes) -> None:
    assert sendmail(folder, *options, "a@x.example", message=b"Subject: s\n\none\n.\ntwo\n")[0] == 0
    assert relay.mail_data.partition(b"\r\n\r\n")[2] == kept


@pytest.mark.parametrize(
    ("verb", "reply", "status"),
    [
        ("MAIL", "550 5.7.1 not you", 77),
        ("MAIL", "452 4.3.1 out of disk space", 75),
        ("RCPT", "550 5.1.1 no such user", 67),
        ("RCPT", "550 5.1.2 no such domain", 68),
        ("RCPT", "550 5.7.1 Relaying denied", 77),
        ("RCPT", "501 5.1.3 Bad address", 65),
        ("BDAT", "552 5.3.4 Message exceeds the size limit", 69),
        ("BDAT", "554 5.6.0 Bare CR", 65),
        ("BDAT", "451 4.3.0 The message could not be written to disk", 75),
    ],
)
def test_what_is_refused_is_not_dropped(folder: Path, relay: ScriptedRelay, verb: str, reply: str, status: int) -> None:
    relay.replies[verb] = reply
    code, said = sendmail(folder, "a@x.example")
    assert (code, said) == (status, f"angarium-sendmail: refused: {reply}\n")
    assert list((folder / "drop").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        ((), b"", 64),
        (("-t",), b"Subject: nobody\n\n", 64),
        (("a b",), b"", 64),
        (("-t",), b"To: a b\n\n", 65),
        (("-f", "a@x.example, b@x.example", "c@x.example"), b"", 64),
        (("-Z",), b"", 64),
        (("a@x.example",), bytes(1_000_001), 69),
        (("-i", "a@x.example"), bytes(1_000_001), 69),
    ],
)
def test_what_cannot_be_sent(folder: Path, arguments: tuple[str, ...], message: bytes, status: int) -> None:
    code, said = sendmail(folder, *arguments, message=message)
    assert code == status
    assert said.startswith("angarium-sendmail: ")
    assert said.count("\n") == 1


def test_smtp_on_standard_input(folder: Path, relay: ScriptedRelay) -> None:
    code, said = sendmail(folder, "-bs", message=b"EHLO me\r\nMAIL FROM:<>\r\nQUIT\r\n")
    assert (code, said) == (0, "220 relay ESMTP\r\n250 relay\r\n250 2.1.0 ok\r\n221 bye\r\n")


def test_smtp_without_quit_ends_with_its_input(folder: Path, relay: ScriptedRelay) -> None:
    assert sendmail(folder, "-bs", message=b"EHLO me\r\n") == (0, "220 relay ESMTP\r\n250 relay\r\n221 bye\r\n")


@pytest.mark.parametrize(("arguments", "name"), [(("-bi",), ""), (("-I",), ""), ((), "newaliases"), (("-q30m",), "")])
def test_what_does_nothing(folder: Path, arguments: tuple[str, ...], name: str) -> None:
    assert sendmail(folder, *arguments, name=name, message=b"") == (0, "")


def test_the_queue_of_a_relay_that_is_away(folder: Path) -> None:
    for arguments, name in ((("-bp",), ""), (("-q",), ""), ((), "mailq")):
        code, said = sendmail(folder, *arguments, name=name, message=b"")
        assert code == 75
        assert "cannot reach the relay" in said


def test_help_and_version(folder: Path) -> None:
    assert sendmail(folder, "--help")[0] == 0
    assert sendmail(folder, "--version")[1].startswith("angarium-sendmail ")


# ------------------------------------------------------------------ without one


def dropped(folder: Path) -> list[Path]:
    return sorted((folder / "drop").iterdir())


def test_without_a_relay_the_message_is_dropped(folder: Path) -> None:
    old = os.umask(0o077)
    try:
        assert sendmail(folder, "-f", "me@x.example", "a@x.example") == (0, "")
    finally:
        os.umask(old)
    (file,) = dropped(folder)
    assert file.suffix == DROPPED_SUFFIX
    assert file.stat().st_mode & 0o777 == 0o640
    commands, mail_data = split_transaction(file.read_bytes())
    assert commands[:3] == [
        b"EHLO relay.example",
        b"MAIL FROM:<me@x.example> SIZE=%d" % len(mail_data),
        b"RCPT TO:<a@x.example>",
    ]
    assert mail_data.endswith(b"Subject: s\r\n\r\nbody\r\n")


@pytest.mark.parametrize("verb", ["EHLO", "MAIL", "RCPT", "BDAT"])
@pytest.mark.parametrize("reply", [None, "421 4.3.2 Shutting down; try again later"])
def test_a_relay_that_goes_away_in_the_dialogue(
    folder: Path, relay: ScriptedRelay, verb: str, reply: str | None
) -> None:
    if reply is None:
        del relay.replies[verb]
    else:
        relay.replies[verb] = reply
    assert sendmail(folder, "a@x.example") == (0, "")
    assert len(dropped(folder)) == 1


def test_a_relay_that_takes_no_connections_now(folder: Path, relay: ScriptedRelay) -> None:
    relay.greeting = "421 4.3.2 Too many connections; try again later"
    assert sendmail(folder, "a@x.example") == (0, "")
    assert len(dropped(folder)) == 1


def test_without_a_folder_there_is_nothing_but_later(folder: Path) -> None:
    (folder / "drop").rmdir()
    code, said = sendmail(folder, "a@x.example")
    assert code == 75
    assert "No such file or directory" in said
    assert sendmail(folder, "-bs", message=b"")[0] == 75


def test_a_configuration_without_the_section(folder: Path) -> None:
    file = folder / "angarium.toml"
    file.write_text('[node]\nhostname = "relay.example"\n')
    assert sendmail(folder, "a@x.example")[0] == 78
    file.write_text("[node\n")
    assert sendmail(folder, "a@x.example")[0] == 78


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_a_folder_that_may_be_written_and_not_read(folder: Path) -> None:
    """As it is by default, for every user but the relay's."""
    (folder / "drop").chmod(0o3733)
    nobody = pwd.getpwnam("nobody")
    done = subprocess.run(
        [sys.executable, "-c", DROP_AS_USER, str(folder / "drop"), str(nobody.pw_uid)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = dropped(folder)
    status = file.stat()
    assert (status.st_uid, status.st_gid) == (nobody.pw_uid, os.getegid())
    assert status.st_mode & 0o777 == 0o640


# the folders above are pytest's own, which other users may not enter: it is entered first
DROP_AS_USER = """
import os, sys
from angarium.cli.hand_in import drop, transaction
import ctypes
os.chdir(sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(int(sys.argv[2]))
drop(".", "here.example", *transaction("me@x.example", ["a@x.example"], b"Subject: s\\r\\n\\r\\n"))
try:
    os.listdir(".")
except PermissionError:
    pass
else:
    sys.exit("the folder can be read")
"""
