"""The compiled header walk and header edits against their reference model."""

from hypothesis import given
from hypothesis import strategies as st

from angarium._core.header import HeaderSection, HeaderWalk, without_fields
from tests.reference import header as reference

KNOWN = [
    b"Received",
    b"FROM",
    b"from",
    b"To",
    b"Cc",
    b"bcc",
    b"Resent-Bcc",
    b"Date",
    b"Sender",
    b"Subject",
    b"Message-Id",
    b"TLS-Required",
    b"X-Angarium-Durability",
    b"x-angarium-DURABILITY",
]
known = st.sampled_from(KNOWN)
names = st.one_of(known, st.sampled_from([b"X", b"Fron", b"", b"A B", b"\xff", b"a:b"]))
texts = st.lists(
    st.sampled_from(
        [b"a", b"No", b" ", b"\t", b":", b"\r", b"\n", b"\r\n", b"\r\n ", b"\r\n\t", b"\n ", b"\0", b"\xff", b"<1@x>"]
    ),
    max_size=8,
).map(b"".join)
folded = st.lists(st.sampled_from([b"a", b"No", b" ", b"\r\n ", b"\n\t", b"\r", b"\xff", b"<1@x>"]), max_size=4).map(
    b"".join
)
line_ends = st.sampled_from([b"\r\n", b"\n", b"\r", b"", b"\r\n\r\n"])
well_formed = st.tuples(known, st.sampled_from([b":", b": ", b" :"]), folded, st.just(b"\r\n")).map(b"".join)
anything = st.tuples(names, st.sampled_from([b":", b": ", b"\t: ", b""]), texts, line_ends).map(b"".join)
mail = st.builds(
    lambda fields, rest: b"".join(fields) + rest,
    st.lists(well_formed, max_size=6),
    st.one_of(
        st.sampled_from([b"", b"\r\n", b"To: x", b"\r\nTo: x\r\n"]), st.lists(anything, max_size=4).map(b"".join)
    ),
)
edits = st.lists(
    st.tuples(st.sampled_from(["prepend", "append", "replace", "remove"]), names, texts, st.integers(0, 2)), max_size=6
)


@given(st.one_of(mail, texts))
def test_the_walk_agrees_with_the_model(data: bytes) -> None:
    expected = reference.facts(data)
    walk = HeaderWalk(data)
    assert {name: getattr(walk, name) for name in expected} == expected


@given(st.one_of(mail, texts), st.one_of(names, st.just(b"X-Angarium-Durability")))
def test_fields_are_cut_out_as_the_model_says(data: bytes, name: bytes) -> None:
    assert without_fields(data, name) == reference.without(data, name)


def edit(
    section: HeaderSection | reference.HeaderSectionModel, kind: str, name: bytes, value: bytes, index: int
) -> object:
    try:
        match kind:
            case "remove":
                return section.remove(name)
            case "replace":
                return section.replace(name, value, index)
            case _:
                return getattr(section, kind)(name, value)
    except ValueError:
        return ValueError


@given(mail, edits)
def test_edits_agree_with_the_model(data: bytes, changes: list[tuple[str, bytes, bytes, int]]) -> None:
    compiled, model = HeaderSection(data), reference.HeaderSectionModel(data)
    for change in [None, *changes]:
        if change is not None:
            assert edit(compiled, *change) == edit(model, *change)
        assert compiled.fields() == model.fields()
        assert compiled.render() == model.render()
        for attribute in ("length", "body", "malformed", "edited"):
            assert getattr(compiled, attribute) == getattr(model, attribute)
    for name in (b"received", b"From", b"x", b""):
        assert compiled.get(name) == model.get(name)
        assert compiled.get_all(name) == model.get_all(name)
        assert compiled.count(name) == model.count(name)


@given(mail, edits)
def test_what_edits_make_is_read_back_as_those_fields(
    data: bytes, changes: list[tuple[str, bytes, bytes, int]]
) -> None:
    section = HeaderSection(data)
    for change in changes:
        edit(section, *change)
    again = HeaderSection(section.render() + b"\r\nbody")
    if not section.render() or section.render().endswith(b"\n"):
        assert again.fields() == section.fields()
        assert again.length == len(section.render())
        assert not again.malformed
