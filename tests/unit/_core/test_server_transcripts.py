"""The server's dialogues of tests/transcripts/server: the same replies however the client's octets arrive.

Directives:

    @profile KEY=VALUE ...   of ListenerProfile or tests.support.session.Server, before the first line; may_relay=no,
                             tls=yes, auth=PLAIN,LOGIN, client=ADDRESS or unix, implicit_tls=yes, certificate=yes,
                             priorities=NAME, xclient=yes, lmtp=yes, domains=DOMAIN,..., known=MAILBOX,...
    @terms KEY=VALUE ...     of ClientTerms, before the first line
    @permission KEY = VALUE  one key of a [[permission]] for log-in user, before the first line; @permission alone: what
                             a submission listener does by itself; role = "relay": of a relay
    @commit error=N          the next commit fails with that errno; raise=N: the intake takes nothing
    @tls                     the client's part of the TLS handshake, which succeeds
    @tls_failed              ... which fails
    @sweep, @drain           Reception.sweep, Reception.drain
    @verdict OUTCOME         what every log-in comes to from now on
    @memory N                the memory budget from now on
    @disconnect, @eof        the client is gone, or has said all it will
    @message N KEY=VALUE ... at the end: the N-th message that the intake was given; M lines behind it are its mail data
    @counter NAME=N          at the end: a counter
"""

from __future__ import annotations

import gc
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from angarium._core.command import REPLIES
from angarium._core.counters import Slot
from angarium._core.record import memory_octets
from angarium.policy.access_protocol import Verdict
from tests.support.permission import MemoryQuotas, permission
from tests.support.session import Server, ServerDialogue
from tests.support.transcript import Dialogue, Step, dialogues_of, matches

DIALOGUES = dialogues_of("server")
COMMITS = ("later", "sync")
TRUTH = {"yes": True, "no": False}
CORE = Path(__file__).parents[3] / "cext"
SOURCES = (CORE / "server_session.pyx", CORE / "xclient.pyx")
# What a parameter's value has wrong is not looked at before its extension is offered.
EXTENSIONS = {
    "REQUIRETLS": b"REQUIRETLS",
    "MT-PRIORITY": b"MT-PRIORITY",
    "HOLDFOR": b"FUTURERELEASE",
    "HOLDUNTIL": b"FUTURERELEASE",
}


@dataclass
class Round:
    """What the client says in one go and what it is answered; or a directive."""

    client: bytes = b""
    server: bytes = b""
    directive: Step | None = None
    line: int = 0


@dataclass
class Play:
    """A dialogue, ready to be played."""

    profile: dict[str, Any] = field(default_factory=dict)
    peer: object = ("192.0.2.1", 40000)
    implicit_tls: bool = False
    certificate: bool = False
    rounds: list[Round] = field(default_factory=list)
    messages: dict[int, tuple[dict[str, str], bytes | None]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)


def profile_of(options: dict[str, str], play: Play) -> None:
    for key, value in options.items():
        if key == "client":
            play.peer = "" if value == "unix" else (value, 40000)
        elif key in {"implicit_tls", "certificate"}:
            setattr(play, key, TRUTH[value])
        elif key in {"auth", "domains", "known"}:
            play.profile[key] = tuple(value.encode().split(b","))
        elif key == "priorities":
            play.profile[key] = value.encode() if value != key else b""
        else:
            play.profile[key] = TRUTH[value] if value in TRUTH else int(value)


def prepare(dialogue: Dialogue) -> Play:
    play = Play()
    message = 0
    granted: list[str] = []
    for step in dialogue.steps:
        if step.kind == "C":
            play.rounds.append(Round(step.octets, line=step.line))
        elif step.kind == "S":
            if not play.rounds or play.rounds[-1].server:
                play.rounds.append(Round(line=step.line))
            play.rounds[-1].server = step.octets
        elif step.kind == "M":
            play.messages[message] = (play.messages[message][0], step.octets)
        elif step.words[0] == "profile":
            profile_of(step.options(), play)
        elif step.words[0] == "terms":
            play.profile["terms"] = {
                key: TRUTH[value] if value in TRUTH else value.encode() if key == "tenant" else int(value)
                for key, value in step.options().items()
            }
        elif step.words[0] == "permission":
            granted.append(" ".join(step.words[1:]))
        elif step.words[0] == "message":
            message = int(step.words[1])
            options = step.options()
            del options[step.words[1]]
            play.messages[message] = (options, None)
        elif step.words[0] == "counter":
            play.counters |= {name: int(value) for name, value in step.options().items()}
        else:
            play.rounds.append(Round(directive=step, line=step.line))
    if granted:
        text = "\n".join(line for line in granted if not line.startswith("role"))
        role: Literal["relay", "submission"] = "relay" if 'role = "relay"' in granted else "submission"
        made = permission(text, role=role, log_in="user", quotas=MemoryQuotas())
        play.profile["terms"] = play.profile.get("terms", {}) | {"permission": made}
    return play


def merged(rounds: list[Round]) -> list[Round]:
    """Everything in one go, as far as no directive stands between."""
    result: list[Round] = []
    for one in rounds:
        if one.directive is None and result and result[-1].directive is None and one.client:
            result[-1].client += one.client
            result[-1].server += one.server
        else:
            result.append(Round(one.client, one.server, one.directive, one.line))
    return result


