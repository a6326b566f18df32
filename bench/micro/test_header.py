"""Header walk and header edits, compiled against the reference model."""

from collections.abc import Callable

import pytest

from angarium._core.header import HeaderSection, HeaderWalk
from tests.reference import header as reference

HEADER = (
    b"Received: from app.example.org (app.example.org [192.0.2.7])\r\n"
    b"\tby mx.example.net with ESMTPS id 4f2a; Tue, 1 Jul 2025 10:00:00 +0000\r\n"
    b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=2025;\r\n"
    b"\th=from:to:subject:date:message-id; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n"
    b"\tb=" + b"A" * 72 + b"\r\n\t " + b"B" * 72 + b"\r\n"
    b"Date: Tue, 1 Jul 2025 09:59:58 +0000\r\n"
    b"From: Ada Example <ada@example.org>\r\n"
    b"To: Bob Example <bob@example.net>\r\n"
    b"Subject: Your order 4711 is on its way\r\n"
    b"Message-ID: <4711.20250701095958@app.example.org>\r\n"
    b"MIME-Version: 1.0\r\n"
    b'Content-Type: multipart/alternative; boundary="=_boundary"\r\n'
    b"List-Unsubscribe: <https://example.org/u/4711>\r\n"
    b"X-Mailer: example 1.0\r\n"
)
MAIL = HEADER + b"\r\n" + b"x" * 76 * 100

WALKS: dict[str, Callable[[bytes], object]] = {"compiled": HeaderWalk, "reference": reference.facts}
SECTIONS: dict[str, Callable[[bytes], HeaderSection | reference.HeaderSectionModel]] = {
    "compiled": HeaderSection,
    "reference": reference.HeaderSectionModel,
}


@pytest.mark.parametrize("walk", WALKS)
def test_walk(benchmark, walk: str) -> None:
    benchmark.group = "header: walk 1 KiB"
    benchmark(WALKS[walk], MAIL)


@pytest.mark.parametrize("section", SECTIONS)
def test_edit(benchmark, section: str) -> None:
    benchmark.group = "header: prepend, remove, render"
    make = SECTIONS[section]

    def edit() -> bytes:
        edited = make(MAIL)
        edited.prepend(b"Received", b"from a by b; Tue, 1 Jul 2025 10:00:01 +0000")
        edited.remove(b"X-Mailer")
        return edited.render()

    assert benchmark(edit).count(b"\r\n") == HEADER.count(b"\r\n")


@pytest.mark.parametrize("section", SECTIONS)
def test_fields(benchmark, section: str) -> None:
    benchmark.group = "header: fields"
    assert len(benchmark(SECTIONS[section](MAIL).fields)) == 11
