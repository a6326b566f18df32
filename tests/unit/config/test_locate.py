"""Positions of keys in TOML documents."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.config.locate import KeyPath, locate

if TYPE_CHECKING:
    from collections.abc import Iterator


def paths(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every path of what tomllib read."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths(inner, (*path, index))


def located(text: str) -> dict[KeyPath, tuple[int, int]]:
    """The positions; every path of the document must have one, and no other."""
    found = locate(text)
    assert set(found) == set(paths(tomllib.loads(text)))
    return found


def test_tables_and_keys() -> None:
    found = located('top = 1 # x = 2\n\n[node]\nhostname = "a"\n  spool= "b"\n[ admin ] # [x]\nlisten ="c"')
    assert found == {
        ("top",): (1, 1),
        ("node",): (3, 1),
        ("node", "hostname"): (4, 1),
        ("node", "spool"): (5, 3),
        ("admin",): (6, 1),
        ("admin", "listen"): (7, 1),
    }


def test_arrays_of_tables_and_their_subtables() -> None:
    found = located(
        "[[l]]\na = 1\n[l.limits]\nx = 1\n[[l]]\na = 2\n[[l.inner]]\nb = 1\n[[l.inner]]\nb = 2\n[l.limits]\nx = 2\n"
    )
    assert found[("l",)] == (1, 1)
    assert found[("l", 0, "limits", "x")] == (4, 1)
    assert found[("l", 1)] == (5, 1)
    assert found[("l", 1, "inner", 1, "b")] == (10, 1)
    assert found[("l", 1, "limits", "x")] == (12, 1)


def test_dotted_and_quoted_keys() -> None:
    found = located('a.b . "c.d" = 1\na."\\u0065" = 2\n[x."y z".\'w\']\nk = 1\n"" = 3')
    assert found[("a", "b", "c.d")] == (1, 7)
    assert found[("a", "e")] == (2, 3)
    assert found[("x", "y z", "w", "k")] == (4, 1)
    assert found[("x", "y z", "w", "")] == (5, 1)


def test_arrays_over_lines_with_comments() -> None:
    found = located('a = [ # ] not the end\n  "x",   # one, two\n  ["y", 3],\n  { k = 1, l = "}" },\n]\nb = 1')
    assert found[("a", 0)] == (2, 3)
    assert found[("a", 1, 1)] == (3, 9)
    assert found[("a", 2, "l")] == (4, 12)
    assert found[("b",)] == (6, 1)


def test_inline_tables() -> None:
    found = located('retry = { first = "1m", a.b = [1, {c = 2}], e = {} }\nnext = 2')
    assert found[("retry", "first")] == (1, 11)
    assert found[("retry", "a", "b", 1, "c")] == (1, 36)
    assert found[("next",)] == (2, 1)


@pytest.mark.parametrize(
    "value",
    [
        '"a \\" = [x] # \\\\"',
        "'a \\'",
        '"""\n[table]\nkey = 1\n\\""" # "" """',
        '"""ends with quotes"""""',
        "'''\n[[l]]\nx = '' # \n'''''",
        '"""a \\\n   b"""',
        '""',
        "''",
        '""""""',
        "1979-05-27 07:32:00",
        "1979-05-27T07:32:00Z",
        "-1_000.5e+3",
        "[]",
        "[ [ ], [ ] , ]",
        "{}",
        "true",
    ],
)
def test_what_a_value_holds_is_no_key(value: str) -> None:
    text = f"first = {value} # comment\nsecond = 2\n[after]\nx = [{value}, {value}]"
    found = located(text)
    lines = text.count("\n", 0, text.index("\nsecond")) + 2
    assert found[("second",)] == (lines, 1)
    assert found[("after",)] == (lines + 1, 1)


def test_columns_count_characters() -> None:
    assert located('"é€" = { k = "ü", l = 1 }')[("é€", "l")] == (1, 19)


def test_an_empty_document() -> None:
    assert located("") == {}
    assert located("# only a comment") == {}


KEYS = st.sampled_from(["a", "b-c", '"q.k"', "'l # k'", '"e\\"s"'])
SCALARS = st.sampled_from(["1", '"#]}"', "'''\n[x]\n'''", '"""\n= \\""" """', "true", "1979-05-27 07:32:00", "1.5"])


def values(depth: int) -> st.SearchStrategy[str]:
    if depth == 0:
        return SCALARS
    inner = values(depth - 1)
    arrays = st.lists(inner, max_size=3).map(lambda parts: "[\n " + " , # ]\n ".join(parts) + " # [\n]")
    tables = st.dictionaries(KEYS, inner, max_size=3).map(
        lambda pairs: "{ " + ", ".join(f"{k} = {v}" for k, v in pairs.items()) + " }"
    )
    return st.one_of(SCALARS, arrays, tables)


@given(
    st.lists(st.tuples(st.sampled_from(["[[t]]", "[[t.u]]"]), st.dictionaries(KEYS, values(2), max_size=3)), max_size=4)
)
def test_every_path_is_found_where_its_key_is_written(tables: list[tuple[str, dict[str, str]]]) -> None:
    text = ""
    for header, pairs in [("[[t]]", {}), *tables]:
        text += f"{header} # x\n" + "".join(f"  {key} = {value}\n" for key, value in pairs.items())
    lines = text.split("\n")
    for path, (line, column) in located(text).items():
        rest = lines[line - 1][column - 1 :]
        if isinstance(path[-1], str) and not rest.startswith("[["):
            key = rest.partition(" =")[0]
            assert tomllib.loads(f"{key} = 1") == {path[-1]: 1}
