"""Run a program with a message on its standard input, and say what its ending means.

Job: start a program without a shell, in a session of its own, as the user it is to run as, with the mail data in a file
that only it has open, and wait for its end; `result_of` turns that into a reply by the codes of sysexits(3). Input: the
words of the command, the octets, the terms of the route (angarium.config.model.Pipe). Output: an Ending.

What it says on standard output and standard error is read to the end and kept up to `output` octets; its first line
is the text of the reply. Its environment is PATH, LANG and HOME; its folder is /. Whatever it leaves behind in its
process group is killed when it ends, and the whole group when its time is over: SIGTERM, and after KILL_AFTER_S seconds
SIGKILL. Limits of memory and CPU time hold for each of its processes; prlimit(1) sets them, as the user, before the
program begins.

Fails: StartFailure when it is to run as somebody whom there is not, whom the relay cannot become, or as root, which
nothing ever does here. A program that is not there, or may not be run, ends with status 126 or 127, as it would under a
shell. A caller that is cancelled kills the group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from angarium.mail.status import EnhancedStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from angarium.config.model import Pipe

__all__ = ["Ending", "StartFailure", "result_of", "run"]

PRLIMIT = "/usr/bin/prlimit"  # of util-linux; it becomes the program when it has set the limits
PATH = "/usr/local/bin:/usr/bin:/bin"
KILL_AFTER_S = 2.0
LONGEST_TEXT = 200  # of a reply
READ_OCTETS = 1 << 16

Result = tuple[int, EnhancedStatus, bytes]  # reply code, status, text


class StartFailure(Exception):
    """The program was not started; the text says why. The mail is not to blame."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program ended: with a status, or by a signal (then status is None), perhaps one of ours."""

    status: int | None
    signal: int = 0
    timed_out: bool = False
    output: bytes = b""


# sysexits(3). What blames the program, its command line or this machine is no reason to return mail; nor is a status
# that nobody has given a meaning to.
_ENDINGS: dict[int, tuple[int, EnhancedStatus, str]] = {
    0: (250, EnhancedStatus(2, 0, 0), "delivered"),
    64: (451, EnhancedStatus(4, 3, 5), "EX_USAGE"),
    65: (554, EnhancedStatus(5, 6, 0), "EX_DATAERR"),
    66: (451, EnhancedStatus(4, 3, 0), "EX_NOINPUT"),
    67: (550, EnhancedStatus(5, 1, 1), "EX_NOUSER"),
    68: (550, EnhancedStatus(5, 1, 2), "EX_NOHOST"),
    69: (554, EnhancedStatus(5, 5, 0), "EX_UNAVAILABLE"),
    70: (451, EnhancedStatus(4, 3, 0), "EX_SOFTWARE"),
    71: (451, EnhancedStatus(4, 3, 0), "EX_OSERR"),
    72: (451, EnhancedStatus(4, 3, 0), "EX_OSFILE"),
    73: (554, EnhancedStatus(5, 2, 0), "EX_CANTCREAT"),
    74: (451, EnhancedStatus(4, 3, 0), "EX_IOERR"),
    75: (451, EnhancedStatus(4, 3, 0), "EX_TEMPFAIL"),
    76: (554, EnhancedStatus(5, 5, 0), "EX_PROTOCOL"),
    77: (554, EnhancedStatus(5, 7, 0), "EX_NOPERM"),
    78: (451, EnhancedStatus(4, 3, 5), "EX_CONFIG"),
    126: (451, EnhancedStatus(4, 3, 5), "126: it may not be run"),
    127: (451, EnhancedStatus(4, 3, 5), "127: it is not there"),
}


def result_of(ending: Ending) -> Result:
    """The reply that an ending stands for; the first line that was said is its text, and may begin with its status."""
    if ending.timed_out:
        return 451, EnhancedStatus(4, 3, 0), b"the program took too long and was killed"
    if ending.status is None:
        name = signal.Signals(ending.signal).name if ending.signal in set(signal.Signals) else str(ending.signal)
        return 451, EnhancedStatus(4, 3, 0), f"the program was killed by signal {name}".encode()
    known = _ENDINGS.get(ending.status)
    code, status, word = known or (451, EnhancedStatus(4, 3, 0), str(ending.status))
    said = next((line.strip() for line in ending.output.splitlines() if line.strip()), b"")
    text = "".join(c if c.isprintable() else "?" for c in said.decode("utf-8", "replace"))[:LONGEST_TEXT]
    first, _, rest = text.partition(" ")
    with contextlib.suppress(ValueError):
        own = EnhancedStatus.parse(first)
        if own.class_ == status.class_:
            status, text = own, rest
    default = word if ending.status == 0 else f"the program ended with {word}"
    return code, status, (text or default).encode()