def act(step: Step, server: Server, client: ServerDialogue) -> None:
    match step.words[0]:
        case "commit":
            options = step.options()
            server.errors.append(int(options["error"]) if "error" in options else -int(options["raise"]))
        case "tls":
            client.handshake()
        case "tls_failed":
            server.handshakes.pop().tls_failed()
        case "verdict":
            server.knows.verdict = Verdict(step.words[1])  # type: ignore[arg-type]
        case "sweep":
            server.reception.sweep()
        case "drain":
            server.reception.drain()
        case "memory":
            server.memory.resize(int(step.words[1]))
        case "disconnect":
            client.transport.lose()
        case "eof":
            if not client.session.eof_received():
                client.transport.close()
        case word:
            raise ValueError(f"line {step.line}: @{word}")
    client.run()


def expect(dialogue: Dialogue, line: int, expected: bytes, got: bytes) -> None:
    wanted, came = expected.split(b"\r\n"), got.split(b"\r\n")
    same = len(wanted) == len(came) and all(map(matches, wanted, came))
    assert same, f"{dialogue.file}.txt:{line}:\n  expected {wanted}\n  got      {came}"


def play_it(dialogue: Dialogue, commit: str, *, step: int = 0, split: int = 0, together: bool = False) -> None:
    play = prepare(dialogue)
    server = Server(commit=commit, **play.profile)
    client = server.connect(play.peer, tls=play.implicit_tls, certificate=play.certificate)
    client.run()
    last = b""
    for one in merged(play.rounds) if together else play.rounds:
        if one.directive is not None:
            act(one.directive, server, client)
        elif split and split < len(one.client):
            client.transport.deliver(one.client[:split])
            client.run()
            client.transport.deliver(one.client[split:])
        else:
            client.transport.deliver(one.client, step)
        client.run(step)
        came = client.transport.take()
        expect(dialogue, one.line, one.server, came)
        last = came or last
    assert client.transport.take() == b""
    ended = last.startswith((b"221 ", b"421 ")) or b"\r\n421 " in last or b"\r\n221 " in last
    left = any(one.directive and one.directive.words[0] in {"disconnect", "eof", "tls_failed"} for one in play.rounds)
    assert client.closed == (ended or left), f"the connection is {'closed' if client.closed else 'open'} at the end"
    check_messages(play, server)
    for name, value in play.counters.items():
        assert server.value(Slot[name]) == value, name
    client.transport.lose()
    assert server.reception.sessions == 0
    assert server.value(Slot.INGRESS_CONNECTIONS) == 0


def check_messages(play: Play, server: Server) -> None:
    said = sum(one.server.count(b" queued as ") for one in play.rounds)
    told = sum(len(taken.envelope["recipients"]) if play.profile.get("lmtp") else 1 for taken in server.accepted)
    assert told >= said
    for number, (options, data) in play.messages.items():
        taken = server.taken[number - 1]
        for key, value in options.items():
            assert shown(taken.envelope, key) == value, key
        if data is not None:
            wanted, came = data.split(b"\r\n"), taken.mail_data.split(b"\r\n")
            assert len(wanted) == len(came), taken.mail_data
            assert all(map(matches, wanted, came)), taken.mail_data


def shown(envelope: dict[str, Any], key: str) -> str:
    value = envelope[key]
    if key == "recipients":
        return ",".join(
            path.decode() + (f"/{notify}/{orcpt.decode()}" if notify or orcpt else "") for path, notify, orcpt in value
        )
    return value.decode() if isinstance(value, bytes) else str(value)


by_name = pytest.mark.parametrize("dialogue", DIALOGUES, ids=str)
by_commit = pytest.mark.parametrize("commit", COMMITS)


@by_name
@by_commit
def test_as_it_is_written(dialogue: Dialogue, commit: str) -> None:
    play_it(dialogue, commit)


@by_name
@by_commit
def test_octet_by_octet(dialogue: Dialogue, commit: str) -> None:
    play_it(dialogue, commit, step=1)


@by_name
@by_commit
def test_in_one_go(dialogue: Dialogue, commit: str) -> None:
    play_it(dialogue, commit, together=True)


@by_name
def test_split_at_every_octet(dialogue: Dialogue) -> None:
    longest = max(len(one.client) for one in prepare(dialogue).rounds)
    for split in range(1, min(longest, 400)):
        play_it(dialogue, COMMITS[split % 2], split=split)


def test_nothing_is_left_in_memory() -> None:
    gc.collect()
    before = memory_octets()
    for dialogue in DIALOGUES:
        play_it(dialogue, "later")
    gc.collect()
    assert memory_octets() == before


def test_every_reply_is_in_a_dialogue() -> None:
    said = {
        line
        for dialogue in DIALOGUES
        for step in dialogue.steps
        if step.kind == "S"
        for line in step.octets.split(b"\r\n")
    }
    offered = {line[4:].split(b" ")[0] for line in said if line.startswith(b"250")}
    possible = {
        reply.removesuffix(b"\r\n")
        for reply in REPLIES
        if reply.endswith(b" is not offered here\r\n")
        or all(keyword.encode() not in reply or word in offered for keyword, word in EXTENSIONS.items())
    }
    own = [reply for file in SOURCES for reply in re.findall(r'b"(\d{3}[ -][^"]+?)\\r\\n"', file.read_text())]
    assert len(possible) > 80
    assert len(own) > 40
    assert (possible | {reply.encode() for reply in own}) - said == set()
