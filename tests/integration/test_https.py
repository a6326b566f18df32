"""Policy files and reports over real HTTPS: what is fetched, and what is refused (RFC 8461 §3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme

from angarium.delivery.https import HttpsClient, PostFailure
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.policy_store import FetchFailure
from tests.support.https import Answer, HttpsServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "mta-sts.example.test"
POLICY = "version: STSv1\nmode: enforce\nmx: mx.example.test\nmax_age: 86400\n"
AUTHORITY = trustme.CA()


@pytest.fixture
def server() -> Iterator[HttpsServer]:
    with HttpsServer(AUTHORITY, HOST, "reports.example.test", "127.0.0.1") as server:
        server.publish(HOST, POLICY)
        yield server


class Names:
    """The resolver of the test: every host is at 127.0.0.1, until it says otherwise."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.addresses: list[str] = ["127.0.0.1"]
        self.down = False

    async def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        if self.down:
            raise ResolutionFailure(False, 451, (4, 4, 3), f"no name server had an answer for {host}")
        return self.addresses


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def forbidden() -> set[str]:
    return set()


@pytest.fixture
def client(server: HttpsServer, names: Names, forbidden: set[str], tmp_path: Path) -> HttpsClient:
    authorities = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(authorities)
    return HttpsClient(
        names,
        permitted=lambda address: address not in forbidden,
        ca_file=str(authorities),
        port=server.port,
        timeout_s=30.0,
    )


async def failure_of(client: HttpsClient, domain: str = "example.test") -> FetchFailure:
    with pytest.raises(FetchFailure) as caught:
        await client.fetch_policy(domain)
    return caught.value


async def test_a_policy_file_is_fetched(client: HttpsClient, server: HttpsServer, names: Names) -> None:
    assert await client.fetch_policy("example.test") == POLICY.encode()
    assert server.gets == [(HOST, "/.well-known/mta-sts.txt")]
    assert names.asked == [HOST]
    assert server.handshakes == [HOST]


async def test_the_charset_of_text_plain_does_not_matter(client: HttpsClient, server: HttpsServer) -> None:
    server.publish(HOST, Answer(POLICY.encode(), headers={"Content-Type": 'Text/Plain; charset="utf-8"; x=y'}))
    assert await client.fetch_policy("example.test") == POLICY.encode()


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer(status=404), "sts-policy-fetch-error", "HTTP status 404"),
        (Answer(status=500), "sts-policy-fetch-error", "HTTP status 500"),
        (Answer(POLICY.encode(), status=203), "sts-policy-fetch-error", "HTTP status 203"),
        (Answer(POLICY.encode(), headers={"Content-Type": "text/html"}), "sts-policy-invalid", "'text/html'"),
        (
            Answer(POLICY.encode(), headers={"Content-Type": "text/plain", "Content-Encoding": "gzip"}),
            "sts-policy-invalid",
            "compressed",
        ),
        (Answer(b"a" * 65537), "sts-policy-invalid", "more than 65536 octets"),
    ],
)
async def test_what_is_not_taken(
    client: HttpsClient, server: HttpsServer, answer: Answer, kind: str, words: str
) -> None:
    server.publish(HOST, answer)
    failure = await failure_of(client)
    assert failure.kind == kind
    assert words in str(failure)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(client: HttpsClient, server: HttpsServer, status: int) -> None:
    server.publish(HOST, POLICY, path="/there")
    server.publish(HOST, Answer(status=status, headers={"Location": f"https://{HOST}:{server.port}/there"}))
    failure = await failure_of(client)
    assert failure.kind == "sts-policy-fetch-error"
    assert f"HTTP status {status}" in str(failure)
    assert server.gets == [(HOST, "/.well-known/mta-sts.txt")]


