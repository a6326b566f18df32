"""What the DNS says of a domain that mail is sent from, and that takes mail: each record that others go by.

Input: the domain, DKIM selectors where they are known, the configuration (its own name and certificate are part of what
is compared). Output: findings. Nothing but name servers is asked, and a web server for the MTA-STS policy when the
domain says that it has one.

Fails: not at all; no answer is a finding.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from angarium.cli.doctor.finding import Finding, error, note, ok, warning
from angarium.cli.doctor.names import addresses_of, is_unreachable, public_addresses
from angarium.cli.doctor.spf import check_host, records_of
from angarium.config.address import parse_host
from angarium.delivery.dane import usable, verify
from angarium.delivery.mail_host import Tlsa
from angarium.delivery.mta_sts import PolicyError, parse_policy, record_id
from angarium.mail.address import ascii_domain

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from angarium.cli.doctor.names import NameServers
    from angarium.config.model import Config
    from angarium.delivery.mta_sts import Policy

__all__ = ["examine_domain"]

LEAST_RSA_BITS, USUAL_RSA_BITS = 1024, 2048
POLICY_TIMEOUT_S = 15.0
_TAG = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*=\s*(.*?)\s*", re.S)


def examine_domain(config: Config, names: NameServers, domain: str, selectors: Sequence[str]) -> Iterator[Finding]:
    """Everything that is looked at of a domain."""
    try:
        domain = parse_host(ascii_domain(domain.rstrip(".").encode()).decode("ascii"))
    except ValueError as failure:
        yield error("domain", f"{domain!a}: {failure}", "write a domain such as example.org")
        return
    hosts = yield from _exchangers(config, names, domain)
    yield from _spf(config, names, domain)
    for selector in selectors:
        yield _dkim(names, domain, selector)
    if not selectors:
        yield note("DKIM", "was not looked at", f"name the selector: angarium doctor {domain} --selector NAME")
    yield _dmarc(names, domain)
    yield from _mta_sts(config, names, domain, hosts)
    yield _tls_report(names, domain)
    for host in hosts:
        yield from _dane(config, names, domain, host)


def _tags(record: str) -> dict[str, str]:
    """A record of tag=value pairs (RFC 6376 §3.2); of a tag that stands there twice the first counts."""
    tags: dict[str, str] = {}
    for part in record.split(";"):
        found = _TAG.fullmatch(part)
        if found:
            tags.setdefault(found[1].lower(), found[2])
    return tags


# ------------------------------------------------------------------ MX


def _exchangers(config: Config, names: NameServers, domain: str) -> Generator[Finding, None, list[str]]:
    """Findings, and in the end the names of the mail hosts."""
    subject = "MX"
    answer = names.ask(domain, "MX")
    if answer.failed:
        yield error(
            subject, f"nobody knows the mail hosts of {domain}", "see the name servers, and those of the domain"
        )
        return []
    if not answer.exists:
        yield error(subject, f"there is no domain {domain}", "register it, or see whether its name servers know it")
        return []
    records = sorted((int(rank), host) for rank, _, host in (record.partition(" ") for record in answer.records))
    if [host for _, host in records] == ["."]:
        remedy = "nothing, if nobody is to answer; bounces and reports cannot come back either"
        yield note(subject, f"{domain} takes no mail (null MX)", remedy)
        return []
    if not records:
        remedy = f"{domain}. IN MX 10 HOST."
        yield warning(subject, f"{domain} has no MX record, so that mail goes to its own address if it has one", remedy)
        return [domain] if addresses_of(names, domain)[0] else []
    hosts = []
    for rank, host in records:
        finding = _exchanger(config, names, host)
        hosts += [host] if finding.severity != "error" else []
        yield finding if finding.severity != "ok" else ok(subject, f"{rank} {finding.reason}")
    return hosts


def _exchanger(config: Config, names: NameServers, host: str) -> Finding:
    subject = "MX"
    if names.ask(host, "CNAME").records:
        return warning(subject, f"{host} is an alias, which RFC 2181 §10.3 forbids", "name the host that it leads to")
    addresses, failed = addresses_of(names, host)
    if failed and not addresses:
        return warning(subject, f"nobody knows the addresses of {host} at present", "see the name servers")
    if not addresses:
        return error(subject, f"{host} has no address", "correct the MX record, or give the host an address")
    bad = [address for address in addresses if is_unreachable(config, address)]
    if bad:
        return error(subject, f"{host} is {bad[0]}, which nobody outside can reach", "give it a public address")
    return ok(subject, f"{host} is {', '.join(addresses)}")


# ------------------------------------------------------------------ who may send


def _spf(config: Config, names: NameServers, domain: str) -> Iterator[Finding]:
    subject = "SPF"
    answer = names.ask(domain, "TXT")
    named, _ = addresses_of(names, config.node.hostname)
    own = tuple(dict.fromkeys((*named, *public_addresses(config))))
    terms = [_spf_term(address) for address in own] or [f"a:{config.node.hostname}"]
    if answer.failed:
        yield warning(subject, f"nobody knows the TXT records of {domain} at present", "see the name servers")
        return
    found = records_of(answer.records)
    if not found:
        remedy = f'{domain}. IN TXT "v=spf1 {" ".join(terms)} -all"'
        yield error(subject, f"{domain} does not say who may send its mail", remedy)
        return
    if len(found) > 1:
        yield error(subject, f"{domain} has {len(found)} SPF records, which counts as none", "make them one")
        return
    if any(term in ("all", "+all") for term in found[0].lower().split()):
        yield error(subject, f"{domain} lets everybody send its mail (+all)", 'write "-all" or "~all"')
    for address in own:
        verdict = check_host(names, domain, address)
        remedy = f"add {_spf_term(address)} to the record of {domain}"
        if verdict.result == "pass":
            yield ok(subject, f"{domain} lets {address} send its mail ({verdict.says}; {verdict.lookups} look-ups)")
        elif verdict.result == "permerror":
            yield error(subject, f"the record counts as broken: {verdict.text}", "correct the record")
        elif verdict.result in ("temperror", "unjudged"):
            yield warning(subject, f"it cannot be told whether {address} may send: {verdict.text}", "see the record")
        elif verdict.result == "fail":
            yield error(subject, f"{domain} says that {address}, this relay, must not send ({verdict.says})", remedy)
        else:
            yield warning(subject, f"{domain} does not vouch for {address}, this relay: {verdict.result}", remedy)
    if not own:
        yield note(subject, f"{domain} has a record; this relay's addresses are not known", "see: hostname")


def _spf_term(address: str) -> str:
    return f"ip6:{address}" if ":" in address else f"ip4:{address}"


def _dkim(names: NameServers, domain: str, selector: str) -> Finding:
    """The public key of one selector (RFC 6376 §3.6.1)."""
    name = f"{selector}._domainkey.{domain}"
    answer = names.ask(name, "TXT")
    if answer.failed:
        return warning("DKIM", f"nobody knows {name} at present", "see the name servers")
    keys = [_tags(record) for record in answer.records if "p" in _tags(record)]
    if not keys:
        return error("DKIM", f"{name} has no key", "publish the public key under this name")
    if len(keys) > 1:
        return error("DKIM", f"{name} has {len(keys)} keys, of which any may be taken", "leave one there")
    tags = keys[0]
    if tags.get("v", "DKIM1") != "DKIM1":
        return error("DKIM", f"{name}: v={tags['v']} is not DKIM1", "correct the record")
    if not tags["p"]:
        return error("DKIM", f"{name}: the key was revoked (p= is empty)", "sign with another selector")
    text, weak = _key_text(tags)
    if weak == "broken":
        return error("DKIM", f"{name}: {text}", "publish the public key again, whole")
    if weak == "short":
        return error("DKIM", f"{name}: {text}, which receivers do not accept (RFC 8301)", "make a key of 2048 bits")
    if weak == "weak":
        return warning("DKIM", f"{name}: {text}", "make a key of 2048 bits")
    if "y" in tags.get("t", "").split(":"):
        return warning("DKIM", f"{name}: {text}, in testing (t=y): receivers may pass it over", "take t=y out")
    return ok("DKIM", f"{name}: {text}")


def _key_text(tags: dict[str, str]) -> tuple[str, str]:
    """What key it is, and what is wrong with it: "broken", "short", "weak" or nothing."""
    try:
        octets = base64.b64decode("".join(tags["p"].split()), validate=True)
    except binascii.Error:
        return "the key is not base64", "broken"
    if tags.get("k", "rsa").lower() == "ed25519":  # RFC 8463
        return ("an Ed25519 key", "") if len(octets) == 32 else ("the Ed25519 key has not 32 octets", "broken")
    try:
        key = load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        return "the key cannot be read", "broken"
    if not isinstance(key, RSAPublicKey):
        return "the key is not of the kind that k= says", "broken"
    text = f"an RSA key of {key.key_size} bits"
    if key.key_size < LEAST_RSA_BITS:
        return text, "short"
    return text, "weak" if key.key_size < USUAL_RSA_BITS else ""


def _dmarc(names: NameServers, domain: str) -> Finding:
    """The policy of the domain, or of the nearest one above that has any."""
    subject = "DMARC"
    labels = domain.split(".")
    for start in range(max(1, len(labels) - 1)):
        above = ".".join(labels[start:])
        answer = names.ask(f"_dmarc.{above}", "TXT")
        if answer.failed:
            return warning(subject, f"nobody knows _dmarc.{above} at present", "see the name servers")
        records = [record for record in answer.records if re.match(r"v\s*=\s*DMARC1\s*(;|$)", record)]
        if records:
            return _dmarc_record(domain, above, records, inherited=start > 0)
    remedy = (
        f'_dmarc.{domain}. IN TXT "v=DMARC1; p=none; rua=mailto:dmarc@{domain}", and p=reject when reports are clean'
    )
    return error(subject, f"{domain} has no policy; large providers want one of who sends much", remedy)


def _dmarc_record(domain: str, above: str, records: list[str], *, inherited: bool) -> Finding:
    subject, name = "DMARC", f"_dmarc.{above}"
    if len(records) > 1:
        return error(subject, f"{name} has {len(records)} records, which counts as none", "make them one")
    tags = _tags(records[0])
    policy = (tags.get("sp") if inherited else None) or tags.get("p", "")
    if policy.lower() not in ("none", "quarantine", "reject"):
        return error(subject, f'{name}: p="{policy}" is no policy', "write p=none, p=quarantine or p=reject")
    where = f"{name}: p={policy} for {domain}"
    if "rua" not in tags:
        remedy = f"add rua=mailto:dmarc@{domain}: without reports nobody sees what fails"
        return warning(subject, f"{where}, and nobody is told of failures (no rua)", remedy)
    if policy.lower() == "none":
        return note(subject, f"{where}: forged mail is only reported", "p=reject when the reports are clean")
    return ok(subject, where)


# ------------------------------------------------------------------ TLS of those who send to it


def _mta_sts(config: Config, names: NameServers, domain: str, hosts: Sequence[str]) -> Iterator[Finding]:
    subject = "MTA-STS"
    answer = names.ask(f"_mta-sts.{domain}", "TXT")
    if answer.failed:
        yield warning(subject, f"nobody knows _mta-sts.{domain} at present", "see the name servers")
        return
    if not any(record.startswith("v=STSv1") for record in answer.records):
        remedy = "publish a policy (RFC 8461), first with mode: testing"
        yield note(subject, f"{domain} has none: mail to it may be sent in plaintext", remedy)
        return
    if record_id(record.encode("utf-8") for record in answer.records) is None:
        remedy = f'_mta-sts.{domain}. IN TXT "v=STSv1; id=20260101"'
        yield error(subject, f"_mta-sts.{domain} is malformed, or there are several", remedy)
        return
    try:
        policy = asyncio.run(_fetch_policy(config, names, domain))
    except (PolicyError, _FetchError) as failure:
        yield error(subject, f"the policy of {domain} cannot be had: {failure}", f"see https://mta-sts.{domain}")
        return
    left_out = [host for host in hosts if not policy.covers(host)]
    if left_out and policy.mode != "none":
        reason = f"the policy (mode: {policy.mode}) does not name {', '.join(left_out)}"
        yield error(subject, reason, "add mx: lines for all mail hosts, and change the id of the record")
    elif policy.mode != "enforce":
        remedy = "mode: enforce when the TLS reports are clean"
        yield note(subject, f"mode: {policy.mode}: nobody is kept from plaintext", remedy)
    else:
        yield ok(subject, f"mode: enforce, for {', '.join(policy.patterns)}, {policy.max_age_s // 86400} days")


class _FetchError(Exception):
    """The policy's web server does not give it."""


