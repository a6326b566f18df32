"""Who may read and write the relay's files, and what its certificates say.

Input: the configuration, the file that it is from, a name for the certificate to be for, the time. Output: findings.
Fails: not at all; what cannot be looked at is a finding.
"""

from __future__ import annotations

import os
import pwd
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography import x509

from angarium.cli.doctor.finding import Finding, error, note, ok, warning
from angarium.config.credentials import Credentials
from angarium.config.secret import Secret
from angarium.delivery.dane import name_matches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from angarium.config.model import Certificate, Config, Tls

__all__ = ["certificates", "permissions"]

EXPIRES_SOON = timedelta(days=14)
OTHERS = stat.S_IRWXO
OTHERS_WRITE = stat.S_IWOTH | stat.S_IWGRP
SECRET_KEYS = ("key", "tls_key", "token_file")  # and every key that ends in _file, of a password, secret or token


def certificates(config: Config, now: datetime | None = None) -> Iterator[Finding]:
    """What the relay shows to its clients: until when, and for which names."""
    now = now or datetime.now(UTC)
    shown: list[tuple[str, Tls | Certificate]] = [("tls", config.tls)] if config.tls is not None else []
    shown += [(f"certificate[{i}]", one) for i, one in enumerate(config.certificate)]
    if not shown:
        remedy = "set [tls] certificate and key; angarium init --certificate makes a self-signed one"
        yield note("certificate", "there is none, so clients can hand in mail in plaintext only", remedy)
    for key, one in shown:
        yield from _certificate(config, key, one.certificate, now)


def _certificate(config: Config, key: str, file: str, now: datetime) -> Iterator[Finding]:
    subject = "certificate"
    try:
        chain = x509.load_pem_x509_certificates(Path(file).read_bytes())
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or "there is no certificate in it that can be read"
        yield error(subject, f"{key}: {file}: {reason}", "angarium check says what is wrong with it")
        return
    leaf = chain[0]
    left = leaf.not_valid_after_utc - now
    remedy = "renew it; the relay reads it again at a reload"
    if left < timedelta(0):
        yield error(subject, f"{key}: {file} expired on {leaf.not_valid_after_utc:%d %B %Y}", remedy)
    elif leaf.not_valid_before_utc > now:
        remedy = "wait, or see whether the clock is right"
        yield error(subject, f"{key}: {file} is not valid before {leaf.not_valid_before_utc:%d %B %Y}", remedy)
    elif left < EXPIRES_SOON:
        yield warning(subject, f"{key}: {file} expires in {left.days} days", remedy)
    else:
        yield ok(subject, f"{key}: {file} is valid until {leaf.not_valid_after_utc:%d %B %Y}")
    if key == "tls" and not name_matches(leaf, [config.node.hostname]):
        remedy = f"get one for {config.node.hostname}, or tell clients to use a name that it has"
        yield warning("certificate names", f"{file} is not for {config.node.hostname}", remedy)
    if leaf.issuer == leaf.subject:
        remedy = "clients must be told to trust it; an authority's certificate spares that"
        yield note("certificate issuer", f"{file} is self-signed", remedy)


def permissions(config: Config, config_file: str) -> Iterator[Finding]:
    """The spool is the relay's alone, secrets are not for everybody, and nobody else can change the configuration."""
    found = [
        *_spool(config),
        *(finding for file in sorted(set(_secret_files(config))) for finding in _secret(file)),
        *_configuration(config, config_file),
        *_drop(config),
    ]
    yield from found
    if not found:
        yield ok("permissions", "of spool, secrets and configuration are as they should be")


def _spool(config: Config) -> Iterator[Finding]:
    spool = config.node.spool
    try:
        status = os.stat(spool)
    except OSError:
        return  # that it is not there is said elsewhere
    if status.st_mode & (OTHERS | OTHERS_WRITE):
        yield error("permissions", f"others than its owner may enter {spool}, where all mail is", f"chmod 0700 {spool}")
    if config.node.user is not None:
        try:
            wanted = pwd.getpwnam(config.node.user).pw_uid
        except KeyError:
            return  # angarium check says so
        if status.st_uid != wanted:
            reason = f"{spool} is not of node.user, {config.node.user}"
            yield error("permissions", reason, f"chown -R {config.node.user}: {spool}")


def _secret(file: str) -> Iterator[Finding]:
    try:
        mode = os.stat(file).st_mode
    except PermissionError:
        return  # as it should be, for who runs the doctor
    except OSError as failure:
        yield error("permissions", f"{file}: {failure.strerror}", "angarium check names the key")
        return
    if mode & OTHERS:
        yield error("permissions", f"every user of this machine can read or change {file}", f"chmod 0640 {file}")
    elif mode & stat.S_IWGRP:
        yield warning("permissions", f"its group can change {file}", f"chmod g-w {file}")


def _configuration(config: Config, file: str) -> Iterator[Finding]:
    try:
        mode = os.stat(file).st_mode
    except OSError:
        return
    if mode & stat.S_IWOTH:
        yield error("permissions", f"every user of this machine can change {file}", f"chmod o-w {file}")
    if mode & OTHERS and _has_secret(config):
        remedy = f"chmod 0640 {file}, or write password_file instead of password"
        yield error("permissions", f"{file} has a password in it, and every user of this machine can read it", remedy)


def _drop(config: Config) -> Iterator[Finding]:
    if config.sendmail is None:
        return
    folder = Path(config.sendmail.drop)
    try:
        mode = folder.stat().st_mode
        refused = len(os.listdir(folder / "refused")) if (folder / "refused").is_dir() else 0
    except FileNotFoundError:
        remedy = "the relay makes it at its start if it may; else: angarium init --system"
        yield warning("drop folder", f"{folder} is not there, so mail is refused while the relay is down", remedy)
        return
    except PermissionError:
        return
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        reason = f"every user of this machine can remove the mail of others from {folder}"
        yield error("drop folder", reason, f"chmod 3733 {folder}")
    if not mode & stat.S_ISGID:
        reason = f"files in {folder} do not get its group, so the relay cannot read them"
        yield error("drop folder", reason, f"chmod 3733 {folder}")
    if refused:
        remedy = "the event drop_refused says why; remove them, or move them back when the reason is gone"
        yield warning("drop folder", f"{refused} files were refused, and are kept in {folder / 'refused'}", remedy)


def _secret_files(section: Any) -> Iterator[str]:
    """The files of a configuration that hold keys, passwords or their hashes, secrets or tokens."""
    for name, value in _entries(section):
        hashes = name == "file" and isinstance(section, Credentials)
        if isinstance(value, str) and (hashes or name in SECRET_KEYS or _is_secret_file(name)):
            yield value
        elif isinstance(value, msgspec.Struct | tuple):
            yield from _secret_files(value)


def _is_secret_file(name: str) -> bool:
    return name.endswith("_file") and any(word in name for word in ("password", "secret", "token"))


def _has_secret(section: Any) -> bool:
    return any(
        isinstance(value, Secret) or (isinstance(value, msgspec.Struct | tuple) and _has_secret(value))
        for _, value in _entries(section)
    )


def _entries(section: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(section, tuple):
        yield from (("", value) for value in section)
    else:
        yield from ((field, getattr(section, field)) for field in section.__struct_fields__)
