"""docs/configuration.md names every key of the model, with its true default, and no other."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import pytest
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields

from angarium.config.load import examine_text
from angarium.config.model import Config, Limits, Retry, Section, Timeouts
from tests.support.certificates import self_signed

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `([a-z0-9_.]+)` \| (.*?) \| (.*?) \| (.+) \|$", re.M)
BASE = {
    "node": ['hostname = "a.example"', 'spool = "/spool"'],
    "listener": ['name = "x"', 'listen = "127.0.0.1:99"', 'role = "relay"', 'relay_networks = ["10.0.0.0/8"]'],
    "tenant": ['name = "shop"', 'networks = ["10.0.0.0/8"]'],
    "route": ['recipients = ["*"]', 'next_hop = "smtp://127.0.0.1:9"'],
    "tls_policy": ['domains = ["*"]'],
    "provider": ['name = "big"', 'domains = ["a.example"]', 'mail_hosts = ["b.example"]'],
    "source": ['name = "s"', 'ipv4 = "127.0.0.1"'],
    "source_pool": ['name = "p"', 'members = ["s"]'],
    "credentials": ['kind = "dovecot"', 'socket = "/run/dovecot/auth"'],
}
ARRAYS = (
    "listener",
    "certificate",
    "tenant",
    "route",
    "tls_policy",
    "provider",
    "credentials",
    "permission",
    "source",
    "source_pool",
    "stream",
)

# keys of certificates are checked with a certificate that is there
FOLDER = tempfile.TemporaryDirectory(prefix="angarium-test-")
PAIR = [
    f'{key} = "{file}"'
    for key, file in zip(
        ("certificate", "key"), self_signed("relay.example").write(Path(FOLDER.name), "own"), strict=True
    )
]

# what a key further down needs beside it
BESIDE = {
    "route.auth.oauth2.": [
        'next_hop = "smtps://127.0.0.1"',
        'auth.user = "u"',
        'auth.oauth2.token_url = "http://127.0.0.1/"',
        'auth.oauth2.client_id = "c"',
        'auth.oauth2.client_secret = "s"',
    ],
    "route.auth.": ['next_hop = "smtps://127.0.0.1"', 'auth.user = "u"', 'auth.password = "p"'],
}


def keys(kind: type[Section], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every key that has a value of its own; limits of a listener are those of [limits], and so on."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        here = (*path, field.encode_name)
        inner = [
            t
            for t in (hints[field.name], *get_args(hints[field.name]))
            if isinstance(t, type) and issubclass(t, Section)
        ]
        if inner and (*path, inner[0]) not in (("listener", Limits), ("route", Retry), ("route", Timeouts)):
            yield from keys(inner[0], here)
        else:
            yield here, field


KEYS = {".".join(path): field for path, field in keys(Config)}
ROWS = {key: default for key, _, default, _ in ROW.findall(DOCUMENT.read_text())}


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    assert len(KEYS) > 60
    assert set(ROWS) == set(KEYS)


def document(key: str, written: str) -> str:
    """A configuration with this key written so."""
    table, _, rest = key.partition(".")
    text = ""
    tables = {name: list(lines) for name, lines in BASE.items() if name != "source_pool" or table == name}
    if table in ("tls", "certificate"):
        tables |= {"tls": list(PAIR), table: list(PAIR)}
    if table == "stream":
        tables |= {"events": ['file = "/log/e"'], "stream": ['name = "crm"', 'url = "https://crm.example.org/mail"']}
    beside = next((lines for start, lines in BESIDE.items() if key.startswith(start)), [])
    if rest:
        if beside:
            tables[table] = [line for line in tables[table] if not line.startswith("next_hop ")] + beside
        lines = tables.setdefault(table, [])
        lines[:] = [line for line in lines if not line.startswith(f"{rest} ")] + [f"{rest} = {written}"]
    else:
        text = f"{key} = {written}\n"
    for name, lines in tables.items():
        header = f"[[{name}]]" if name in ARRAYS else f"[{name}]"
        text += "\n".join([header, *lines]) + "\n"
    return text


def value_of(key: str, written: str) -> Any:
    """What the configuration says of a key that is written so."""
    text = document(key, written)
    config = examine_text(text).config
    assert config is not None, text
    value: Any = config
    for part in key.split("."):
        value = value[0] if isinstance(value, tuple) else value
        attribute = next(field.name for field in fields(value) if field.encode_name == part)
        value = getattr(value, attribute)
    return value


@pytest.mark.parametrize("key", sorted(KEYS))
def test_the_documented_default_is_the_default(key: str) -> None:
    field, written = KEYS[key], ROWS[key]
    if field.required:
        assert written == "required"
    elif field.default is None:
        assert written == "none"
    else:
        assert field.default is not NODEFAULT
        assert value_of(key, written.strip("`")) == field.default


def test_durations_and_sizes_are_documented_as_such() -> None:
    kinds = {key: kind for key, kind, _, _ in ROW.findall(DOCUMENT.read_text())}
    for key, field in KEYS.items():
        assert ("duration" in kinds[key]) == field.name.endswith("_s"), key
        assert (kinds[key] == "size") == field.name.endswith("_octets"), key


@pytest.mark.parametrize("key", sorted(KEYS))
def test_no_value_is_more_than_a_problem(key: str) -> None:
    """Whatever stands behind a key, it is taken or reported at its line; nothing else is."""
    for written in (
        '""',
        '"x"',
        '"\\u0000"',
        "-1",
        "0.0",
        "nan",
        "9" * 400,
        "true",
        "[]",
        "[[]]",
        "[{}]",
        "{}",
        "{a = 1}",
        "07:32:00",
    ):
        text = document(key, written)
        examination = examine_text(text)
        errors = [problem for problem in examination.problems if problem.severity == "error"]
        assert (examination.config is None) == bool(errors)
        changed = f"{key.partition('.')[2] or key} = {written}"
        line = text.splitlines().index(changed) + 1
        # [tls] with one key alone lacks the other, too
        assert {problem.line for problem in errors if problem.message != "is required and not there"} <= {line}
