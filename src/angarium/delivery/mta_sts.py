"""MTA-STS, RFC 8461: what a domain says of the TLS of its mail hosts. Values only: nothing is looked up here.

Job: `record_id` reads the answer to a look-up of `_mta-sts.DOMAIN`, `parse_policy` the file that is fetched then, and
`Policy.covers` says whether a mail host is one of those the policy names. Input: octets as they came from the network.
Output: the record's id, or None where a domain has no usable record; a Policy.

Fails: PolicyError for a file that is no policy, with the line and what is wrong with it.

Decided beyond the RFC: white space in front of the first ";" of a record is allowed, as its grammar says, though §3.1
names the literal "v=STSv1;"; a max_age beyond the greatest that the RFC allows counts as the greatest; white space and
empty lines at the end of a file are passed over. A mail host's name is compared without regard to case and without the
dot at its end.

Bounds: LARGEST_POLICY octets of a file, MOST_PATTERNS in it. DNS bounds the record.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LARGEST_POLICY", "LONGEST_MAX_AGE_S", "Mode", "Policy", "PolicyError", "parse_policy", "record_id"]

Mode = Literal["enforce", "testing", "none"]

LONGEST_MAX_AGE_S = 31_557_600  # §3.2: a year
LARGEST_POLICY = 64 * 1024  # §3.3 suggests it
MOST_PATTERNS = 500

# §3.1. A field of another name is passed over, and so is an id that is none: then the record has no id.
_RECORD = re.compile(rb"v=STSv1(?:[ \t]*;[ \t]*[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[!-:<>-~]+)+(?:[ \t]*;[ \t]*)?")
_OURS = re.compile(rb"v=STSv1[ \t]*;")
_FIELD = re.compile(rb";[ \t]*([A-Za-z0-9_.-]+)=([!-:<>-~]+)")
_ID = re.compile(rb"[A-Za-z0-9]{1,32}")

# §3.2
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_PATTERN = re.compile(
    r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_MAX_AGE = re.compile(r"[0-9]{1,10}")
_MODES: dict[str, Mode] = {"enforce": "enforce", "testing": "testing", "none": "none"}


class PolicyError(ValueError):
    """A policy file that is none: the policy counts as not there (§3.2)."""


class Policy(Struct, frozen=True):
    """A policy. `patterns` are in lower case, in the order of the file; with mode none there may be none of them."""

    mode: Mode
    max_age_s: int
    patterns: tuple[str, ...]

    def covers(self, host: str) -> bool:
        """Whether a mail host of that name may be used, §4.1: `*.` stands for exactly one label."""
        name = host.lower().removesuffix(".")
        label, _, parent = name.partition(".")
        return name in self.patterns or (bool(label) and f"*.{parent}" in self.patterns)

    def lines(self) -> tuple[str, ...]:
        """Its fields, as a report of TLS results shows them (RFC 8460 §4.4)."""
        return (
            "version: STSv1",
            f"mode: {self.mode}",
            *(f"mx: {pattern}" for pattern in self.patterns),
            f"max_age: {self.max_age_s}",
        )


def record_id(records: Iterable[bytes]) -> str | None:
    """The id in the one record that is meant, §3.1; each of `records` has its strings joined already.

    None: there is no such record, there are several, or it is malformed. Then the domain has no policy to be fetched.
    """
    meant = [record for record in records if _OURS.match(record)]
    if len(meant) != 1 or not _RECORD.fullmatch(meant[0]):
        return None
    found = next((value for name, value in _FIELD.findall(meant[0]) if name == b"id"), b"")  # the first counts, §3.2
    return found.decode("ascii") if _ID.fullmatch(found) else None


def parse_policy(octets: bytes) -> Policy:
    """The policy in a file, §3.2. PolicyError when it is none."""
    if len(octets) > LARGEST_POLICY:
        raise PolicyError(f"the policy has more than {LARGEST_POLICY} octets")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise PolicyError("the policy is not UTF-8") from None
    fields: dict[str, str] = {}
    patterns: dict[str, None] = {}
    for number, line in enumerate(re.split(r"\r?\n", text.rstrip(" \t\r\n")), 1):
        key, value = _split(line, number)
        if key == "mx":
            if not _PATTERN.fullmatch(value) or len(value) > 255:
                raise PolicyError(f'line {number}: "{_shown(value)}" is no host name')
            patterns.setdefault(value.lower())
        else:
            fields.setdefault(key, value)  # of a field that is there twice the first counts
    if len(patterns) > MOST_PATTERNS:
        raise PolicyError(f"the policy names more than {MOST_PATTERNS} mail hosts")
    return _assemble(fields, tuple(patterns))


def _split(line: str, number: int) -> tuple[str, str]:
    key, colon, value = line.partition(":")
    value = value.strip(" \t")
    if not colon or not _KEY.fullmatch(key):
        raise PolicyError(f'line {number}: "{_shown(line)}" is not "key: value"')
    if not value or not all(c == " " or c.isprintable() or ord(c) >= 0xA0 for c in value):
        raise PolicyError(f"line {number}: {key} has no value, or one with control characters")
    return key, value


def _assemble(fields: dict[str, str], patterns: tuple[str, ...]) -> Policy:
    for key in ("version", "mode", "max_age"):
        if key not in fields:
            raise PolicyError(f"the policy has no {key}")
    if fields["version"] != "STSv1":
        raise PolicyError(f'"{_shown(fields["version"])}" is not the version STSv1')
    mode = _MODES.get(fields["mode"])
    if mode is None:
        raise PolicyError(f'"{_shown(fields["mode"])}" is not a mode: enforce, testing or none')
    if not _MAX_AGE.fullmatch(fields["max_age"]):
        raise PolicyError(f'"{_shown(fields["max_age"])}" is not a max_age: up to ten digits')
    if not patterns and mode != "none":
        raise PolicyError("the policy names no mail host (mx)")
    return Policy(mode, min(int(fields["max_age"]), LONGEST_MAX_AGE_S), patterns)


def _shown(text: str) -> str:
    """Text from outside, for a message."""
    return "".join(c if c.isprintable() else "?" for c in text[:60])
