"""Where each key of a TOML document stands, which tomllib does not tell.

`locate(text)` takes a document that tomllib has accepted and returns the position of every key, table and array element
by its path: `("listener", 0, "tls")` is key `tls` of the first `[[listener]]`. A table stands where its header or, for
dotted keys and inline tables, its first key stands. Lines and columns count characters from 1.

The scanner knows just enough of TOML 1.0 to find keys: it skips values by their delimiters and leaves their meaning to
tomllib. On a document that tomllib refuses the answer is meaningless.
"""

from __future__ import annotations

import tomllib
from bisect import bisect_right

__all__ = ["KeyPath", "Position", "locate"]

KeyPath = tuple[str | int, ...]
Position = tuple[int, int]

_BLANK = " \t"
_SPACE = " \t\n"
_BARE_VALUE_END = ",]}#\n"


def locate(text: str) -> dict[KeyPath, Position]:
    """Every path of the document with its line and column. `text` has LF line ends, as tomllib makes them."""
    return _Scanner(text).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_starts = [0, *(i + 1 for i, character in enumerate(text) if character == "\n")]
        self._found: dict[KeyPath, Position] = {}
        self._elements: dict[KeyPath, int] = {}  # arrays of tables: index of the last element

    def document(self) -> dict[KeyPath, Position]:
        table: KeyPath = ()
        self._skip(_SPACE)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_SPACE)
        return self._found

    def _header(self) -> KeyPath:
        start = self._at
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        keys = [key for key, _ in self._dotted_key()]
        self._at += 2 if array else 1
        table: KeyPath = ()
        for key in keys[:-1]:
            table = (*table, key)
            self._note(table, start)
            if table in self._elements:
                table = (*table, self._elements[table])
        table = (*table, keys[-1])
        if array:
            self._note(table, start)
            self._elements[table] = self._elements.get(table, -1) + 1
            table = (*table, self._elements[table])
        self._note(table, start)
        return table

    def _pair(self, table: KeyPath) -> None:
        path = table
        for key, start in self._dotted_key():
            path = (*path, key)
            self._note(path, start)
        self._skip(_BLANK)
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _dotted_key(self) -> list[tuple[str, int]]:
        keys = []
        while True:
            self._skip(_BLANK)
            start = self._at
            if self._text[start] in "\"'":
                self._string()
                # tomllib knows the escapes
                keys.append((tomllib.loads(f"k = {self._text[start : self._at]}")["k"], start))
            else:
                while self._text[self._at] not in ".=] \t":
                    self._at += 1
                keys.append((self._text[start : self._at], start))
            self._skip(_BLANK)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        match self._text[self._at]:
            case '"' | "'":
                self._string()
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case _:
                while self._at < len(self._text) and self._text[self._at] not in _BARE_VALUE_END:
                    self._at += 1

    def _string(self) -> None:
        quote = self._text[self._at]
        if self._text.startswith(quote * 3, self._at):
            self._at += 3
            while not self._text.startswith(quote * 3, self._at):
                self._at += 2 if quote == '"' and self._text[self._at] == "\\" else 1
            self._at += 3
            for _ in range(2):  # up to two quotes may stand before the closing three
                if self._text.startswith(quote, self._at):
                    self._at += 1
            return
        self._at += 1
        while self._text[self._at] != quote:
            self._at += 2 if quote == '"' and self._text[self._at] == "\\" else 1
        self._at += 1

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        self._skip(_SPACE)
        while self._text[self._at] != "]":
            self._note((*path, index), self._at)
            self._value((*path, index))
            index += 1
            self._skip(_SPACE)
            if self._text[self._at] == ",":
                self._at += 1
                self._skip(_SPACE)
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_SPACE)
        while self._text[self._at] != "}":
            self._pair(path)
            self._skip(_SPACE)
            if self._text[self._at] == ",":
                self._at += 1
                self._skip(_SPACE)
        self._at += 1

    def _skip(self, characters: str) -> None:
        """Move past blanks; where line ends are blanks, comments are too."""
        text, end = self._text, len(self._text)
        while self._at < end:
            if text[self._at] in characters:
                self._at += 1
            elif text[self._at] == "#" and "\n" in characters:
                line_end = text.find("\n", self._at)
                self._at = end if line_end < 0 else line_end
            else:
                return

    def _note(self, path: KeyPath, offset: int) -> None:
        if path not in self._found:
            line = bisect_right(self._line_starts, offset)
            self._found[path] = (line, offset - self._line_starts[line - 1] + 1)
