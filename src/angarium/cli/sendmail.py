"""`angarium-sendmail`: a sendmail(1) for the programs that expect one.

A message comes on standard input and is handed to the relay on this machine: over its Unix socket, where the relay's
250 is waited for, or, when the relay is down, into its drop folder. Exit status 0 means the same in both cases: the
message is on disk, and will be delivered. Installed as `sendmail`, `mailq` or `newaliases` it does what those names
stand for.

Input: options and recipients as in HELP; `[sendmail]`, `node.hostname` and `limits.message_size` of the configuration
(-C FILE, else ANGARIUM_CONFIG, else /etc/angarium/angarium.toml; without one that can be read, the defaults of these
keys). Nothing else of the configuration is looked at.

Fails with a line on standard error and an exit status of sysexits.h: 64 wrong usage, 65 recipients that cannot be read,
67 no such recipient, 68 no such domain, 69 refused for good, 75 try again later, 77 not allowed, 78 the configuration.
A message is taken for all of its recipients or for none.

Decided here: recipients of the command line are added to those of -t, as with Postfix; a carriage return alone ends a
line, since nothing else could be sent; when the connection is lost behind the whole message, it goes into the folder,
and may arrive twice.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from angarium.cli.hand_in import Away, Refused, connect, drop, speak, transaction
from angarium.mail.address_list import addresses_in
from angarium.mail.composition import Composition, display_name

if TYPE_CHECKING:
    import socket
    from typing import IO

__all__ = ["main", "run"]

EX_OK, EX_USAGE, EX_DATAERR, EX_NOUSER, EX_NOHOST = 0, 64, 65, 67, 68
EX_UNAVAILABLE, EX_OSERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 69, 71, 75, 77, 78

DEFAULT_CONFIG = "/etc/angarium/angarium.toml"
DEFAULT_SOCKET = "/run/angarium/sendmail.sock"  # as in angarium.config.model
DEFAULT_DROP = "/var/spool/angarium-drop"
DEFAULT_LONGEST = 50_000_000

HELP = """\
usage: angarium-sendmail [options] [recipient ...] < message

  -t            recipients are those of To, Cc and Bcc, and any given here; Bcc is removed
  -i, -oi       a line with a dot alone does not end the message
  -f, -r ADDR   reverse-path; <> for the null one
  -F NAME       full name, for a From field that has to be made
  -N WHEN       never, or some of success,failure,delay (RFC 3461)
  -R WHAT       full or hdrs: what notifications return
  -V ID         envelope id, for notifications
  -B TYPE       7BIT or 8BITMIME
  -bm           take a message (what is done without -b)
  -bs           speak SMTP on standard input and output
  -bp           show the queue
  -bi           nothing: there are no aliases
  -q            have everything that is queued tried now
  -C FILE       configuration of the relay
  --            what follows are recipients

  -o, -O, -h, -L, -m, -n, -v, -U, -G, -A, -d, -e, -E, -X, -p, -x are accepted and change nothing.
