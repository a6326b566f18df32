"""The reader of DNS responses says what dnspython says, and no octets make it do more than refuse."""

from __future__ import annotations

from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from angarium.delivery.dns_response import UNREADABLE, Response, read_response
from angarium.delivery.mail_host import Tlsa

TYPES = ("A", "AAAA", "MX", "TXT", "TLSA", "CNAME")
labels = st.text("abcXYZ019-_", min_size=1, max_size=12)
names = st.lists(labels, min_size=1, max_size=5).map(lambda parts: ".".join(parts) + ".")
ttls = st.integers(0, 0x7FFFFFFF)
DIGEST = (80, 32, 64)  # octets by matching type

rdata = {
    "A": st.ip_addresses(v=4).map(str),
    "AAAA": st.ip_addresses(v=6).map(str),
    "MX": st.builds("{} {}".format, st.integers(0, 65535), st.one_of(names, st.just("."))),
    "TXT": st.lists(st.text("ab =;1", max_size=60), min_size=1, max_size=4).map(
        lambda strings: " ".join(f'"{text}"' for text in strings)
    ),
    "TLSA": st.builds(
        lambda usage, selector, matching, data: f"{usage} {selector} {matching} {data[: DIGEST[matching]].hex()}",
        st.integers(0, 3),
        st.integers(0, 1),
        st.integers(0, 2),
        st.binary(min_size=64, max_size=80),
    ),
    "CNAME": names,
    "NS": names,
    "SOA": st.builds("ns. host. 1 2 3 4 {}".format, st.integers(0, 0x7FFFFFFF)),
}


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    """What a server might say, as text: the octets are made in the test."""
    rdtype = draw(st.sampled_from(TYPES))
    owner = asked = draw(names)
    sets: list[tuple[str, int, str, list[str]]] = []
    for target in draw(st.lists(names, max_size=3 if rdtype != "CNAME" else 0, unique_by=str.lower)):
        if target.lower() != asked.lower():
            sets.append((owner, draw(ttls), "CNAME", [target]))
            owner = target
    if draw(st.booleans()):
        records = draw(st.lists(rdata[rdtype], min_size=1, max_size=1 if rdtype == "CNAME" else 4, unique=True))
        sets.append((owner, draw(ttls), rdtype, records))
    if draw(st.booleans()):  # what nobody asked for
        other = draw(st.sampled_from(("A", "TXT", "NS")))
        sets.append(("unasked.example.", 5, other, [draw(rdata[other])]))
    kinds = draw(st.lists(st.sampled_from(("SOA", "NS")), max_size=2, unique=True))
    return {
        "name": asked,
        "rdtype": rdtype,
        "edns": draw(st.sampled_from((-1, 0))),
        "rcode": draw(st.sampled_from((dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL))),
        "flags": draw(st.sampled_from((0, dns.flags.AD, dns.flags.AA))),
        "answer": draw(st.permutations(sets)),
        "authority": [(".", draw(ttls), kind, [draw(rdata[kind])]) for kind in kinds],
    }


def octets_of(answer: dict[str, Any]) -> tuple[bytes, str]:
    """The response on the wire, and the type that was asked for."""
    query = dns.message.make_query(answer["name"], answer["rdtype"], use_edns=answer["edns"])
    response = dns.message.make_response(query)
    response.set_rcode(answer["rcode"])
    response.flags |= answer["flags"]
    for section, sets in ((response.answer, answer["answer"]), (response.authority, answer["authority"])):
        section += [dns.rrset.from_text(owner, ttl, "IN", kind, *records) for owner, ttl, kind, records in sets]
    return response.to_wire(), answer["rdtype"]


def reference(wire: bytes, rdtype: str) -> dict[str, Any]:
    """dnspython's reading."""
    message = dns.message.from_wire(wire)
    assert isinstance(message, dns.message.QueryMessage)
    chain = message.resolve_chaining()
    authority = {rrset.rdtype for rrset in message.authority}
    found: list[Any] | None = None
    if chain.answer is not None:
        found = []
        for record in chain.answer:
            match rdtype:
                case "MX":
                    name = record.exchange.to_text(omit_final_dot=True).lower()
                    found.append((record.preference, name))
                case "CNAME":
                    found.append((0, record.target.to_text(omit_final_dot=True).lower()))
                case "TLSA":
                    found.append(Tlsa(record.usage, record.selector, record.mtype, record.cert))
                case "TXT":
                    found.append(b"".join(record.strings))
                case _:
                    found.append((0, record.address))
    soa = dns.rdatatype.SOA in authority
    return {
        "rcode": message.rcode(),
        "authoritative": bool(message.flags & dns.flags.AA),
        "secure": bool(message.flags & dns.flags.AD),
        "canonical": chain.canonical_name.to_text(omit_final_dot=True).lower(),
        "records": found,
        "ttl_s": chain.minimum_ttl if found is not None or soa else None,
        "has_soa": soa and found is None,
        "has_ns": dns.rdatatype.NS in authority and found is None,
    }


def as_dict(response: Response) -> dict[str, Any]:
    return {name: getattr(response, name) for name in Response.__slots__}


@given(answers())
def test_it_says_what_dnspython_says(answer: dict[str, Any]) -> None:
    wire, rdtype = octets_of(answer)
    try:
        expected = reference(wire, rdtype)
    except dns.exception.DNSException:  # aliases in a circle
        with pytest.raises(ValueError):
            read_response(wire, rdtype)  # type: ignore[arg-type]
        return
    said = as_dict(read_response(wire, rdtype))  # type: ignore[arg-type]
    if said["records"] is not None:
        # equal records count once
        assert sorted(set(said.pop("records"))) == sorted(set(expected.pop("records")))
    assert said == expected


@given(answers(), st.data())
def test_no_octets_do_more_than_be_refused(answer: dict[str, Any], data: st.DataObject) -> None:
    wire, rdtype = octets_of(answer)
    changed = bytearray(wire)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(changed[: data.draw(st.integers(12, len(changed)))])
    try:
        response = read_response(cut, rdtype)  # type: ignore[arg-type]
    except ValueError:
        return
    assert response.records is None or response.records
    for record in response.records or []:
        if rdtype in ("MX", "CNAME"):
            assert record[1].isascii()
            assert len(record[1]) <= 254


@given(st.binary(min_size=12, max_size=80), st.sampled_from(TYPES))
@example(b"\0\0\x80\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", "A")  # a pointer to itself
def test_nor_do_any_octets_at_all(wire: bytes, rdtype: str) -> None:
    try:
        read_response(wire, rdtype)  # type: ignore[arg-type]
    except ValueError:
        return


@pytest.mark.parametrize(
    ("exchange", "read"),
    [("a\\.b.example.", UNREADABLE), ("a\\000.example.", UNREADABLE), ("MX.Example.", "mx.example")],
)
def test_names_that_no_host_has(exchange: str, read: str) -> None:
    response = dns.message.make_response(dns.message.make_query("example.org", "MX"))
    response.answer.append(dns.rrset.from_text("example.org.", 60, "IN", "MX", f"10 {exchange}"))
    assert read_response(response.to_wire(), "MX").records == [(10, read)]
