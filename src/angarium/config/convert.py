"""From the tables that tomllib read to the Structs of the model, without stopping at the first problem.

The types of the model are the schema: their annotations say what a key takes, their defaults what it is when absent.
A key whose value cannot be used is reported and takes its default, so that the rest can be looked at; the checks that
come later ask `Findings.sound()` whether what they are about to compare was really written. A table that lacks a
required key, or whose required key is not usable, has no value: the tuple that should hold it goes without.
"""

from __future__ import annotations

import re
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct
from msgspec.structs import fields

from angarium.config.address import DnsServer, ListenAddress, Network, Peer
from angarium.config.fingerprint import CertificateName, Fingerprint
from angarium.config.model import Config, HeaderCondition, Hop, Section
from angarium.config.next_hop import NextHop
from angarium.config.permission import Volume
from angarium.config.problem import key_text, nearest
from angarium.config.secret import Secret
from angarium.config.source import SourceMember
from angarium.config.units import MemoryBudget, Unit, format_duration, format_size, parse_duration, parse_size
from angarium.mail.pattern import AddressPattern, SenderPattern, TextPattern

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from angarium.config.locate import KeyPath
    from angarium.config.problem import Findings

__all__ = ["Converter"]

# What a float holds exactly; not a number and infinity are beyond it too.
_LARGEST_NUMBER = 2**53
# Values that are written as one string.
_PARSED = (
    ListenAddress,
    DnsServer,
    Network,
    Peer,
    NextHop,
    AddressPattern,
    Fingerprint,
    CertificateName,
    SenderPattern,
    TextPattern,
    Secret,
)
# Tables from which others of the same kind, further down, take what they do not say.
_GIVES = {("limits",), ("queue", "retry"), ("delivery", "timeouts")}
_FIELD_NAME = re.compile(r"[!-9;-~]{1,77}")  # RFC 5322 §3.6.8
_EXPECTED = {
    ListenAddress: 'an address and a port such as "127.0.0.1:25"',
    DnsServer: 'the address of a name server such as "127.0.0.1:53"',
    Network: 'a network such as "10.0.0.0/8"',
    Peer: 'a network such as "10.0.0.0/8", or "unix"',
    NextHop: 'a next hop such as "smtp://192.0.2.1:25" or "mx"',
    AddressPattern: 'a pattern such as "example.org", "*.example.org" or "*"',
    CertificateName: "a name in a certificate, or its SHA-256 fingerprint",
    Fingerprint: "a SHA-256 fingerprint: 64 hexadecimal digits",
    SenderPattern: 'a pattern such as "example.org", "*.example.org", "*", or "<>" for the null reverse-path',
    TextPattern: 'a text, in which "*" stands for anything',
    Secret: "a string",
    MemoryBudget: 'a share such as "25%" or a size such as "2GB"',
    Volume: 'a number of recipients an hour, or a multiple such as "5x"',
}


class _Unusable(Exception):
    """A value that is none. The problem has been reported, or is the message."""


def _describe(value: object) -> str:
    match value:
        case bool():
            return f"the boolean {'true' if value else 'false'}"
        case str():
            return f'the string "{value if len(value) <= 40 else value[:37] + "..."}"'
        case int():
            return f"the integer {value}" if _is_number(value) else "an integer larger than any that makes sense"
        case float():
            return f"the number {value}"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return f"the date or time {value}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_NUMBER


