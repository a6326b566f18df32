"""[mta_sts] and [tls_report]: what is wrong is said with file, line and key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme

from angarium.config.load import examine_text

if TYPE_CHECKING:
    from pathlib import Path

BASE = """
[node]
hostname = "relay.example"
spool = "spool"
[[listener]]
name = "relay"
listen = "127.0.0.1:2525"
role = "relay"
relay_networks = ["10.0.0.0/8"]
"""


def problems_of(text: str, folder: Path) -> list[str]:
    return [str(problem) for problem in examine_text(BASE + text, folder=folder).problems]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[mta_sts]\nca_file = "missing.pem"', "mta_sts.ca_file: {folder}/missing.pem cannot be read: No such file"),
        ('[mta_sts]\nca_file = "empty.pem"', "mta_sts.ca_file: {folder}/empty.pem has no certificates in PEM format"),
        ("[mta_sts]\nport = 0", "mta_sts.port: must be at least 1, is 0"),
        ("[mta_sts]\nenable = true", 'mta_sts.enable: unknown key in [mta_sts] (did you mean "enabled"?)'),
        ('[tls_report]\ncontact = "nobody"', 'tls_report.contact: "nobody" is not a mail address'),
        ('[tls_report]\ncontact = "a b@c.example"', "tls_report.contact"),
        ('[tls_report]\norganization = "a\\u0007b"', "tls_report.organization: has control characters in it"),
        ('[tls_report]\ndelay = "1d"', "tls_report.delay: must be at most 23h, is 1d"),
        ('[tls_report]\nkeep = "1d"', "tls_report.keep: must be at least 2d, is 1d"),
    ],
)
def test_what_is_wrong(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    (problem,) = problems_of(text, tmp_path)
    assert said.format(folder=tmp_path) in problem


def test_what_is_right(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    text = '[mta_sts]\nca_file = "ca.pem"\nport = 8443\n[tls_report]\ncontact = "tls+x@relay.example"\nkeep = "30d"\n'
    examined = examine_text(BASE + text, folder=tmp_path)
    assert examined.problems == ()
    assert examined.config is not None
    assert examined.config.tls_report.contact_of(examined.config.node) == "tls+x@relay.example"
    plain = examine_text(BASE, folder=tmp_path).config
    assert plain is not None
    assert plain.tls_report.contact_of(plain.node) == "postmaster@relay.example"
