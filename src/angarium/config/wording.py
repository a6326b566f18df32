"""The words in which senders are told what became of their mail: one TOML file for each language.

Job: read the languages that come with the relay and those of `notification.templates`, check every text, and give a
Wording for each. A file is named LANGUAGE.toml (`de.toml`, `pt-BR.toml`). One of the operator's goes before the relay's
own for that language; what it does not say is taken from there, or, for a language that the relay does not have, is
required. docs/notifications.md explains every text and every name in braces.

`read_wordings(folder)` returns the languages and all problems, each as one line with file, line, column and key. It
raises nothing. A language with a problem is left out, so that the relay's own, or English, is used in its place.

Bounds: a file is at most LARGEST_FILE octets, a text LONGEST_TEXT and a subject LONGEST_SUBJECT characters.
"""

from __future__ import annotations

import re
import string
import tomllib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from angarium.config.locate import locate
from angarium.config.problem import key_text, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from angarium.config.locate import KeyPath

__all__ = ["KINDS", "Wording", "read_wordings", "shipped_wordings"]

# What can be told of a recipient, the gravest first: it gives a notification its subject.
KINDS = ("failed", "expired", "delayed", "relayed", "delivered", "expanded")

LARGEST_FILE = 1 << 16
LONGEST_TEXT = 4000
LONGEST_SUBJECT = 150
LONGEST_LINE = 500

_SHIPPED = Path(__file__).parent / "notifications"
_FILE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")  # BCP 47, as far as it is needed here
_DATE = re.compile(r"%[dmyYHMS%]")  # numbers only: names of days and months have a language of their own
_MEANING = re.compile(r"\d{1,3}\.\d{1,3}")

_MESSAGE = frozenset({"hostname", "queue_id", "date", "subject"})
_RECIPIENT = frozenset({"address", "status", "meaning", "reply", "host"})
_SAMPLE = datetime(2025, 7, 1, 12, 34, 56, tzinfo=UTC)


class Wording(Struct, frozen=True):
    """The texts of one language; what stands in braces is for `format`. `subject` and `text` are by KINDS."""

    language: str
    sender: str
    date: str
    no_subject: str
    opening: str
    closing: str
    said: str  # of a recipient: a host replied
    reason: str  # of a recipient: no host replied
    done: str  # of a recipient: the mail was delivered, or handed on
    subject: dict[str, str]
    text: dict[str, str]
    meaning: dict[str, str]  # of an enhanced status, by "subject.detail"; in English they are the registry's


# (table or "", key): (names in braces that may stand in the text, those that must, one line only)
_KEYS: dict[KeyPath, tuple[frozenset[str], frozenset[str], bool]] = {
    ("sender",): (frozenset(), frozenset(), True),
    ("date",): (frozenset(), frozenset(), True),
    ("no_subject",): (frozenset(), frozenset(), True),
    ("opening",): (_MESSAGE, frozenset(), False),
    ("closing",): (_MESSAGE, frozenset(), False),
    ("recipient", "said"): (_RECIPIENT, frozenset({"address", "reply"}), False),
    ("recipient", "reason"): (_RECIPIENT - {"host"}, frozenset({"address", "reply"}), False),
    ("recipient", "done"): (_RECIPIENT, frozenset({"address"}), False),
}
for _kind in KINDS:
    _KEYS[_kind, "subject"] = (_MESSAGE, frozenset(), True)
    _until = frozenset({"until"}) if _kind == "delayed" else frozenset[str]()
    _KEYS[_kind, "text"] = (_MESSAGE | {"recipients"} | _until, _until | {"recipients"}, False)


def read_wordings(folder: str | None) -> tuple[dict[str, Wording], tuple[str, ...]]:
    """Every language that there is, and what is wrong with the operator's files."""
    wordings = dict(shipped_wordings())
    problems: list[str] = []
    if folder is None:
        return wordings, ()
    try:
        files = sorted(path for path in Path(folder).iterdir() if path.suffix == ".toml")
    except OSError as error:
        return wordings, (f"{folder} cannot be read: {error.strerror}",)
    if not files:
        problems.append(f"{folder} has no file LANGUAGE.toml, such as en.toml")
    for path in files:
        wording = _read(path, problems, wordings.get(path.stem))
        if wording is not None:
            wordings[wording.language] = wording
    return wordings, tuple(problems)


@cache
def shipped_wordings() -> dict[str, Wording]:
    """The languages that come with the relay, English among them. ValueError: the installation is damaged."""
    problems: list[str] = []
    wordings = {path.stem: _read(path, problems, None) for path in sorted(_SHIPPED.glob("*.toml"))}
    whole = {language: wording for language, wording in wordings.items() if wording is not None}
    if problems or "en" not in whole:
        raise ValueError("\n".join(problems) or f"{_SHIPPED} has no en.toml")
    return whole


