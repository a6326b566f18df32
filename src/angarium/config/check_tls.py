"""What must hold of the configuration's TLS: certificates, keys and CAs that load, and settings that have an effect.

A setting that cannot have an effect is an error, since whoever wrote it relies on it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from angarium.config.problem import nearest_file

if TYPE_CHECKING:
    from angarium.config.locate import KeyPath
    from angarium.config.model import Config, TlsSettings
    from angarium.config.problem import Findings

__all__ = ["check_authorities", "check_pair", "check_tls", "read_file"]

_WITHOUT_TLS = {"discard", "maildir", "pipe", "lmtp+unix", "bounce"}
_SETTINGS = ("tls", "tls_name", "tls_ca", "tls_certificate", "tls_key", "tls_fingerprints")


def check_tls(config: Config, findings: Findings) -> None:
    """The node's own certificate, and the TLS of deliveries."""
    tls = config.tls
    if tls is not None and findings.sound(("tls",)):
        check_pair(tls.certificate, ("tls", "certificate"), tls.key, ("tls", "key"), findings)
    if findings.sound(("delivery", "tls")):
        if config.delivery.tls == "fingerprint":
            message = '"fingerprint" is of single hosts: list them with a [[route]] or a [[tls_policy]]'
            findings.error(("delivery", "tls"), message)
        _check_dane(config, config.delivery.tls, ("delivery", "tls"), findings)
    for index, route in enumerate(config.route):
        path = findings.element(("route",), index)
        written = next((key for key in _SETTINGS if getattr(route, key) not in (None, ())), None)
        if written is not None and route.kind in _WITHOUT_TLS and findings.sound((*path, "next_hop")):
            findings.error((*path, written), f'has no effect: there is no TLS to "{route.hops[0].to}"')
            continue
        _check_settings(config, route, path, findings)
        if route.tls == "none" and route.kind == "smtps" and findings.sound((*path, "next_hop"), (*path, "tls")):
            findings.error((*path, "tls"), '"smtps://" is TLS from the first octet on; for plaintext write "smtp://"')
    seen: set[str] = set()
    for index, rule in enumerate(config.tls_policy):
        path = findings.element(("tls_policy",), index)
        _check_settings(config, rule, path, findings)
        if not rule.domains and findings.sound((*path, "domains")):
            findings.error((*path, "domains"), "is empty, so that no domain has this policy")
        for number, pattern in enumerate(rule.domains):
            where = findings.element((*path, "domains"), number)
            if pattern.kind == "address":
                findings.error(where, f'"{pattern}" is an address; a policy is for a domain, such as "example.org"')
            elif "*" in seen or str(pattern) in seen:
                findings.warn(where, f'"{pattern}" has a policy in front of it already, and the first match wins')
            seen.add(str(pattern))


def _check_settings(config: Config, settings: TlsSettings, path: KeyPath, findings: Findings) -> None:
    if not findings.sound(("delivery", "tls"), *((*path, key) for key in _SETTINGS)):
        return
    level = settings.tls or config.delivery.tls
    if settings.tls is not None:
        _check_dane(config, settings.tls, (*path, "tls"), findings)
    if level == "fingerprint" and not settings.tls_fingerprints:
        findings.error((*path, "tls"), '"fingerprint" needs tls_fingerprints')
    if level != "fingerprint" and settings.tls_fingerprints:
        findings.error((*path, "tls_fingerprints"), 'has no effect unless tls = "fingerprint"')
    if level == "none":
        for name in ("tls_name", "tls_certificate", "tls_key"):
            if getattr(settings, name) is not None:
                findings.error((*path, name), 'has no effect with tls = "none"')
    if settings.tls_ca is not None:
        where = (*path, "tls_ca")
        if level != "verify":
            findings.error(where, 'has no effect unless tls = "verify"')
        elif (octets := read_file(settings.tls_ca, where, findings)) is not None:
            check_authorities(settings.tls_ca, octets, where, findings)
    certificate, key = settings.tls_certificate, settings.tls_key
    if (certificate is None) != (key is None):
        missing = "tls_key" if key is None else "tls_certificate"
        written = "tls_certificate" if key is None else "tls_key"
        findings.error((*path, written), f"needs {missing} beside it")
    elif certificate is not None and key is not None:
        check_pair(certificate, (*path, "tls_certificate"), key, (*path, "tls_key"), findings)


def _check_dane(config: Config, level: str, path: KeyPath, findings: Findings) -> None:
    if level == "dane" and config.dns.dnssec != "trust-ad" and findings.sound(("dns",)):
        message = '"dane" needs a name server that validates, and dns.dnssec = "trust-ad"'
        findings.error(path, message)


def check_authorities(file: str, octets: bytes, path: KeyPath, findings: Findings) -> None:
    """There are certificates in the file."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=octets.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        findings.error(path, f"{file} has no certificates in PEM form that can be read")


def check_pair(certificate: str, at: KeyPath, key: str, key_at: KeyPath, findings: Findings) -> None:
    """The certificate chain and its key can be loaded together."""
    chain = read_file(certificate, at, findings)
    private = read_file(key, key_at, findings)
    if chain is None or private is None:
        return
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        findings.error(at, f"{certificate} has no certificate in PEM form")
        return
    if b"PRIVATE KEY-----" not in private:
        findings.error(key_at, f"{key} has no private key in PEM form")
        return
    try:
        # an encrypted key must fail here instead of asking for its pass phrase at the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            findings.error(key_at, f"{key} is not the key of the certificate in {certificate}")
        elif b"ENCRYPTED" in private:
            findings.error(key_at, f"{key} is encrypted; the relay needs it without a pass phrase")
        else:
            findings.error(at, f"the certificate and key cannot be loaded: {error.reason or error}")


def read_file(file: str, path: KeyPath, findings: Findings) -> bytes | None:
    """The first MiB of a file; None when it cannot be read, which is reported."""
    try:
        with open(file, "rb") as opened:
            return opened.read(1 << 20)
    except OSError as error:
        findings.error(path, f"{file} cannot be read: {error.strerror}", nearest_file(file))
        return None
