"""Asking the workers.

Each worker listens on a Unix socket of its own. One connection carries one question: a line of JSON
`{"op": …}` there, a line `{"ok": true, "result": …}` or `{"ok": false, "error": …}` back. In front of that line an
export has any number of lines `{"id", "octets", "message"}`, each with so many octets behind it.

Input: the sockets' paths, in order of the workers' numbers. Output: one Answer per worker, asked side by side.
Fails: never as a whole. A worker that is not there, is slow, or answers nonsense gives an Answer with an error. An
export raises WorkerFailure.
Bounds: TIMEOUT_S for one question (unless it is one that walks the queue), REPLY_MAX_OCTETS for its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from angarium.delivery.short_path import short_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

__all__ = [
    "REPLY_MAX_OCTETS",
    "TIMEOUT_S",
    "WALK_S",
    "Answer",
    "ExportedMessage",
    "Question",
    "WorkerFailure",
    "Workers",
]

TIMEOUT_S = 5.0
WALK_S = 60.0  # what a question may take longer when envelopes of many messages must be read for it
REPLY_MAX_OCTETS = 64 * 1024 * 1024

T = TypeVar("T")


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line to a worker; docs/api.md says which fields go with which op."""

    op: str
    filter: msgspec.Struct | None = None
    id: str | None = None
    ids: list[str] | None = None
    action: str | None = None
    operation: str | None = None
    reason: str = ""
    by: str = ""
    wait_s: float = 0.0
    reverse_path: str = ""
    recipient: str = ""
    mail_data: str = ""
    inquiry: msgspec.Struct | None = None
    watch: msgspec.Struct | None = None


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What one worker said: a result, or in `error` why there is none."""

    worker: int
    result: T | None
    error: str | None

    @property
    def answered(self) -> bool:
        """Whether the worker gave a result (which may be null)."""
        return self.error is None


class ExportedMessage(msgspec.Struct, frozen=True):
    """The line in front of a message's octets."""

    id: str
    octets: int
    message: msgspec.Raw


class _Line(msgspec.Struct, frozen=True):
    """A line of an export: of a message, or the last one."""

    id: str | None = None
    octets: int = 0
    message: msgspec.Raw = msgspec.Raw(b"null")
    ok: bool | None = None
    error: str = ""


class WorkerFailure(Exception):
    """A worker did not carry an export to its end, or goes on saying nothing more. `refused`: it did not want to."""

    refused = False


class _Reply(msgspec.Struct, frozen=True):
    ok: bool
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""


class _Refused(Exception):
    """The worker answered, and said no or nothing usable."""


class Workers:
    """All workers of the node."""

    def __init__(self, paths: Sequence[str | Path], timeout_s: float = TIMEOUT_S) -> None:
        self._paths = [str(path) for path in paths]
        self._timeout_s = timeout_s

    def __len__(self) -> int:
        return len(self._paths)

    async def ask(
        self, question: Question, decoder: msgspec.json.Decoder[T], *, patience_s: float = 0.0
    ) -> list[Answer[T]]:
        """Put a question to every worker; the answers come in order of the workers' numbers.

        `patience_s`: how much longer than usual the answer may take.
        """
        line = msgspec.json.encode(question) + b"\n"
        timeout_s = self._timeout_s + patience_s
        return await asyncio.gather(*(self._ask_one(i, line, decoder, timeout_s) for i in range(len(self._paths))))

    async def ask_any(
        self, question: Question, decoder: msgspec.json.Decoder[T], *, patience_s: float = 0.0
    ) -> Answer[T]:
        """Put a question to one worker after the other until one answers; the last one's answer when none does."""
        answer: Answer[T] = Answer(0, None, "there are no workers")
        line = msgspec.json.encode(question) + b"\n"
        for worker in range(len(self._paths)):
            answer = await self._ask_one(worker, line, decoder, self._timeout_s + patience_s)
            if answer.answered:
                break
        return answer

    async def export(self, worker: int, question: Question) -> AsyncIterator[tuple[ExportedMessage, bytes]]:
        """The messages that one worker has, each with its mail data. WorkerFailure when it does not end well."""
        try:
            async with _connection(self._paths[worker]) as (reader, writer):
                writer.write(msgspec.json.encode(question) + b"\n")
                await writer.drain()
                while True:
                    async with asyncio.timeout(self._timeout_s + WALK_S):
                        line = msgspec.json.decode(await reader.readuntil(b"\n"), type=_Line)
                        if line.id is None:
                            break
                        octets = await reader.readexactly(line.octets)
                    yield ExportedMessage(line.id, line.octets, line.message), octets
            if not line.ok:
                raise WorkerFailure(line.error or "refused without a reason")
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError, msgspec.MsgspecError) as error:
            raise WorkerFailure(f"worker {worker}: {error or type(error).__name__}") from error

    async def follow(self, worker: int, question: Question) -> AsyncIterator[bytes]:
        """The lines that one worker goes on writing, with their ends. WorkerFailure when it ends, or refuses."""
        try:
            async with _connection(self._paths[worker]) as (reader, writer):
                writer.write(msgspec.json.encode(question) + b"\n")
                await writer.drain()
                while True:
                    async with asyncio.timeout(self._timeout_s):  # it says something now and then
                        line = await reader.readuntil(b"\n")
                    if line.startswith(b'{"ok":'):
                        raise _Refused(msgspec.json.decode(line, type=_Reply).error or "it ends")
                    yield line
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError, msgspec.MsgspecError, _Refused) as error:
            refused = isinstance(error, _Refused)  # any worker would
            text = str(error) or type(error).__name__
            failure = WorkerFailure(text if refused else f"worker {worker}: {text}")
            failure.refused = refused
            raise failure from error

    async def _ask_one(self, worker: int, line: bytes, decoder: msgspec.json.Decoder[T], timeout_s: float) -> Answer[T]:
        try:
            async with asyncio.timeout(timeout_s):
                octets = await _exchange(self._paths[worker], line)
            reply = msgspec.json.decode(octets, type=_Reply)
            if not reply.ok:
                raise _Refused(reply.error or "refused without a reason")
            return Answer(worker, decoder.decode(reply.result), None)
        except TimeoutError:
            return Answer(worker, None, f"no answer within {timeout_s:g} s")
        except OSError as error:
            return Answer(worker, None, error.strerror or str(error))
        except msgspec.MsgspecError as error:
            return Answer(worker, None, f"unreadable answer: {error}")
        except _Refused as error:
            return Answer(worker, None, str(error))


@contextlib.asynccontextmanager
async def _connection(path: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    with short_path(path) as name:
        reader, writer = await asyncio.open_unix_connection(name, limit=REPLY_MAX_OCTETS)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _exchange(path: str, line: bytes) -> bytes:
    async with _connection(path) as (reader, writer):
        writer.write(line)
        await writer.drain()
        try:
            return await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            raise _Refused("closed the connection without an answer") from error
        except asyncio.LimitOverrunError as error:
            raise _Refused(f"answer longer than {REPLY_MAX_OCTETS} octets") from error
