"""Durations, sizes and shares as people write them, and the annotations that mark a key as one.

A value that has a unit carries it in the attribute's name (`idle_timeout_s`, `message_size_octets`) and not in the
TOML key (`idle_timeout = "5m"`, `message_size = "50MB"`): see `angarium.config.model`.

Durations: a number of seconds, or `250ms`, `90s`, `1m`, `4h`, `5d`, `1h30m`. Sizes: a number of octets, or a number
with `B`, `KB`, `MB`, `GB` (powers of 1000) or `KiB`, `MiB`, `GiB` (powers of 1024). Every parser raises ValueError with
a sentence that says what was found and what would do.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated

from msgspec import Meta, Struct

__all__ = [
    "Count",
    "Duration",
    "FilePath",
    "MemoryBudget",
    "PositiveDuration",
    "Size",
    "Unit",
    "format_duration",
    "format_size",
    "parse_duration",
    "parse_size",
]


class Unit(enum.Enum):
    """How the text of a key becomes its value."""

    DURATION = "a duration"
    SIZE = "a size"
    PATH = "a path"


Duration = Annotated[float, Meta(ge=0), Unit.DURATION]
PositiveDuration = Annotated[float, Meta(gt=0), Unit.DURATION]
Size = Annotated[int, Unit.SIZE]
FilePath = Annotated[str, Unit.PATH]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
OCTETS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?%")
_LONGEST_S = 3650 * SECONDS["d"]
_LARGEST_OCTETS = 2**50


def parse_duration(text: str) -> float:
    """Seconds."""
    seconds, end = 0.0, 0
    for part in _DURATION_PART.finditer(text):
        if part.start() != end:
            break
        seconds += float(part[1]) * SECONDS[part[2]]
        end = part.end()
    if not text or end != len(text):
        raise ValueError(f'"{text}" is not a duration; write it like "90s", "1m", "4h", "5d" or "250ms"')
    if seconds > _LONGEST_S:
        raise ValueError(f'"{text}" is more than ten years')
    return seconds


def parse_size(text: str) -> int:
    """Octets."""
    found = _SIZE.fullmatch(text)
    if found is None or found[2].lower() not in OCTETS:
        raise ValueError(
            f'"{text}" is not a size; write it like "50MB" (50,000,000 octets), "64KiB" (65,536) or "4096"'
        )
    octets = float(found[1]) * OCTETS[found[2].lower()]
    if octets > _LARGEST_OCTETS:
        raise ValueError(f'"{text}" is more than a million gigabytes')
    if octets != int(octets):
        raise ValueError(f'"{text}" is not a whole number of octets')
    return int(octets)


def format_duration(seconds: float) -> str:
    """A short text from which parse_duration makes the same value, to the millisecond: `300.0` is `5m`."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= SECONDS[unit] and seconds % SECONDS[unit] == 0:
            return f"{int(seconds / SECONDS[unit])}{unit}"
    return f"{round(seconds * 1000)}ms" if seconds else "0s"


def format_size(octets: int) -> str:
    """The shortest text from which parse_size makes the same value: `65536` is `64KiB`."""
    for unit in ("GB", "GiB", "MB", "MiB", "KB", "KiB"):
        factor = OCTETS[unit.lower()]
        if octets >= factor and octets % factor == 0:
            return f"{octets // factor}{unit}"
    return str(octets)


class MemoryBudget(Struct, frozen=True):
    """How much memory mail data may take: a share of the machine's, or octets. One of both is None."""

    percent: float | None = None
    octets: int | None = None

    @classmethod
    def parse(cls, value: str | int) -> MemoryBudget:
        if isinstance(value, str):
            share = _PERCENT.fullmatch(value)
            if share is not None:
                percent = float(share[1])
                if not 0 < percent <= 90:
                    raise ValueError(f'"{value}" is not between 0% and 90% of the memory')
                return cls(percent=percent)
            try:
                octets = parse_size(value)
            except ValueError:
                raise ValueError(
                    f'"{value}" is neither a share of the memory like "25%" nor a size like "2GB"'
                ) from None
        else:
            octets = value
        if octets > _LARGEST_OCTETS:
            raise ValueError("is more than a million gigabytes")
        if octets < 2**20:
            raise ValueError(f"{octets} octets are less than 1MiB, too little to hold any mail")
        return cls(octets=octets)

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent is not None else format_size(self.octets or 0)
