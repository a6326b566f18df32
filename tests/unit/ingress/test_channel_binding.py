"""tls-server-end-point (RFC 5929 §4): the hashes of the certificates that clients may have seen."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from scramp.core import CBindData  # type: ignore[import-untyped]

from angarium.ingress import channel_binding
from angarium.ingress.channel_binding import EndPoints
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ROOT = Authority("Root CA")


def test_the_hash_is_that_of_the_certificate_that_is_shown(tmp_path: Path) -> None:
    host = ROOT.issue("relay.test")
    file = tmp_path / "chain.pem"
    file.write_bytes(host.pem + ROOT.issue("other.test").pem)
    (hashed,) = EndPoints([str(file)]).hashes()
    assert hashed == hashlib.sha256(host.der).digest()
    assert hashed == bytes(CBindData.from_der(host.der))


def test_a_certificate_that_is_replaced_stays_known(tmp_path: Path) -> None:
    file = tmp_path / "chain.pem"
    first, second = ROOT.issue("relay.test"), ROOT.issue("relay.test")
    file.write_bytes(first.pem)
    end_points = EndPoints([str(file)])
    assert len(end_points.hashes()) == 1
    file.write_bytes(second.pem + b"\n")
    assert end_points.hashes() == [hashlib.sha256(one.der).digest() for one in (first, second)]


def test_a_file_that_is_gone_or_no_certificate(tmp_path: Path) -> None:
    file = tmp_path / "chain.pem"
    end_points = EndPoints([str(file)])
    assert end_points.hashes() == []
    for text in ("nonsense", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"):
        file.write_text(text)
        assert end_points.hashes() == []
    file.write_bytes(ROOT.issue("relay.test").pem)
    assert len(end_points.hashes()) == 1
    file.unlink()
    assert len(end_points.hashes()) == 1


def test_a_signature_without_a_hash_has_none(tmp_path: Path) -> None:
    authority = Authority("Ed CA", kind="ed25519")
    file = tmp_path / "chain.pem"
    file.write_bytes(authority.issue("relay.test").pem)
    assert EndPoints([str(file)]).hashes() == []


def test_so_many_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_binding, "MOST_KNOWN", 2)
    files = []
    for number in range(3):
        file = tmp_path / f"{number}.pem"
        file.write_bytes(ROOT.issue(f"{number}.test").pem)
        files.append(str(file))
    assert len(EndPoints(files).hashes()) == 2
