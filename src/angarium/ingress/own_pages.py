"""What an idle TLS session costs: uvloop gives each TLS engine a buffer of 256 KiB, of which a session of commands uses
the first page.

Job: have that buffer mapped by itself when it is made, so that it takes a page and not six. Within the heap it stands
where the blocks of the handshake before were, and keeps every page that they have written to: a worker with 1,000 idle
sessions has 43 MB for them, and 22 MB so. `give_back_pages` takes what a burst has written to away from a session that
is quiet again: the octets in that buffer have been handed on when the loop has them read.

Input: a coroutine of the loop's whose first step makes the engine (`start_tls`, `connect_accepted_socket`); a transport
that came of it. Output: an awaitable in its place. Fails: as the coroutine does.

What stays is OpenSSL's: its memory BIO grows to the largest number of octets that came at one time, and never shrinks.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from angarium._core.record import discard_pages, map_blocks

if TYPE_CHECKING:
    from asyncio import BaseTransport
    from collections.abc import Coroutine, Generator

__all__ = ["OwnPages", "give_back_pages"]

T = TypeVar("T")


class OwnPages(Generic[T]):
    """Await it in place of the coroutine."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._coroutine.__await__()
        map_blocks(True)
        try:
            waited = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            map_blocks(False)
        while True:
            try:
                sent = yield waited
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as failure:  # noqa: BLE001  # it is the coroutine's to handle
                step = partial(steps.throw, failure)
            else:
                step = partial(steps.send, sent)
            try:
                waited = step()
            except StopIteration as end:
                result = end.value
                return result


def give_back_pages(transport: BaseTransport) -> None:
    """Let go of what a burst has left in the buffer of a TLS transport's engine; nothing for any other transport."""
    engine = transport.get_extra_info("uvloop.sslproto")
    if engine is not None:
        discard_pages(engine.get_buffer(0))