class Converter:
    """Turns tables into Structs. What is wrong goes to `findings`; relative paths are relative to `folder`."""

    def __init__(self, findings: Findings, folder: Path) -> None:
        self._findings = findings
        self._folder = folder
        self._inherited: dict[type[Struct], Section] = {}

    def table(self, kind: type[Struct], value: object, path: KeyPath) -> tuple[dict[str, Any], bool]:
        """The fields of a Struct by name, and whether they are enough to make one."""
        if not isinstance(value, dict):
            self._findings.error(path, f"expected a table, found {_describe(value)}")
            return {}, False
        hints = get_type_hints(kind, include_extras=True)
        known = {field.encode_name: field for field in fields(kind)}
        misspelt = {self._unknown(key, path, list(known)) for key in value if key not in known}
        base = self._inherited.get(kind)
        made: dict[str, Any] = {}
        complete = True
        # the node's limits before the listeners, and the queue's retry schedule and the timeouts before the routes,
        # which take from them what they do not say
        for key, field in sorted(known.items(), key=lambda item: item[0] not in ("limits", "queue", "delivery")):
            if key in value:
                try:
                    made[field.name] = self._value(hints[field.name], value[key], (*path, key))
                except _Unusable as error:
                    if error.args:
                        self._findings.error((*path, key), *error.args)
                    complete = complete and not field.required
                else:
                    if (*path, key) in _GIVES:
                        self._inherited[type(made[field.name])] = made[field.name]
            elif base is not None:
                made[field.name] = getattr(base, field.name)
            elif field.required:
                complete = False
                if key not in misspelt:
                    self._findings.error((*path, key), "is required and not there")
        return made, complete

    def _unknown(self, key: str, path: KeyPath, known: list[str]) -> str | None:
        """Report the key, and return the one that was probably meant."""
        near = nearest(key, known)
        message = f"unknown key in [{key_text(path)}]" if path else "unknown key at the top level"
        if near is None:
            elsewhere = next((table for table in _tables_with(key, Config, "") if table), None)
            message += f"; it belongs in [{elsewhere}]" if elsewhere else f"; its keys are {', '.join(sorted(known))}"
        self._findings.unknown_key((*path, key), message, near)
        return near

    def _value(self, kind: Any, value: object, path: KeyPath) -> object:
        """One value, or _Unusable: with a message, or without one when the problem within has been reported."""
        metadata: tuple[object, ...] = ()
        if get_origin(kind) is Annotated:
            kind, *rest = get_args(kind)
            metadata = tuple(rest)
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            return self._union(get_args(kind), value, path)
        if origin is Literal:
            return self._choice(get_args(kind), value)
        if origin is tuple:
            (element, *_) = get_args(kind)
            return self._headers(value, path) if element is HeaderCondition else self._array(element, value, path)
        if kind in (MemoryBudget, Volume):
            if not (isinstance(value, str) or (isinstance(value, int) and _is_number(value))):
                raise _Unusable(f"expected {_EXPECTED[kind]}, found {_describe(value)}")
            return self._parse(kind, value)
        if kind in _PARSED:
            if not isinstance(value, str):
                found = "something else" if kind is Secret else _describe(value)  # nothing of a secret is shown
                raise _Unusable(f"expected {_EXPECTED[kind]}, found {found}")
            return self._parse(kind, value)
        if kind is SourceMember and isinstance(value, str):
            return SourceMember(source=cast("str", self._scalar(str, (), value)))
        if isinstance(kind, type) and (issubclass(kind, Section) or kind is SourceMember):
            made, complete = self.table(kind, value, path)
            if not complete:
                raise _Unusable
            return kind(**made)
        return self._scalar(kind, metadata, value)

    def _union(self, kinds: tuple[Any, ...], value: object, path: KeyPath) -> object:
        kinds = tuple(kind for kind in kinds if kind is not types.NoneType)
        if len(kinds) == 1:
            return self._value(kinds[0], value, path)
        if NextHop in kinds:
            return self._hops(value, path) if isinstance(value, list) else self._value(NextHop, value, path)
        number, choice = kinds  # a number or one of some words
        if isinstance(value, str):
            words = get_args(choice)
            if value not in words:
                wanted = " or ".join(f'"{word}"' for word in words)
                raise _Unusable(f'expected an integer or {wanted}, found "{value}"', nearest(value, list(words)))
            return value
        return self._value(number, value, path)

    def _choice(self, words: tuple[str, ...], value: object) -> object:
        if value in words:
            return value
        wanted = ", ".join(f'"{word}"' for word in words)
        near = nearest(value, list(words)) if isinstance(value, str) else None
        raise _Unusable(f"expected one of {wanted}, found {_describe(value)}", near)

    def _array(self, kind: Any, value: object, path: KeyPath) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise _Unusable(f"expected an array, found {_describe(value)}{_array_hint(kind, path)}")
        made, indexes = [], []
        for index, element in enumerate(value):
            try:
                made.append(self._value(kind, element, (*path, index)))
                indexes.append(index)
            except _Unusable as error:
                if error.args:
                    self._findings.error((*path, index), *error.args)
        self._findings.indexes[path] = indexes
        if len(indexes) < len(value):
            self._findings.short.add(path)
        return tuple(made)

    def _hops(self, value: list[object], path: KeyPath) -> tuple[object, ...]:
        """Several next hops: texts in the order in which to try them, or tables with weight and priority."""
        if not value:
            raise _Unusable("is empty, so that mail could go nowhere")
        written = {type(element) for element in value}
        if written == {str, dict}:
            raise _Unusable("is either an array of next hops or one of tables { to, weight, priority }, not a mixture")
        made = self._array(NextHop if str in written else Hop, value, path)
        if len(made) < len(value):
            raise _Unusable
        return tuple(Hop(to=hop, priority=index) if isinstance(hop, NextHop) else hop for index, hop in enumerate(made))

    def _headers(self, value: object, path: KeyPath) -> tuple[HeaderCondition, ...]:
        if not isinstance(value, dict):
            raise _Unusable(f'expected a table such as {{ "X-Stream" = "bulk*" }}, found {_describe(value)}')
        made = []
        for name, pattern in value.items():
            if not _FIELD_NAME.fullmatch(name):
                raise _Unusable(f'"{name}" is not the name of a header field (RFC 5322 §3.6.8)')
            try:
                text = self._value(TextPattern, pattern, (*path, name))
            except _Unusable as error:
                raise _Unusable(f"{name}: {error}") from None
            made.append(HeaderCondition(name=name, value=cast("TextPattern", text).folded))
        return tuple(made)

    def _parse(self, kind: Any, value: object) -> object:
        try:
            return kind.parse(value)
        except ValueError as error:
            raise _Unusable(str(error)) from None

    def _scalar(self, kind: Any, metadata: tuple[object, ...], value: object) -> object:
        unit = next((entry for entry in metadata if isinstance(entry, Unit)), None)
        try:
            made = _measure(unit, value) if unit in (Unit.DURATION, Unit.SIZE) else _plain(kind, value)
        except ValueError as error:
            raise _Unusable(str(error)) from None
        for meta in metadata:
            if isinstance(meta, Meta) and not isinstance(made, str):
                _check_bounds(meta, made, unit)
        if isinstance(made, str):
            if not made or "\0" in made:
                raise _Unusable("expected a text that is not empty" if not made else "has a NUL in it")
            if unit is Unit.PATH:
                return str(self._folder / made)
        return made


