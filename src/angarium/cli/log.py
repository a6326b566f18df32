"""`angarium log`: the event log, filtered, followed, in words or as JSON.

Input: the file of the configuration, or `--file`; its rotated and compressed files, oldest first, without being told.
Output: on standard output. Files that ended before `--since`, or begin after `--until`, are not opened.

How it is fast: a line is looked at as octets first. What is asked for by id, address, event and the like must stand in
it literally, so a block in which it does not stand is passed over whole; only lines in which it does are decoded, and
then compared by field. A million lines take seconds.

Fails: exit status 1 and one line for a log that cannot be read. Lines that are no JSON are passed over, and counted on
standard error. Bound: READ_OCTETS and one line in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from angarium.cli.client import printable
from angarium.cli.main import config_option, fail
from angarium.config.units import parse_duration
from angarium.mail.event_schema import EVENTS, json_schema
from angarium.mail.event_text import describe
from angarium.outcome.event_files import first_line, head_of, list_files, time_of
from angarium.outcome.event_reader import LogReader, Position, oldest, youngest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Wanted", "log"]

READ_OCTETS = 8 << 20
FOLLOW_S = 0.2
SLACK_S = 60.0  # by which lines of two processes may stand out of order, at most
TIME_AT = len('{"time":"')
TIME_OCTETS = len("2026-11-26T04:22:27.123456Z")
_CLOCK = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(?:Z|[+-]\d\d:\d\d)?")
_ADDRESSES = ("reverse_path", "recipient", "recipients")


class Wanted:
    """Which lines are asked for."""

    def __init__(
        self,
        *,
        ids: Sequence[str] = (),
        events: Sequence[str] = (),
        addresses: Sequence[str] = (),
        domains: Sequence[str] = (),
        fields: Sequence[tuple[str, Sequence[str]]] = (),
        since: str = "",
        until: str = "",
    ) -> None:
        """Several of one kind: any of them; several kinds: all of them. `fields`: names with values that are compared
        whole. `since`, `until`: as times stand in the log."""
        self.since = since
        self.until = until
        self._since = since.encode("ascii")
        self._until = until.encode("ascii")
        self._tests: list[Callable[[dict[str, Any]], bool]] = []
        self._needles: list[re.Pattern[bytes] | bytes] = []
        if ids:
            wanted = frozenset(ids)
            self._tests.append(lambda event: event.get("id") in wanted or event.get("about") in wanted)
            self._literal([f'":"{one}"' for one in ids], True)
        if events:
            self._among("event", events)
            self._literal([f'"event":"{one}"' for one in events], True)
        for name, values in fields:
            if values:
                self._among(name, values)
                self._literal([f'"{name}":{json.dumps(one)}' for one in values], all(map(_is_plain, values)))
        folded = tuple(address.lower() for address in addresses)
        if folded:
            self._tests.append(lambda event: any(address.lower() in folded for address in _addresses(event)))
            self._literal(folded, all(map(_is_plain, folded)), fold=True)
        endings = tuple(f"@{domain.lower()}" for domain in domains)
        if endings:
            self._tests.append(lambda event: any(address.lower().endswith(endings) for address in _addresses(event)))
            self._literal(endings, all(map(_is_plain, endings)), fold=True)

    def _among(self, name: str, values: Sequence[str]) -> None:
        wanted = frozenset(values)
        self._tests.append(lambda event: event.get(name) in wanted)

    def _literal(self, texts: Sequence[str], plain: bool, *, fold: bool = False) -> None:
        """One of these stands in each line that is wanted; not plain: JSON may write it in several ways."""
        if not plain:
            return
        if len(texts) == 1 and not fold:
            self._needles.append(texts[0].encode("utf-8"))
        else:
            pattern = b"|".join(re.escape(text.encode("utf-8")) for text in texts)
            self._needles.append(re.compile(pattern, re.IGNORECASE if fold else 0))

    @property
    def everything(self) -> bool:
        """Whether every line is wanted, whatever is in it."""
        return not (self._tests or self._since or self._until)

    @property
    def since_with_slack(self) -> str:
        """A file that begins later than this has nothing in front of it that is wanted."""
        moment = datetime.fromisoformat(self.since) - timedelta(seconds=SLACK_S)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def ends_before(self, begins: str) -> bool:
        """Whether nothing is wanted of a file that begins then, nor of those behind it."""
        if not self.until or not begins:
            return False
        moment = datetime.fromisoformat(self.until) + timedelta(seconds=SLACK_S)
        return begins > moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def lines(self, block: bytes) -> Iterator[bytes]:
        """The lines of a block of whole lines that are wanted, without their ends; decode them to be sure."""
        if self._needles:
            yield from self._found(block)
        else:
            yield from block.split(b"\n")[:-1]

    def _found(self, block: bytes) -> Iterator[bytes]:
        needle, *others = self._needles
        at = 0
        while True:
            if isinstance(needle, bytes):
                at = block.find(needle, at)
            else:
                match = needle.search(block, at)
                at = -1 if match is None else match.start()
            if at < 0:
                return
            begin = block.rfind(b"\n", 0, at) + 1
            end = block.find(b"\n", at)
            line = block[begin:end]
            at = end + 1
            if all(other in line if isinstance(other, bytes) else other.search(line) for other in others):
                yield line

    def timely(self, line: bytes) -> bool:
        """Whether it was written when it should have been."""
        if not (self._since or self._until):
            return True
        moment = line[TIME_AT : TIME_AT + TIME_OCTETS]
        return (not self._since or moment >= self._since) and (not self._until or moment <= self._until)

    def takes(self, event: dict[str, Any]) -> bool:
        """Whether its fields are as asked for."""
        return all(test(event) for test in self._tests)


def _is_plain(text: str) -> bool:
    """Whether it stands in JSON as it is, whoever writes it."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def _addresses(event: dict[str, Any]) -> Iterator[str]:
    for name in _ADDRESSES:
        value = event.get(name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (one for one in value if isinstance(one, str))


def _moment(_: click.Context, parameter: click.Parameter, text: str | None) -> str:
    """A time as it stands in the log: of RFC 3339, or a duration before now."""
    if text is None:
        return ""
    try:
        moment = datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        try:
            if not _CLOCK.fullmatch(text):
                raise ValueError from None
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise click.BadParameter(
                f'"{text}" is neither a time such as "2026-11-26T04:00:00Z" nor a duration before now such as "2h"',
                param=parameter,
            ) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@click.command()
@config_option
@click.option("--file", "file", type=click.Path(dir_okay=False), help="The event log; that of the configuration.")
@click.option("--id", "ids", multiple=True, metavar="ID", help="Of this message.")
@click.option(
    "--event", "events", multiple=True, type=click.Choice(sorted(EVENTS)), metavar="NAME", help="Of this kind."
)
@click.option("--address", "addresses", multiple=True, metavar="ADDRESS", help="From or to this address.")
@click.option("--domain", "domains", multiple=True, metavar="DOMAIN", help="From or to an address of this domain.")
@click.option("--tenant", "tenants", multiple=True, metavar="NAME", help="Of this tenant.")
@click.option("--listener", "listeners", multiple=True, metavar="NAME", help="That came in by this listener.")
@click.option("--class", "classes", multiple=True, metavar="CLASS", help="With this class: deferred, failed, …")
@click.option("--site", "sites", multiple=True, metavar="SITE", help="At this site.")
@click.option("--client", "clients", multiple=True, metavar="ADDRESS", help="Of this client.")
@click.option("--log-in", "log_ins", multiple=True, metavar="NAME", help="Of who logged in by this name, or did not.")
@click.option("--permission", "permissions", multiple=True, metavar="NAME", help="Under this [[permission]].")
@click.option("--since", callback=_moment, metavar="TIME", help='From then on: RFC 3339 (UTC), or "2h": that long ago.')
@click.option("--until", callback=_moment, metavar="TIME", help="Up to then.")
@click.option("-n", "--last", type=click.IntRange(min=1), metavar="COUNT", help="No more than the last COUNT.")
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Show what will be written, over rotations; with --since or --last, after what there is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the lines as they are in the log.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a line, and nothing else.")
def log(  # one parameter for each option
    config: str | None,
    file: str | None,
    ids: tuple[str, ...],
    events: tuple[str, ...],
    addresses: tuple[str, ...],
    domains: tuple[str, ...],
    tenants: tuple[str, ...],
    listeners: tuple[str, ...],
    classes: tuple[str, ...],
    sites: tuple[str, ...],
    clients: tuple[str, ...],
    log_ins: tuple[str, ...],
    permissions: tuple[str, ...],
    since: str,
    until: str,
    last: int | None,
    *,
    follow: bool,
    as_json: bool,
    schema: bool,
) -> None:
    """The event log, rotated and compressed files included. Options of one kind are alternatives, kinds conditions."""
    if schema:
        click.echo(json.dumps(json_schema(), indent=2))
        return
    path = Path(file) if file is not None else _configured(config)
    fields = (
        ("tenant", tenants),
        ("listener", listeners),
        ("class", classes),
        ("site", sites),
        ("client", clients),
        ("login", log_ins),
        ("permission", permissions),
    )
    wanted = Wanted(
        ids=ids, events=events, addresses=addresses, domains=domains, fields=fields, since=since, until=until
    )
    shown = _Shown(wanted, last, as_json=as_json)
    try:
        if not list_files(path):
            fail(f"{path}: there is no event log")
        _show(path, wanted, shown, follow=follow, from_now=follow and not since and last is None)
    except OSError as failure:
        fail(f"{failure.filename or path}: {failure.strerror}")
    except (KeyboardInterrupt, BrokenPipeError):
        shown.silent()
    if shown.unreadable:
        click.echo(f"{shown.unreadable:,} lines are no events, and passed over", err=True)


def _configured(config: str | None) -> Path:
    from angarium.cli.main import open_config

    path = open_config(config).event_file
    if path is None:
        fail("there is no event log: events.file is not set")
    return Path(path)


class _Shown:
    """Prints what is wanted."""

    def __init__(self, wanted: Wanted, last: int | None, *, as_json: bool) -> None:
        self._wanted = wanted
        self._last = last
        self._kept: list[bytes] = []
        self._as_json = as_json
        self._out = sys.stdout.buffer
        self.unreadable = 0

    def block(self, block: bytes) -> None:
        """Lines of the log."""
        wanted = self._wanted
        if self._as_json and wanted.everything and self._last is None:
            self._out.write(block)
            return
        import msgspec

        decode = msgspec.json.Decoder(dict[str, Any]).decode
        made = []
        for line in wanted.lines(block):
            if not wanted.timely(line):
                continue
            try:
                event = decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.unreadable += 1
                continue
            if wanted.takes(event):
                made.append(line if self._as_json else _in_words(event))
        if self._last is not None:
            self._kept = (self._kept + made)[-self._last :]
        elif made:
            self._out.write(b"\n".join(made) + b"\n")

    def end(self) -> None:
        """What was there has been read."""
        if self._kept:
            self._out.write(b"\n".join(self._kept) + b"\n")
        self._kept, self._last = [], None
        self._out.flush()

    def flush(self) -> None:
        """Show it now."""
        self._out.flush()

    def silent(self) -> None:
        """Nobody reads any more: let no one complain at the end."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_words(event: dict[str, Any]) -> bytes:
    moment = str(event.get("time", ""))
    moment = moment[:10] + " " + moment[11:23]
    return printable(f"{moment} {describe(event)}").encode("utf-8", "replace")


def _show(path: Path, wanted: Wanted, shown: _Shown, *, follow: bool, from_now: bool) -> None:
    with contextlib.closing(LogReader(path, youngest(path) if from_now else _begin(path, wanted))) as reader:
        _read(reader, wanted, shown, follow=follow)


def _read(reader: LogReader, wanted: Wanted, shown: _Shown, *, follow: bool) -> None:
    while True:
        while block := reader.block(READ_OCTETS):
            shown.block(block)
            if follow:
                shown.flush()
            elif wanted.ends_before(reader.position.begins):
                break
        shown.end()
        if not follow:
            return
        time.sleep(FOLLOW_S)


def _begin(path: Path, wanted: Wanted) -> Position:
    """Where the first file begins in which there can be something."""
    begin = oldest()
    if wanted.since:
        for file in list_files(path):
            with contextlib.suppress(FileNotFoundError):
                line = first_line(file)
                if line is None:
                    continue
                if time_of(line) > wanted.since_with_slack:
                    break
                begin = Position(head_of(line), time_of(line), 0)
    return begin