def _read(path: Path, problems: list[str], base: Wording | None) -> Wording | None:
    """One file, or None when it has a problem."""
    file = str(path)
    if not _FILE.fullmatch(path.stem):
        problems.append(f"{file}: the name is not that of a language, such as en.toml or pt-BR.toml")
        return None
    try:
        with open(path, "rb") as opened:
            octets = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        problems.append(f"{file} cannot be read: {error.strerror}")
        return None
    if len(octets) > LARGEST_FILE:
        problems.append(f"{file} is larger than {LARGEST_FILE} octets")
        return None
    try:
        text = octets.decode("utf-8-sig").replace("\r\n", "\n")
        data = tomllib.loads(text)
    except UnicodeDecodeError as error:
        problems.append(f"{file}:{octets.count(bytes([10]), 0, error.start) + 1}: is not UTF-8")
        return None
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{file} is not TOML: {error}")
        return None
    found = list(_problems(data, base))
    if found:
        positions = locate(text)
        for key, message in found:
            place = key
            while place and place not in positions:
                place = place[:-1]
            line, column = positions.get(place, (1, 1))
            problems.append(f"{file}:{line}:{column}: {key_text(key)}: {message}")
        return None
    return _wording(path.stem, data, base)


def _problems(data: dict[str, Any], base: Wording | None) -> Iterator[tuple[KeyPath, str]]:
    tables: dict[str, list[str]] = {"": [], "meaning": []}
    for key in _KEYS:
        tables.setdefault("" if len(key) == 1 else str(key[0]), []).append(str(key[-1]))
    for name, value in data.items():
        if name in tables and name:
            if not isinstance(value, dict):
                yield (name,), "expected a table"
            elif name == "meaning":
                yield from _problems_of_meanings(value)
            else:
                for key in value:
                    if key not in tables[name]:
                        yield (name, key), _unknown(key, tables[name])
        elif name not in tables[""]:
            yield (name,), _unknown(name, [*tables[""], *(table for table in tables if table)])
    for path, (allowed, needed, one_line) in _KEYS.items():
        value = _get(data, path)
        if value is None:
            table = data.get(str(path[0]))
            if base is None and (len(path) == 1 or table is None or isinstance(table, dict)):
                yield path, "is required and not there: the relay has no texts of its own in this language"
        elif not isinstance(value, str) or not value.strip():
            yield path, "expected a text that is not empty"
        else:
            message = _problem_of_date(value) if path == ("date",) else _problem_of_text(value, allowed, needed)
            limit = LONGEST_SUBJECT if one_line else LONGEST_TEXT
            if one_line and "\n" in value.strip("\n"):
                message = message or "must be one line"
            elif len(value) > limit:
                message = message or f"has {len(value)} characters, at most {limit} are allowed"
            elif any(len(line) > LONGEST_LINE for line in value.split("\n")):
                message = message or f"has a line of more than {LONGEST_LINE} characters"
            if message:
                yield path, message


def _problems_of_meanings(meanings: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for key, value in meanings.items():
        if not _MEANING.fullmatch(key):
            yield ("meaning", key), 'is not "SUBJECT.DETAIL" of an enhanced status code, such as "1.1" for 5.1.1'
        elif not isinstance(value, str) or not value.strip():
            yield ("meaning", key), "expected a text that is not empty"
        elif not value.isprintable() or len(value) > LONGEST_SUBJECT:
            yield ("meaning", key), f"must be one line of at most {LONGEST_SUBJECT} characters"


def _unknown(key: str, known: list[str]) -> str:
    near = nearest(key, known)
    return f'unknown key (did you mean "{near}"?)' if near else f"unknown key; known are {', '.join(sorted(known))}"


def _problem_of_date(value: str) -> str | None:
    if "%" in _DATE.sub("", value):
        return "only %d, %m, %y, %Y, %H, %M, %S and %% can stand in a date"
    if not _SAMPLE.strftime(value).isprintable():
        return "holds a character that cannot be printed"
    return None


def _problem_of_text(value: str, allowed: frozenset[str], needed: frozenset[str]) -> str | None:
    if any(not (character.isprintable() or character in "\n\t") for character in value):
        return "holds a character that cannot be printed"
    used = set()
    try:
        for _, name, spec, conversion in string.Formatter().parse(value):
            if name is None:
                continue
            if spec or conversion or not name.isidentifier():
                return (
                    f"a name stands alone in its braces, as in {{queue_id}}, found {{{name}}}; write {{{{ for a brace"
                )
            if name not in allowed:
                near = nearest(name, sorted(allowed))
                hint = f" (did you mean {{{near}}}?)" if near else f"; known are {_listed(allowed)}"
                return f"{{{name}}} means nothing here{hint}"
            used.add(name)
    except ValueError as error:
        return f"{error}; write {{{{ and }}}} for braces that are meant"
    if needed - used:
        return f"lacks {_listed(needed - used)}"
    return None


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names)) or "none"


def _get(data: Mapping[str, Any], path: KeyPath) -> Any:
    value: Any = data
    for part in path:
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _wording(language: str, data: dict[str, Any], base: Wording | None) -> Wording:
    def text(*path: str) -> str:
        value = _get(data, path)
        if value is not None:
            return str(value).strip("\n")
        assert base is not None  # else it was required
        if path[0] in KINDS:
            return (base.subject if path[1] == "subject" else base.text)[path[0]]
        return str(getattr(base, path[-1]))

    return Wording(
        language=language,
        sender=text("sender"),
        date=text("date"),
        no_subject=text("no_subject"),
        opening=text("opening"),
        closing=text("closing"),
        said=text("recipient", "said"),
        reason=text("recipient", "reason"),
        done=text("recipient", "done"),
        subject={kind: text(kind, "subject") for kind in KINDS},
        text={kind: text(kind, "text") for kind in KINDS},
        meaning={**(base.meaning if base is not None else {}), **data.get("meaning", {})},
    )
