"""Asking the workers.

Each worker listens on a Unix socket of its own. One connection carries one question: a line of JSON
`{"op": …}` there, a line `{"ok": true, "result": …}` or `{"ok": false, "error": …}` back.

Input: the sockets' paths, in order of the workers' numbers. Output: one Answer per worker, asked side by side.
Fails: never as a whole. A worker that is not there, is slow, or answers nonsense gives an Answer with an error.
Bounds: TIMEOUT_S for one question, REPLY_MAX_OCTETS for its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["REPLY_MAX_OCTETS", "TIMEOUT_S", "Answer", "Question", "Workers", "short_path"]

TIMEOUT_S = 5.0
REPLY_MAX_OCTETS = 64 * 1024 * 1024

T = TypeVar("T")


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line to a worker; `filter` goes with the op `list`, `id` with `show`."""

    op: str
    filter: msgspec.Struct | None = None
    id: str | None = None


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

    async def ask(self, question: Question, decoder: msgspec.json.Decoder[T]) -> list[Answer[T]]:
        """Put a question to every worker; the answers come in order of the workers' numbers."""
        line = msgspec.json.encode(question) + b"\n"
        return await asyncio.gather(*(self._ask_one(i, line, decoder) for i in range(len(self._paths))))

    async def _ask_one(self, worker: int, line: bytes, decoder: msgspec.json.Decoder[T]) -> Answer[T]:
        try:
            async with asyncio.timeout(self._timeout_s):
                octets = await _exchange(self._paths[worker], line)
            reply = msgspec.json.decode(octets, type=_Reply)
            if not reply.ok:
                raise _Refused(reply.error or "refused without a reason")
            return Answer(worker, decoder.decode(reply.result), None)
        except TimeoutError:
            return Answer(worker, None, f"no answer within {self._timeout_s:g} s")
        except OSError as error:
            return Answer(worker, None, error.strerror or str(error))
        except msgspec.MsgspecError as error:
            return Answer(worker, None, f"unreadable answer: {error}")
        except _Refused as error:
            return Answer(worker, None, str(error))


@contextlib.contextmanager
def short_path(path: str) -> Iterator[str]:
    """A name for a Unix socket that fits into its 107 octets, however deep the spool is: by its open folder (Linux)."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


async def _exchange(path: str, line: bytes) -> bytes:
    with short_path(path) as name:
        reader, writer = await asyncio.open_unix_connection(name, limit=REPLY_MAX_OCTETS)
    try:
        writer.write(line)
        await writer.drain()
        try:
            return await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            raise _Refused("closed the connection without an answer") from error
        except asyncio.LimitOverrunError as error:
            raise _Refused(f"answer longer than {REPLY_MAX_OCTETS} octets") from error
    finally:
        writer.transport.abort()