async def _fetch_policy(config: Config, names: NameServers, domain: str) -> Policy:
    from angarium.delivery.https import HttpsClient
    from angarium.delivery.policy_store import FetchFailure

    async def addresses(host: str) -> Sequence[str]:
        return (await asyncio.to_thread(addresses_of, names, host))[0]

    client = HttpsClient(
        addresses,
        permitted=lambda address: not is_unreachable(config, address),
        ca_file=config.mta_sts.ca_file,
        port=config.mta_sts.port,
        timeout_s=POLICY_TIMEOUT_S,
    )
    try:
        return parse_policy(await client.fetch_policy(domain))
    except FetchFailure as failure:
        raise _FetchError(str(failure)) from None


def _tls_report(names: NameServers, domain: str) -> Finding:
    name = f"_smtp._tls.{domain}"
    answer = names.ask(name, "TXT")
    remedy = f'{name}. IN TXT "v=TLSRPTv1; rua=mailto:tls@{domain}"'
    if answer.failed:
        return warning("TLS-RPT", f"nobody knows {name} at present", "see the name servers")
    records = [record for record in answer.records if record.startswith("v=TLSRPTv1")]
    if not records:
        return note("TLS-RPT", f"{domain} asks for no reports of TLS failures", remedy)
    if len(records) > 1:
        return error("TLS-RPT", f"{name} has {len(records)} records, which counts as none", "make them one")
    where = _tags(records[0]).get("rua", "")
    if not all(one.strip().startswith(("mailto:", "https://")) for one in where.split(",")):
        return error("TLS-RPT", f'{name}: rua="{where}" is neither mailto: nor https:', remedy)
    return ok("TLS-RPT", f"reports go to {where}")