async def run(words: Sequence[bytes], content: bytes, terms: Pipe) -> Ending:
    """Run the program to its end."""
    loop = asyncio.get_running_loop()
    starting = loop.run_in_executor(None, _start, words, content, terms)
    try:
        process, output_fd = await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_end_started)
        raise
    output = bytearray()

    def read() -> None:
        try:
            said = os.read(output_fd, READ_OCTETS)
        except BlockingIOError:
            return
        output.extend(said[: max(0, terms.output_octets - len(output))])
        if not said:
            loop.remove_reader(output_fd)

    ended = asyncio.Event()
    process_fd = os.pidfd_open(process.pid)
    loop.add_reader(process_fd, ended.set)
    loop.add_reader(output_fd, read)
    timed_out = False
    try:
        try:
            async with asyncio.timeout(terms.timeout_s):
                await ended.wait()
        except TimeoutError:
            timed_out = True
            _kill(process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_AFTER_S):
                    await ended.wait()
        # as long as nobody has waited for it, its number is no other's, nor its group's
        _kill(process.pid, signal.SIGKILL)
        await ended.wait()
    except asyncio.CancelledError:
        _kill(process.pid, signal.SIGKILL)
        raise
    finally:
        loop.remove_reader(process_fd)
        loop.remove_reader(output_fd)
        os.close(process_fd)
        status = process.wait()  # it has ended, or has been killed
        if len(output) < terms.output_octets:
            with contextlib.suppress(BlockingIOError):
                output.extend(os.read(output_fd, terms.output_octets - len(output)))
        os.close(output_fd)
    return Ending(None if status < 0 else status, max(0, -status), timed_out, bytes(output))


def _start(words: Sequence[bytes], content: bytes, terms: Pipe) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and where what it says is read. Call it in a thread."""
    user = _user(terms.user)
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/" if user is None else user.pw_dir}
    changed = user is not None and user.pw_uid != os.geteuid()
    limits = [f"--as={terms.memory_octets}", f"--cpu={max(1, round(terms.cpu_s))}", "--core=0"]
    stdin = os.memfd_create("message", os.MFD_CLOEXEC)
    output, said = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(output, False)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(stdin, left) :]
        os.lseek(stdin, 0, os.SEEK_SET)
        try:
            process = subprocess.Popen(
                [PRLIMIT, *limits, "--", *words],
                stdin=stdin,
                stdout=said,
                stderr=said,
                cwd="/",
                env=environment,
                start_new_session=True,
                umask=0o077,
                user=user.pw_uid if user is not None and changed else None,
                group=user.pw_gid if user is not None and changed else None,
                extra_groups=os.getgrouplist(user.pw_name, user.pw_gid) if user is not None and changed else None,
            )
        except (OSError, subprocess.SubprocessError) as failure:
            why = os.strerror(failure.errno) if isinstance(failure, OSError) and failure.errno else str(failure)
            raise StartFailure(f"the program cannot be run: {why}") from failure
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(stdin)
        os.close(said)
    return process, output


def _user(name: str | None) -> pwd.struct_passwd | None:
    """Whom the program runs as; None: as the relay does."""
    if name is None:
        if os.geteuid() == 0:
            raise StartFailure("no program is run as root: set pipe.user or node.user")
        return None
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise StartFailure(f'there is no user "{name}" to run the program as') from None
    if user.pw_uid == 0:
        raise StartFailure("no program is run as root: pipe.user is root")
    return user


def _kill(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _end_started(starting: asyncio.Future[tuple[subprocess.Popen[bytes], int]]) -> None:
    """The caller was cancelled while the program was being started."""
    if starting.cancelled() or starting.exception() is not None:
        return
    process, output_fd = starting.result()
    _kill(process.pid, signal.SIGKILL)
    process.wait()
    os.close(output_fd)
