"""HTTPS for what a node asks of others: policy files of MTA-STS (RFC 8461 §3.3) and reports (RFC 8460 §5.4).

Job: `fetch_policy` gets a domain's file, `post` hands octets to a URL. Input: a function that resolves a host, so that
names come from the relay's own resolver, and one that says which addresses may be contacted. Output: the octets; the
status.

Certificates are verified, by the system's authorities or those of `ca_file`, against the names in the certificate's
subjectAltName alone (RFC 8461 §3.3). Redirects are not followed, nothing is cached, no cookie is kept, no proxy of the
environment is used. A policy file must come with status 200 as text/plain, and not compressed.

Fails: FetchFailure with the kind that a TLS report gives it; PostFailure. Bounds: `timeout_s` for a request as a whole,
LARGEST_POLICY octets of a file. How many requests there are at one time is the callers' business.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from angarium import __version__
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.mta_sts import LARGEST_POLICY
from angarium.delivery.policy_store import FetchFailure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from angarium.smtp.tls_result import TlsResult

__all__ = ["HttpsClient", "PostFailure"]

HTTPS_PORT = 443
WELL_KNOWN = "/.well-known/mta-sts.txt"


class PostFailure(Exception):
    """A report was not taken."""


class HttpsClient:
    """The client of one process."""

    def __init__(
        self,
        addresses: Callable[[str], Awaitable[Sequence[str]]],
        *,
        permitted: Callable[[str], bool] = lambda address: True,
        ca_file: str | None = None,
        port: int = HTTPS_PORT,
        timeout_s: float = 60.0,
    ) -> None:
        """`addresses` resolves a host name, or raises ResolutionFailure; `port` is that of policy files."""
        self._port = port
        self._permitted = permitted
        self._resolver = _Resolver(addresses, permitted)
        self._timeout_s = timeout_s
        self._context = ssl.create_default_context(cafile=ca_file)
        self._context.hostname_checks_common_name = False

    def _session(self) -> aiohttp.ClientSession:
        """A session for one request: its end ends the connection, whatever is left to be read."""
        connector = aiohttp.TCPConnector(
            resolver=self._resolver,
            ssl=self._context,
            use_dns_cache=False,  # the resolver has a cache, and one that honours TTLs
            # where a TLS connection that its server does not end would stay open behind the session's back
            enable_cleanup_closed=sys.version_info < (3, 12, 7),
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": f"Angarium/{__version__}"},
        )

    async def fetch_policy(self, domain: str) -> bytes:
        """The policy file of a domain: what parse_policy takes. FetchFailure when there is none to be had."""
        host = f"mta-sts.{domain}" if self._port == HTTPS_PORT else f"mta-sts.{domain}:{self._port}"
        url = f"https://{host}{WELL_KNOWN}"
        headers = {"Accept": "text/plain", "Accept-Encoding": "identity"}
        try:
            async with self._session() as session:
                response = await session.get(url, headers=headers, allow_redirects=False)
                if response.status != 200:
                    raise FetchFailure("sts-policy-fetch-error", f"{url}: HTTP status {response.status}")
                if response.content_type != "text/plain":
                    raise FetchFailure("sts-policy-invalid", f"{url}: {response.content_type!a} is not text/plain")
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise FetchFailure("sts-policy-invalid", f"{url}: the file is compressed")
                octets = bytearray()
                async for part in response.content.iter_any():
                    octets += part
                    if len(octets) > LARGEST_POLICY:
                        raise FetchFailure("sts-policy-invalid", f"{url}: more than {LARGEST_POLICY} octets")
                return bytes(octets)
        except TimeoutError:
            raise FetchFailure("sts-policy-fetch-error", f"{url}: no answer in time") from None
        except (aiohttp.ClientError, ValueError) as failure:
            raise FetchFailure(_kind_of(failure), f"{url}: {_words_of(failure)}") from failure

    async def post(self, url: str, body: bytes, content_type: str) -> int:
        """Hand `body` to a URL; the status, one of 2xx. PostFailure for everything else."""
        try:
            host = urlsplit(url).hostname or ""
            if _is_address(host) and not self._permitted(host):
                raise PostFailure(f"{host} is never contacted")
            headers = {"Content-Type": content_type}
            async with self._session() as session:
                response = await session.post(url, data=body, headers=headers, allow_redirects=False)
                if not 200 <= response.status < 300:
                    raise PostFailure(f"HTTP status {response.status}")
                return response.status
        except TimeoutError:
            raise PostFailure("no answer in time") from None
        except (aiohttp.ClientError, ValueError) as failure:
            raise PostFailure(_words_of(failure)) from failure


class _Resolver(AbstractResolver):
    """aiohttp's way to the relay's own resolver."""

    def __init__(self, addresses: Callable[[str], Awaitable[Sequence[str]]], permitted: Callable[[str], bool]) -> None:
        self._addresses = addresses
        self._permitted = permitted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            found = await self._addresses(host)
        except ResolutionFailure as failure:
            raise OSError(failure.text) from failure
        usable = [address for address in found if self._permitted(address)]
        if not usable:
            raise OSError(f"the addresses of {host} are never contacted" if found else f"{host} has no address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in usable
        ]

    async def close(self) -> None:
        """Nothing is kept open here."""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _kind_of(failure: BaseException) -> TlsResult:
    certificate = (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError)
    return "sts-webpki-invalid" if isinstance(failure, certificate) else "sts-policy-fetch-error"


def _words_of(failure: BaseException) -> str:
    """What happened, in the words of the cause: aiohttp's own repeat host and port."""
    cause: BaseException = failure
    if isinstance(failure, aiohttp.ClientConnectorError):
        cause = failure.os_error
    elif isinstance(failure, aiohttp.ClientConnectorCertificateError):
        cause = failure.certificate_error
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno:
        return os.strerror(cause.errno).lower()  # asyncio's text does not say what happened
    words = getattr(cause, "verify_message", "") or getattr(cause, "strerror", "") or str(cause)
    return words or type(failure).__name__
