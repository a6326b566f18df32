"""Programs that take a message: what they are given, what they may take, and what their endings mean."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import time
from typing import TYPE_CHECKING

import pytest
import uvloop

from angarium.config.model import Pipe
from angarium.delivery.pipe import LONGEST_TEXT, Ending, StartFailure, result_of, run
from tests.support.relay import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path
    from typing import Any

ROOT = os.geteuid() == 0
USER = "nobody" if ROOT else None  # no program is run as root
as_root = pytest.mark.skipif(not ROOT, reason="only root can become somebody else")


def play(awaitable: Awaitable[Any]) -> Any:
    async def wait() -> Any:
        return await awaitable

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(wait())


def shell(script: str, content: bytes = b"hello\n", *words: bytes, **terms: Any) -> Ending:
    """A run of a script; the words are its $1, $2, …"""
    command = [b"/bin/sh", b"-c", script.encode(), b"script", *words]
    return play(run(command, content, Pipe(**{"user": USER, **terms})))


def test_it_has_the_message_on_its_standard_input() -> None:
    content = b"Return-Path: <>\n\nline\n" + b"x" * 300_000
    assert shell("wc -c", content) == Ending(0, output=b"%d\n" % len(content))
    assert shell("cat", b"a\nb\n").output == b"a\nb\n"


def test_a_program_that_does_not_read_it_is_no_trouble() -> None:
    assert shell("exit 0", b"x" * 10_000_000) == Ending(0)


def test_words_are_words() -> None:
    assert shell('printf "%s|" "$@"', b"", b"$(id)", b"a b", b"; exit 3").output == b"$(id)|a b|; exit 3|"


def test_it_knows_nothing_of_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    said = dict(line.split("=", 1) for line in shell("/usr/bin/env; pwd").output.decode().splitlines()[:-1])
    assert set(said) - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "LANG", "HOME"}
    assert shell("pwd; umask").output == b"/\n0077\n"
    # no descriptor but the three
    assert shell("echo /proc/self/fd/*").output.count(b"/proc") <= 4


def test_it_is_the_leader_of_a_session() -> None:
    pid, session = shell('echo $$ $(cut -d" " -f6 /proc/$$/stat)').output.split()
    assert pid == session


@as_root
def test_it_runs_as_somebody_else() -> None:
    nobody = pwd.getpwnam("nobody")
    assert shell("id -u; id -g").output == b"%d\n%d\n" % (nobody.pw_uid, nobody.pw_gid)
    groups = set(map(int, shell("id -G").output.split()))
    assert groups == set(os.getgrouplist("nobody", nobody.pw_gid))


@as_root
@pytest.mark.parametrize("user", [None, "root"])
def test_nothing_is_run_as_root(user: str | None) -> None:
    with pytest.raises(StartFailure, match="no program is run as root"):
        shell("exit 0", user=user)


def test_who_cannot_be_run() -> None:
    for word, status, why in (
        (b"/no/such/program", 127, b"No such file or directory"),
        (b"/etc/passwd", 126, b"Permission denied"),
    ):
        ending = play(run([word], b"", Pipe(user=USER)))
        assert ending.status == status
        assert word in ending.output
        assert why in ending.output
    with pytest.raises(StartFailure, match='no user "no-such-user"'):
        shell("exit 0", user="no-such-user")


def test_what_it_says_is_kept_up_to_a_limit() -> None:
    assert shell("echo one; echo two >&2").output == b"one\ntwo\n"
    ending = shell("head -c 1000000 /dev/zero; exit 75", output_octets=1000)
    assert (ending.status, ending.output) == (75, b"\0" * 1000)
    assert shell("echo x", output_octets=0) == Ending(0)


def test_limits_of_memory_and_time() -> None:
    ending = shell("x=$(head -c 50000000 /dev/zero | tr '\\0' a); echo ${#x}", memory_octets=20_000_000)
    assert ending.status != 0
    assert not ending.timed_out
    assert shell("ulimit -c; ulimit -t; ulimit -v", cpu_s=7.0, memory_octets=1 << 30).output == b"0\n7\n1048576\n"


def test_when_its_time_is_over_the_whole_group_goes(tmp_path: Path) -> None:
    began = time.monotonic()
    # it has time to begin; it starts another that would outlive it, and neither heeds SIGTERM
    script = "trap '' TERM; (trap '' TERM; exec sleep 300) & echo $! $$; sleep 300"
    ending = shell(script, timeout_s=2.0)
    assert ending.timed_out
    assert ending.signal == signal.SIGKILL
    assert time.monotonic() - began < 100, "it waited for what it started"
    first, second = map(int, ending.output.split())
    for pid in (first, second):
        wait_until(lambda pid=pid: not alive(pid), f"the end of {pid}")


def test_what_it_leaves_behind_goes_when_it_ends() -> None:
    ending = shell("sleep 300 & echo $!")
    assert ending.status == 0
    pid = int(ending.output)
    wait_until(lambda: not alive(pid), f"the end of {pid}")


def test_a_caller_that_is_cancelled_kills_it() -> None:
    first, second = f"301.{os.getpid()}", f"302.{os.getpid()}"

    async def cancel() -> None:
        script = f"sleep {first} & exec sleep {second}".encode()
        task = asyncio.create_task(run([b"/bin/sh", b"-c", script], b"", Pipe(user=USER)))
        while not (running(first) and running(second)):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    play(cancel())
    wait_until(lambda: not running(first) and not running(second), "the end of both")


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def running(seconds: str) -> bool:
    """Whether `sleep SECONDS` runs anywhere."""
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as line:
                if line.read().split(b"\0")[:2] == [b"sleep", seconds.encode()] and alive(int(entry)):
                    return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False


@pytest.mark.parametrize(
    ("status", "reply", "enhanced"),
    [
        (0, 250, "2.0.0"),
        (64, 451, "4.3.5"),
        (65, 554, "5.6.0"),
        (67, 550, "5.1.1"),
        (68, 550, "5.1.2"),
        (69, 554, "5.5.0"),
        (70, 451, "4.3.0"),
        (73, 554, "5.2.0"),
        (75, 451, "4.3.0"),
        (76, 554, "5.5.0"),
        (77, 554, "5.7.0"),
        (78, 451, "4.3.5"),
        (1, 451, "4.3.0"),
        (126, 451, "4.3.5"),
        (127, 451, "4.3.5"),
    ],
)
def test_what_a_status_means(status: int, reply: int, enhanced: str) -> None:
    code, given, text = result_of(Ending(status, output=b"\n said so \nmore\n"))
    assert (code, str(given), text) == (reply, enhanced, b"said so")


@pytest.mark.parametrize(
    ("ending", "enhanced", "text"),
    [
        (Ending(67), "5.1.1", "the program ended with EX_NOUSER"),
        (Ending(3), "4.3.0", "the program ended with 3"),
        (Ending(0), "2.0.0", "delivered"),
        (Ending(67, output=b"5.2.1 mailbox is disabled"), "5.2.1", "mailbox is disabled"),
        (Ending(75, output=b"5.2.1 mailbox is disabled"), "4.3.0", "5.2.1 mailbox is disabled"),
        (Ending(75, output=b"4.2.2"), "4.2.2", "the program ended with EX_TEMPFAIL"),
        (Ending(75, output=b"\x1b[31mred\xff\x00"), "4.3.0", "?[31mred\ufffd?"),
        (Ending(75, output=b"x" * 5000), "4.3.0", "x" * LONGEST_TEXT),
        (Ending(None, signal.SIGSEGV), "4.3.0", "the program was killed by signal SIGSEGV"),
        (Ending(None, signal.SIGKILL, timed_out=True), "4.3.0", "the program took too long and was killed"),
        (Ending(0, timed_out=True), "4.3.0", "the program took too long and was killed"),
    ],
)
def test_the_text_of_a_reply(ending: Ending, enhanced: str, text: str) -> None:
    _, given, said = result_of(ending)
    assert str(given) == enhanced
    assert said.decode() == text