@pytest.mark.parametrize(
    ("names_of_certificate", "authority", "expired", "words"),
    [
        ((HOST,), AUTHORITY, True, "expired"),
        (("example.test", "*.mta-sts.example.test"), AUTHORITY, False, "mismatch"),
        ((HOST,), trustme.CA(), False, "certificate"),
    ],
)
async def test_a_certificate_that_is_not_valid(
    client: HttpsClient,
    server: HttpsServer,
    names_of_certificate: tuple[str, ...],
    authority: trustme.CA,
    expired: bool,
    words: str,
) -> None:
    server.certify(authority, *names_of_certificate, expired=expired)
    failure = await failure_of(client)
    assert failure.kind == "sts-webpki-invalid"
    assert words in str(failure).lower()
    assert server.gets == []


async def test_a_wildcard_certificate_is_valid(client: HttpsClient, server: HttpsServer) -> None:
    server.certify(AUTHORITY, "*.example.test")
    assert await client.fetch_policy("example.test") == POLICY.encode()


async def test_a_name_in_the_subject_alone_does_not_count(client: HttpsClient, server: HttpsServer) -> None:
    certificate = AUTHORITY.issue_cert("other.example.test", common_name=HOST)
    certificate.configure_cert(server._context)
    failure = await failure_of(client)
    assert failure.kind == "sts-webpki-invalid"


async def test_a_server_that_is_down(client: HttpsClient, server: HttpsServer) -> None:
    server.stop()
    failure = await failure_of(client)
    assert failure.kind == "sts-policy-fetch-error"
    assert "refused" in str(failure)


async def test_a_server_that_does_not_answer(server: HttpsServer, names: Names, tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(authorities)
    client = HttpsClient(names, ca_file=str(authorities), port=server.port, timeout_s=0.2)
    server.hold()
    failure = await failure_of(client)
    assert failure.kind == "sts-policy-fetch-error"
    assert "no answer in time" in str(failure)


async def test_a_name_that_cannot_be_resolved(client: HttpsClient, names: Names) -> None:
    names.down = True
    failure = await failure_of(client)
    assert failure.kind == "sts-policy-fetch-error"
    assert "no name server had an answer" in str(failure)
    names.down = False
    names.addresses = []
    assert f"{HOST} has no address" in str(await failure_of(client))


async def test_an_address_that_is_never_contacted(
    client: HttpsClient, server: HttpsServer, names: Names, forbidden: set[str]
) -> None:
    forbidden.add("127.0.0.1")
    failure = await failure_of(client)
    assert "never contacted" in str(failure)
    with pytest.raises(PostFailure, match="never contacted"):
        await client.post(f"https://reports.example.test:{server.port}/", b"x", "text/plain")
    with pytest.raises(PostFailure, match=r"127\.0\.0\.1 is never contacted"):
        await client.post(f"https://127.0.0.1:{server.port}/", b"x", "text/plain")
    assert server.handshakes == []
    names.addresses = ["127.0.0.1", "127.0.0.1"]
    forbidden.clear()
    assert await client.fetch_policy("example.test") == POLICY.encode()


async def test_a_report_is_posted(client: HttpsClient, server: HttpsServer) -> None:
    url = f"https://reports.example.test:{server.port}/v1?a=b"
    assert await client.post(url, b"\x1f\x8b", "application/tlsrpt+gzip") == 201
    (post,) = server.posts
    assert (post.host, post.path, post.content_type, post.body) == (
        "reports.example.test",
        "/v1?a=b",
        "application/tlsrpt+gzip",
        b"\x1f\x8b",
    )


@pytest.mark.parametrize("status", [301, 307, 400, 404, 503])
async def test_a_report_that_is_not_taken(client: HttpsClient, server: HttpsServer, status: int) -> None:
    server.post_status = status
    with pytest.raises(PostFailure, match=f"HTTP status {status}"):
        await client.post(f"https://reports.example.test:{server.port}/", b"x", "text/plain")


async def test_a_report_to_nowhere(client: HttpsClient, server: HttpsServer) -> None:
    server.stop()
    with pytest.raises(PostFailure, match="refused"):
        await client.post(f"https://reports.example.test:{server.port}/", b"x", "text/plain")
    with pytest.raises(PostFailure):
        await client.post("https://[", b"x", "text/plain")
