"""The decisions of angarium.delivery.dane beside those of OpenSSL, which has an implementation of its own.

`openssl s_client` is the judge over chains that are made here, in real handshakes. Where OpenSSL's own table of chains
and records is at hand (test/danetest.in of its source, in .cache/openssl or named by ANGARIUM_DANETEST), it is gone
through too; it is not kept here.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from angarium.delivery.dane import usable, verify
from angarium.delivery.mail_host import Tlsa
from tests.support.certificates import Authority, Issued, self_signed
from tests.support.clients import PATIENCE_S
from tests.support.peers import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOST = "mx.example.test"


def tlsa(usage: int, selector: int, matching_type: int, of: Issued) -> Tlsa:
    return Tlsa(usage, selector, matching_type, of.tlsa_data(selector, matching_type))


def cases() -> Iterator[tuple[str, list[Issued], list[Tlsa]]]:
    """Chains as a host sends them, with records."""
    root = Authority("Root CA")
    issuer = root.authority("Issuer CA")
    stranger = Authority("Issuer CA")
    host = issuer.issue(HOST)
    whole = [host, issuer, root]
    for selector in (0, 1):
        for matching_type in (0, 1, 2):
            kind = f"{selector} {matching_type}"
            yield f"the host's own, 3 {kind}", whole, [tlsa(3, selector, matching_type, host)]
            yield f"of the issuer, 2 {kind}", whole, [tlsa(2, selector, matching_type, issuer)]
            yield f"of the root, 2 {kind}", whole, [tlsa(2, selector, matching_type, root)]
            yield f"of the root, as the host's, 3 {kind}", whole, [tlsa(3, selector, matching_type, root)]
            yield f"of the issuer, who is not sent, 2 {kind}", [host], [tlsa(2, selector, matching_type, issuer)]
            yield f"of the root, without the issuer, 2 {kind}", [host, root], [tlsa(2, selector, matching_type, root)]
            yield f"of a namesake, 2 {kind}", whole, [tlsa(2, selector, matching_type, stranger)]
            yield f"of the host, as an anchor, 2 {kind}", whole, [tlsa(2, selector, matching_type, host)]
    old = issuer.issue(HOST, days=(-20, -10))
    yield "expired, 3 1 1", [old, issuer], [tlsa(3, 1, 1, old)]
    yield "expired, 2 0 1", [old, issuer], [tlsa(2, 0, 1, issuer)]
    gone = root.authority("Gone CA", days=(-20, -10))
    yield "an issuer that has expired, 2 0 1", [gone.issue(HOST), gone, root], [tlsa(2, 0, 1, root)]
    early = issuer.issue(HOST, days=(10, 20))
    yield "not yet valid, 2 0 1", [early, issuer], [tlsa(2, 0, 1, issuer)]
    other = issuer.issue("other.test")
    yield "another name, 3 1 1", [other, issuer], [tlsa(3, 1, 1, other)]
    yield "another name, 2 1 1", [other, issuer], [tlsa(2, 1, 1, issuer)]
    wild = issuer.issue("*.example.test")
    yield "a wildcard, 2 1 1", [wild, issuer], [tlsa(2, 1, 1, issuer)]
    common = issuer.issue(common_name=HOST)
    yield "the common name, 2 1 1", [common, issuer], [tlsa(2, 1, 1, issuer)]
    no_authority = root.authority("No CA", ca=False)
    yield "an issuer that is no CA, 2 0 1", [no_authority.issue(HOST), no_authority, root], [tlsa(2, 0, 1, root)]
    yield "an anchor that is no CA, 2 0 1", [no_authority.issue(HOST), no_authority], [tlsa(2, 0, 1, no_authority)]
    no_signer = root.authority("No signer", signs=False)
    yield "an issuer that may not sign, 2 0 1", [no_signer.issue(HOST), no_signer, root], [tlsa(2, 0, 1, root)]
    short = Authority("Short CA", path_length=0)
    longer = short.authority("Longer CA")
    yield "too long a path, 2 0 1", [longer.issue(HOST), longer, short], [tlsa(2, 0, 1, short)]
    alone = self_signed(HOST)
    yield "self-signed, 3 1 1", [alone], [tlsa(3, 1, 1, alone)]
    yield "a key that is replaced", whole, [tlsa(3, 1, 1, other), tlsa(3, 1, 1, host)]
    yield "two digests, the stronger for another", whole, [tlsa(3, 1, 1, host), tlsa(3, 1, 2, other)]
    yield "two usages, one for another", whole, [tlsa(3, 1, 1, other), tlsa(2, 0, 1, root)]


def openssl_accepts(chain: Sequence[Issued], records: Sequence[Tlsa], folder: Path) -> bool:
    """Whether `openssl s_client` takes the chain for these records."""
    context = chain[0].server_context(folder, chain[1:])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE_S)

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(PATIENCE_S)
                try:
                    with context.wrap_socket(connection, server_side=True) as secure:
                        secure.recv(1)
                except OSError:
                    pass  # the judge does not like it

        server = threading.Thread(target=serve)
        server.start()
        command = [require("openssl"), "s_client", "-connect", f"127.0.0.1:{listening.getsockname()[1]}", "-brief"]
        command += ["-dane_tlsa_domain", HOST, "-dane_ee_no_namechecks", "-verify_return_error"]
        for record in records:
            fields = f"{record.usage} {record.selector} {record.matching} {record.data.hex()}"
            command += ["-dane_tlsa_rrdata", fields]
        done = subprocess.run(command, input=b"", capture_output=True, timeout=PATIENCE_S, check=False)
        server.join(PATIENCE_S)
    said = (done.stdout + done.stderr).decode()
    accepted = "Verification: OK" in said
    assert accepted or "verif" in said.lower(), said
    return accepted


@pytest.mark.parametrize(
    ("what", "chain", "records"), list(cases()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_openssl_decides_the_same(what: str, chain: list[Issued], records: list[Tlsa], tmp_path: Path) -> None:
    assert usable(records) == tuple(records)
    verdict = verify([issued.der for issued in chain], records, [HOST], time.time())
    assert (verdict.record is not None) == openssl_accepts(chain, records, tmp_path), (what, verdict)


# ---------------------------------------------------------------------- OpenSSL's own table


def published() -> Iterator[tuple[int, list[Tlsa], list[bytes], bool, int]]:
    """Number, records, chain, whether the name of a DANE-EE certificate is left alone, the error that is expected."""
    for candidate in (os.environ.get("ANGARIUM_DANETEST"), Path(__file__).parents[2] / ".cache/openssl/danetest.in"):
        if candidate and Path(candidate).is_file():
            break
    else:
        pytest.skip("OpenSSL's test/danetest.in is not here (.ci/install-peers, or ANGARIUM_DANETEST)")
    lines = iter(Path(candidate).read_text().splitlines())
    number = 0
    for line in lines:
        if not re.fullmatch(r"\d+ \d+ \d+ \d+ -?\d+", line.strip()):
            continue
        number += 1
        record_count, certificate_count, no_names, error, _ = map(int, line.split())
        records = []
        for _ in range(record_count):
            usage, selector, matching_type, data = next(lines).split(None, 3)
            records.append(Tlsa(int(usage), int(selector), int(matching_type), bytes.fromhex(data)))
        chain = []
        for _ in range(certificate_count):
            while "BEGIN CERTIFICATE" not in next(lines):
                pass
            octets = ""
            while "END CERTIFICATE" not in (octet_line := next(lines)):
                octets += octet_line
            chain.append(base64.b64decode(octets))
        yield number, records, chain, bool(no_names), error


def test_openssls_own_table() -> None:
    decided = 0
    for number, records, chain, no_names, error in published():
        verdict = verify(chain, records, ["example.com"], time.time())
        if not usable(records):
            assert verdict.record is None, number  # PKIX-TA, PKIX-EE: not in mail (RFC 7672 §3.1.3)
            continue
        decided += 1
        # mail does not look at the name of a DANE-EE certificate (RFC 7672 §3.1.1)
        good = error == 0 or (error == 62 and records[0].usage == 3 and not no_names)
        assert (verdict.record is not None) == good, (number, verdict)
        if error == 62 and not good:
            assert verdict.result == "certificate-host-mismatch", number
    assert decided >= 30