"""

_ALONE = "tinvmUGEcaI"  # options without a value
_WITH_VALUE = "fFrNRVBbCoOhLXp"
_ATTACHED = "qAdexM"  # options whose value can only stand right behind them
_NAMES = {"mailq": "p", "newaliases": "i"}
_MODES = "msip"


class UsageError(Exception):
    """Wrong usage, in one line."""


class Settings(NamedTuple):
    """What of the configuration matters here. `served`: the relay has a [sendmail] section."""

    socket: str
    drop: str
    hostname: str
    longest: int
    served: bool = True


class Request(NamedTuple):
    """What the command line asks for."""

    options: dict[str, str]
    recipients: list[str]

    @property
    def mode(self) -> str:
        return self.options.get("b", "m")


def parse(arguments: list[str], program: str = "") -> Request:
    """The options, each with its value or "", and the recipients. UsageError for what is no option of sendmail."""
    options: dict[str, str] = {"b": _NAMES[program]} if program in _NAMES else {}
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word in ("--help", "--version"):
            options["?"] = word
            continue
        at = 1
        while at < len(word):
            letter, behind = word[at], word[at + 1 :]
            at += 1
            if letter in _WITH_VALUE:
                if not behind and not rest:
                    raise UsageError(f"-{letter} wants a value")
                _note(options, letter, behind or rest.pop(0))
                break
            if letter in _ATTACHED:
                _note(options, letter, behind)
                break
            if letter not in _ALONE:
                raise UsageError(f"unknown option -{letter}")
            _note(options, letter, "")
    return Request(options, rest)


def _note(options: dict[str, str], letter: str, value: str) -> None:
    if letter == "b" and value not in tuple(_MODES):
        raise UsageError(f"-b{value} is not offered; the relay itself is started by: angarium serve")
    if letter == "B" and value.upper() not in ("7BIT", "8BITMIME"):
        raise UsageError(f"-B {value}: write 7BIT or 8BITMIME")
    if letter == "R" and value.upper() not in ("FULL", "HDRS"):
        raise UsageError(f"-R {value}: write full or hdrs")
    if letter == "N":
        wanted = value.upper().split(",")
        if wanted != ["NEVER"] and not set(wanted) <= {"SUCCESS", "FAILURE", "DELAY"}:
            raise UsageError(f"-N {value}: write never, or some of success,failure,delay")
    if letter == "o" and value.startswith("i"):
        letter, value = "i", ""
    if letter == "V" and not (value.isascii() and value.isprintable()):
        raise UsageError("-V wants printable ASCII")
    options["f" if letter == "r" else letter] = value


def read_settings(file: str) -> Settings:
    """From the configuration. What it does not say, and a file that may not be read, leave the defaults.

    ValueError when it is no configuration.
    """
    named = os.uname().nodename
    try:
        with open(file, "rb") as opened:
            import tomllib

            data = tomllib.load(opened)
    except (FileNotFoundError, PermissionError):
        return Settings(DEFAULT_SOCKET, DEFAULT_DROP, named, DEFAULT_LONGEST)
    section, node, limits = (data.get(name, {}) for name in ("sendmail", "node", "limits"))
    folder = os.path.dirname(os.path.abspath(file))
    if not all(isinstance(table, dict) for table in (section, node, limits)):
        raise ValueError("[sendmail], [node] or [limits] is no table; see angarium check")
    paths = section.get("socket", DEFAULT_SOCKET), section.get("drop", DEFAULT_DROP)
    hostname, longest = node.get("hostname", named), limits.get("message_size", DEFAULT_LONGEST)
    if not all(isinstance(text, str) for text in (*paths, hostname)):
        raise ValueError("[sendmail] or node.hostname is not as it should be; see angarium check")
    if not isinstance(longest, int):
        from angarium.config.units import parse_size

        longest = parse_size(str(longest))
    sock, dropped = (os.path.join(folder, path) for path in paths)
    return Settings(sock, dropped, hostname, longest, served="sendmail" in data)


# ------------------------------------------------------------------ a message


def run(arguments: list[str], program: str = "angarium-sendmail") -> int:
    """Do what is asked for; the exit status."""
    try:
        request = parse(arguments, program)
        if "?" in request.options:
            return _explain(request.options["?"])
        file = request.options.get("C") or os.environ.get("ANGARIUM_CONFIG") or DEFAULT_CONFIG
        if request.mode == "i" or "I" in request.options:
            return EX_OK
        if request.mode == "p":
            return _ask_relay(file, ["queue", "list"])
        if "q" in request.options:
            return _ask_relay(file, ["queue", "retry", "--all", "--yes"]) if not request.options["q"] else EX_OK
        settings = read_settings(file)
        if not settings.served:
            return _say(f"{file} has no [sendmail] section, so the relay takes no mail this way", EX_CONFIG)
        if request.mode == "s":
            return _relay_dialogue(settings.socket)
        return _submit(request, settings)
    except UsageError as error:
        return _say(f"{error}; see --help", EX_USAGE)
    except ValueError as error:
        return _say(str(error), EX_CONFIG)


def _submit(request: Request, settings: Settings) -> int:
    try:
        commands, mail_data = _compose(request, settings)
    except _Unusable as error:
        return _say(str(error), error.status)
    try:
        speak(settings.socket, settings.hostname, commands, mail_data)
    except Refused as refusal:
        return _say(f"refused: {refusal}", _status_of(refusal))
    except Away as away:
        try:
            drop(settings.drop, settings.hostname, commands, mail_data)
        except OSError as error:
            return _say(f"the relay is away ({away}), and {settings.drop}: {error.strerror}", EX_TEMPFAIL)
    return EX_OK


class _Unusable(Exception):
    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def _compose(request: Request, settings: Settings) -> tuple[list[bytes], bytes]:
    """The message as an SMTP transaction."""
    options = request.options
    user = _user()
    try:
        reverse_path = _reverse_path(options.get("f"), user[0], settings.hostname)
        given = [address for argument in request.recipients for address in addresses_in(argument)]
    except ValueError as error:
        raise _Unusable(str(error), EX_USAGE) from None
    with open(0, "rb", closefd=False) as stream:
        octets = _read(stream, settings.longest, dot_ends="i" not in options)
    composition = Composition(octets)
    if "t" in options:
        try:
            given += composition.recipients()
        except ValueError as error:
            raise _Unusable(str(error), EX_DATAERR) from None
        composition.remove_bcc()
    if not given:
        raise _Unusable("there are no recipients", EX_USAGE)
    author = reverse_path or f"{user[0]}@{settings.hostname}"
    mail_data = composition.mail_data(
        author=display_name(options.get("F") or user[1], author),
        date=_date(time.time()),
        message_id=f"<{time.time_ns() // 1000}.{os.getpid()}.{os.urandom(6).hex()}@{settings.hostname}>",
    )
    return transaction(
        reverse_path,
        list(dict.fromkeys(_qualified(address, settings.hostname) for address in given)),
        mail_data,
        body=options.get("B", "").upper() or None,
        envelope_id=options.get("V"),
        ret=options.get("R", "").upper() or None,
        notify=options.get("N", "").upper() or None,
    )


def _read(stream: IO[bytes], longest: int, *, dot_ends: bool) -> bytes:
    """Standard input to its end, or to a line with a dot alone."""
    if dot_ends:
        lines, octets = [], 0
        for line in stream:
            octets += len(line)
            if line.rstrip(b"\r\n") == b"." or octets > longest:
                break
            lines.append(line)
        message = b"".join(lines)
    else:
        message = stream.read(longest + 1)
        octets = len(message)
    if octets > longest:
        raise _Unusable(f"the message is larger than {longest} octets", EX_UNAVAILABLE)
    return message


def _user() -> tuple[str, str]:
    """The log-in and the full name of who runs this program."""
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        return str(os.getuid()), ""
    return entry.pw_name, entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())


def _reverse_path(given: str | None, user: str, hostname: str) -> str:
    if given is None:
        return f"{user}@{hostname}"
    if given.strip() in ("", "<>"):
        return ""
    found = addresses_in(given)
    if len(found) != 1:
        raise ValueError(f'-f "{given}": one address is wanted')
    return _qualified(found[0], hostname)


def _qualified(address: str, hostname: str) -> str:
    return address if "@" in address else f"{address}@{hostname}"


def _date(now: float) -> str:
    """RFC 5322 §3.3, whatever the locale."""
    moment = time.localtime(now)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[moment.tm_wday]
    month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[moment.tm_mon - 1]
    return f"{day}, {moment.tm_mday} {month} {moment.tm_year} {time.strftime('%H:%M:%S %z', moment)}"


def _status_of(refusal: Refused) -> int:
    if refusal.code < 500:
        return EX_TEMPFAIL
    if refusal.enhanced in ("5.1.1", "5.1.6", "5.2.1"):
        return EX_NOUSER
    if refusal.enhanced in ("5.1.2", "5.1.10"):
        return EX_NOHOST
    if refusal.enhanced.startswith("5.7."):
        return EX_NOPERM
    if refusal.enhanced.startswith(("5.1.", "5.5.", "5.6.")):
        return EX_DATAERR
    return EX_UNAVAILABLE


# ------------------------------------------------------------------ the other modes


def _relay_dialogue(path: str) -> int:
    """-bs: what comes in goes to the relay's socket, what it answers goes out."""
    try:
        sock = connect(path)
    except Away as away:
        os.write(1, b"421 4.3.2 The relay is away; try again later\r\n")
        return _say(str(away), EX_TEMPFAIL)
    with sock:
        _carry(sock)
    return EX_OK