def _measure(unit: Unit | None, value: object) -> float | int:
    if unit is Unit.DURATION:
        if isinstance(value, str):
            return parse_duration(value)
        if _is_number(value):
            return parse_duration(f"{value}s")
        raise ValueError(f'expected a duration such as "90s" or a number of seconds, found {_describe(value)}')
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, int) and _is_number(value):
        return value
    raise ValueError(f'expected a size such as "50MB" or a number of octets, found {_describe(value)}')


def _plain(kind: Any, value: object) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ValueError(f"expected true or false, found {_describe(value)}")
    if kind is int:
        if isinstance(value, int) and _is_number(value):
            return value
        raise ValueError(f"expected an integer, found {_describe(value)}")
    if kind is float:
        if _is_number(value):
            return float(cast("float", value))
        raise ValueError(f"expected a number, found {_describe(value)}")
    if isinstance(value, str):
        return value
    raise ValueError(f"expected a string, found {_describe(value)}")


def _check_bounds(meta: Meta, value: Any, unit: Unit | None) -> None:
    def show(number: Any) -> str:
        if unit is Unit.DURATION:
            return format_duration(float(number))
        return format_size(number) if unit is Unit.SIZE else str(number)

    if meta.ge is not None and value < meta.ge:
        raise _Unusable(f"must be at least {show(meta.ge)}, is {show(value)}")
    if meta.gt is not None and value <= meta.gt:
        raise _Unusable(f"must be more than {show(meta.gt)}, is {show(value)}")
    if meta.le is not None and value > meta.le:
        raise _Unusable(f"must be at most {show(meta.le)}, is {show(value)}")


def _array_hint(kind: Any, path: KeyPath) -> str:
    if isinstance(kind, type) and issubclass(kind, Section):
        return f"; write each as [[{key_text(path)}]]"
    return '; write ["..."]'


def _tables_with(key: str, kind: type[Section], path: str) -> Iterator[str]:
    """The tables of the model that know the key, the top level as an empty text."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if field.encode_name == key:
            yield path
        for candidate in (hints[field.name], *get_args(hints[field.name])):
            if isinstance(candidate, type) and issubclass(candidate, Section):
                yield from _tables_with(key, candidate, f"{path}.{field.encode_name}".lstrip("."))
