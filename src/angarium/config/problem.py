"""What is wrong with a configuration, and where."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from angarium.config.locate import KeyPath

__all__ = ["ConfigErrors", "Finding", "Findings", "Problem", "Severity", "key_text", "nearest", "nearest_file"]

Severity = Literal["error", "warning"]

MOST_NAMES = 10_000  # of a folder that are looked at


def key_text(path: KeyPath) -> str:
    """`("listener", 0, "tls")` as `listener[0].tls`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(word: str, valid: list[str]) -> str | None:
    """The valid name that was most likely meant."""
    by_fold = {name.lower(): name for name in valid}
    near = difflib.get_close_matches(word.lower().replace("-", "_"), by_fold, n=1)
    near = near or difflib.get_close_matches(word.lower(), by_fold, n=1)
    return by_fold[near[0]] if near else None


def nearest_file(path: str) -> str | None:
    """For a path that leads nowhere: the one that was most likely meant, where one word of it is written wrongly."""
    folder, wrong, rest = path, "", ""
    while folder and not os.path.lexists(folder):
        rest = f"{wrong}/{rest}" if rest else wrong
        folder, wrong = os.path.split(folder)
    try:
        names = [entry.name for _, entry in zip(range(MOST_NAMES), os.scandir(folder), strict=False)]
    except OSError:
        return None
    for name in difflib.get_close_matches(wrong, names):
        meant = os.path.join(folder, name, rest) if rest else os.path.join(folder, name)
        if os.path.exists(meant):
            return meant
    return None


class Problem(Struct, frozen=True):
    """One thing that is wrong, or (a warning) one that is probably not meant.

    `line` and `column` count from 1; both are 0 when the file as a whole is meant. `key` is the path,
    `listener[0].tls`, empty when no key is meant. `suggestion` is the nearest valid name or value.
    """

    file: str
    line: int
    column: int
    key: str
    message: str
    suggestion: str | None = None
    severity: Severity = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        warning = " warning:" if self.severity == "warning" else ""
        hint = f' (did you mean "{self.suggestion}"?)' if self.suggestion else ""
        return f"{place}:{key}{warning} {self.message}{hint}"


class ConfigErrors(Exception):
    """The configuration cannot be used. `problems` has every reason, in the order of the file, warnings included."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Finding(Struct, frozen=True):
    """A problem that does not know yet where in the file its key stands."""

    path: KeyPath
    message: str
    suggestion: str | None
    severity: Severity

    def at(self, file: str, line: int, column: int) -> Problem:
        return Problem(file, line, column, key_text(self.path), self.message, self.suggestion, self.severity)


class Findings:
    """What is being found out about one configuration, by those who read it and those who check it.

    `indexes` says, of each array, which of the file's elements its tuple holds: those that cannot be used are left out.
    `short` has the arrays that lost elements so.
    """

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.indexes: dict[KeyPath, list[int]] = {}
        self.short: set[KeyPath] = set()
        self._unsound: set[KeyPath] = set()

    def error(self, path: KeyPath, message: str, suggestion: str | None = None) -> None:
        """The key has no usable value."""
        self.found.append(Finding(path, message, suggestion, "error"))
        self._unsound.add(path)

    def unknown_key(self, path: KeyPath, message: str, suggestion: str | None) -> None:
        """An error that leaves every value as it is."""
        self.found.append(Finding(path, message, suggestion, "error"))

    def warn(self, path: KeyPath, message: str, suggestion: str | None = None) -> None:
        self.found.append(Finding(path, message, suggestion, "warning"))

    def sound(self, *paths: KeyPath) -> bool:
        """Whether none of these keys, nothing above and nothing within them had an error."""
        return not any(bad[: len(path)] == path[: len(bad)] for bad in self._unsound for path in paths)

    def whole(self, array: KeyPath) -> bool:
        """Whether the tuple holds every element of the file's array."""
        return array not in self._unsound and array not in self.short

    def element(self, array: KeyPath, index: int) -> KeyPath:
        """The path in the file of an element of the tuple."""
        indexes = self.indexes.get(array)
        return (*array, index if indexes is None else indexes[index])

    @property
    def errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.found)