def _carry(sock: socket.socket) -> None:
    sock.setblocking(True)
    sources = [0, sock.fileno()]
    while True:
        readable, _, _ = select.select(sources, [], [])
        if sock.fileno() in readable:
            try:
                octets = sock.recv(65536)
            except ConnectionResetError:  # it did not read all that was sent
                return
            if not octets:
                return
            _write_all(octets)
        if 0 in readable:
            octets = os.read(0, 65536)
            if not octets:
                sources.remove(0)
            # An end without QUIT: what is outstanding is answered first. A relay that has closed takes no more, but
            # what it said before is still to be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(octets or b"QUIT\r\n")


def _write_all(octets: bytes) -> None:
    while octets:
        octets = octets[os.write(1, octets) :]


def _ask_relay(file: str, command: list[str]) -> int:
    """-bp and -q: what the relay's own command does."""
    import click

    from angarium.cli.main import cli

    arguments = [*command, "--config", file] if os.path.exists(file) else command
    try:
        status = cli(arguments, prog_name="angarium", standalone_mode=False)
    except click.ClickException as failure:
        return _say(failure.format_message(), EX_TEMPFAIL)
    return EX_TEMPFAIL if status else EX_OK


def _explain(what: str) -> int:
    if what == "--version":
        from angarium import __version__

        print(f"angarium-sendmail {__version__}")
    else:
        print(HELP, end="")
    return EX_OK


def _say(text: str, status: int) -> int:
    print(f"angarium-sendmail: {text}", file=sys.stderr)
    return status


def main(*_: Any) -> NoReturn:
    """The entry point."""
    try:
        status = run(sys.argv[1:], os.path.basename(sys.argv[0]))
    except KeyboardInterrupt:
        status = EX_TEMPFAIL
    except OSError as error:
        status = _say(str(error.strerror or error), EX_OSERR)
    sys.exit(status)


if __name__ == "__main__":
    main()
