"""What a reload changes, and what waits for a restart.

Input: the configuration in force and the one that the file holds now. Output: the one that comes into force, which is
the file's but for the keys that only a start can change; those keys, by name; and all keys that differ.

It never fails: a file that cannot be used does not come so far.

RESTART_KEYS is the whole list; docs/operations.md has it, and what becomes of every other key, in a table that a test
compares with the model.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
from msgspec import Struct

from angarium.config.model import Config, Section, toml_key
from angarium.config.resolve import needs_access, needs_events, worker_count

__all__ = ["RESTART_KEYS", "Change", "changed_keys", "part_of", "settle"]

# key -> why a running node cannot change it
RESTART_KEYS = {
    "node.spool": "the queue is there",
    "node.workers": "the shards of the queue are shared out among the workers when they start",
    "node.user": "privileges are given up once",
    "node.group": "privileges are given up once",
    "queue.shards": "a spool keeps its number of shards",
    "queue.segment_size": "the files in use have the size that they were made with",
    "sendmail": "its folders are made before privileges are given up",
    "sandbox": "a sandbox is one from its start",
}

# arrays whose tables have names of their own
_BY_NAME = ("listener", "tenant", "provider", "source", "source_pool", "stream")


class Change(Struct, frozen=True):
    """What comes of a new file. `waiting` and `changed` name keys: `limits.recipients`, `listener.relay.role`."""

    config: Config
    changed: tuple[str, ...]
    waiting: tuple[str, ...]


def settle(running: Config, wanted: Config) -> Change:
    """The configuration that comes into force when `wanted` follows `running`."""
    waiting = []
    tables: dict[str, dict[str, Any]] = {}
    for key in RESTART_KEYS:
        *tables_above, attribute = _attributes(key)
        old, new = (_value(config, key) for config in (running, wanted))
        if old == new:
            continue
        if key != "node.workers" or worker_count(running) != worker_count(wanted):
            waiting.append(key)
        tables.setdefault(tables_above[0] if tables_above else "", {})[attribute] = old
    config = wanted
    for table, values in tables.items():
        if table:
            values = {table: msgspec.structs.replace(getattr(wanted, table), **values)}  # noqa: PLW2901
        config = msgspec.structs.replace(config, **values)
    return Change(config, changed_keys(running, config), tuple(waiting))


def changed_keys(old: Config, new: Config) -> tuple[str, ...]:
    """Every key that differs, in the order of the model; an array of tables without names counts as one key."""
    found: list[str] = []
    for name in Config.__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        if name in _BY_NAME and before != after:
            _compare_named(name, before, after, found)
        else:
            _compare(toml_key(name), before, after, found)
    return tuple(found)


def _compare(path: str, old: object, new: object, found: list[str]) -> None:
    """Put the keys below path that differ into found."""
    if isinstance(old, Section) and type(old) is type(new):
        for name in old.__struct_fields__:
            _compare(f"{path}.{toml_key(name)}", getattr(old, name), getattr(new, name), found)
    elif old != new:
        found.append(path)


def _compare_named(array: str, old: tuple[Any, ...], new: tuple[Any, ...], found: list[str]) -> None:
    before = {table.name: table for table in old}
    after = {table.name: table for table in new}
    changed = False
    for name in {**before, **after}:
        if name not in before or name not in after:
            found.append(f"{array}.{name}")
            changed = True
        elif before[name] != after[name]:
            _compare(f"{array}.{name}", before[name], after[name], found)
            changed = True
    if not changed:
        found.append(array)  # in another order


def _attributes(key: str) -> list[str]:
    """The attributes that lead to a key of RESTART_KEYS."""
    table, _, name = key.rpartition(".")
    above = Config.__struct_fields__ if not table else _type_of(table).__struct_fields__
    attribute = next(field for field in above if toml_key(field) == name)
    return [table, attribute] if table else [attribute]


def _type_of(table: str) -> type[Struct]:
    """The Struct of a table of the configuration."""
    found = next(field.type for field in msgspec.structs.fields(Config) if field.name == table)
    assert isinstance(found, type)
    assert issubclass(found, Struct)
    return found


def _value(config: Config, key: str) -> object:
    value: object = config
    for attribute in _attributes(key):
        value = getattr(value, attribute)
    return value


def part_of(role: str, config: Config) -> object:
    """What the process of a role is made of: it is replaced when this differs. Files count by their state on disk."""
    if role == "admin":
        return (
            config.node.hostname,
            config.admin,
            _stamp(config.admin.token_file),
            needs_access(config),
            needs_events(config),
            config.event_file,
            config.trace.dialogues,
        )
    if role == "events":
        files = [
            file for stream in config.stream for file in (stream.secret_file, stream.ca, stream.certificate, stream.key)
        ]
        return config.node.hostname, config.event_file, config.events, config.stream, [_stamp(file) for file in files]
    if role == "access":
        return config.event_file, config.access, config.credentials
    tables = [route.auth.oauth2 for route in config.route if route.auth is not None and route.auth.oauth2 is not None]
    return (
        config.node.hostname,
        config.dns,
        config.delivery,
        config.mta_sts,
        config.tls_report,
        config.event_file if tables else None,
        [(listener.listen, listener.name, listener.call_ahead, listener.verification) for listener in config.listener],
        tables,
        [_stamp(table.ca) for table in tables],
        _stamp(config.mta_sts.ca_file),
    )


def _stamp(file: str | None) -> tuple[int, int, int] | None:
    if file is None:
        return None
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_ino, found.st_size
