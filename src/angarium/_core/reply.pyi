from collections.abc import Iterable
from typing import Final, Self, TypeAlias

from typing_extensions import disjoint_base

__all__ = ("MAX_LINES", "MAX_LINE_OCTETS", "MAX_OCTETS", "ReplyError", "ReplyParser")

MAX_OCTETS: Final[int]
MAX_LINES: Final[int]
MAX_LINE_OCTETS: Final[int]

_Reply: TypeAlias = tuple[int, tuple[int, int, int] | None, bytes]

class ReplyError(ValueError):
    replies: list[_Reply]
    def __init__(self, message: str, replies: Iterable[_Reply] = ()) -> None: ...

@disjoint_base
class ReplyParser:
    def __new__(cls, max_octets: int = ..., max_lines: int = ...) -> Self: ...
    def parse(self, data: bytes) -> list[_Reply]: ...
    def clear(self) -> None: ...