def _dane(config: Config, names: NameServers, domain: str, host: str) -> Iterator[Finding]:
    subject, name = "DANE", f"_25._tcp.{host}"
    answer = names.ask(name, "TLSA")
    if answer.failed:
        remedy = "correct the zone's DNSSEC: who validates does not send mail there now"
        yield error(subject, f"{name}: no answer, or one whose signatures do not hold", remedy)
        return
    if not answer.records:
        remedy = "sign the zone and publish TLSA records (RFC 7672); 3 1 1 of the key is the usual one"
        yield note(subject, f"{host} has no TLSA records", remedy)
        return
    if config.dns.dnssec != "trust-ad":
        remedy = 'use a resolver that validates and set dns.dnssec = "trust-ad"'
        yield note(subject, f"{host} has TLSA records; whether they are signed cannot be seen here", remedy)
        return
    signed = answer.secure and names.ask(domain, "MX").secure
    if not signed:
        remedy = f"sign the zones of {domain} and {host}, and give the registry their DS records"
        yield error(subject, f"{host} has TLSA records, and DNSSEC does not vouch for all of them and the MX", remedy)
        return
    records = [_tlsa(record) for record in answer.records]
    if not usable([record for record in records if record is not None]):
        remedy = "write 3 1 1, 3 1 2, 2 1 1 or alike (RFC 7672 §3.1)"
        yield error(subject, f"no TLSA record of {host} can be used for mail", remedy)
        return
    yield from _own_dane(config, host, [record for record in records if record is not None])


def _own_dane(config: Config, host: str, records: list[Tlsa]) -> Iterator[Finding]:
    """Where the host is this relay, its certificate must be the one that the records name."""
    count = f"{len(records)} TLSA record{'s' if len(records) != 1 else ''}"
    if config.tls is None or host != config.node.hostname.lower():
        yield ok("DANE", f"{host}: {count}, signed")
        return
    try:
        chain = x509.load_pem_x509_certificates(Path(config.tls.certificate).read_bytes())
    except (OSError, ValueError):
        return  # said of the certificate itself
    verdict = verify([one.public_bytes(Encoding.DER) for one in chain], records, [host], time.time())
    if verdict.record is not None:
        yield ok("DANE", f"{host}: {count}, signed, and the certificate is the one they name")
    else:
        remedy = "publish the record of the new key before the certificate changes, and wait for two TTLs"
        yield error("DANE", f"{host}: the certificate is not the one that the TLSA records name", remedy)


def _tlsa(text: str) -> Tlsa | None:
    usage, selector, matching, *octets = text.split()
    try:
        return Tlsa(int(usage), int(selector), int(matching), bytes.fromhex("".join(octets)))
    except ValueError:
        return None
