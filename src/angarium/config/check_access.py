"""What must hold of log-ins: [[credentials]] have the keys of their kind, each mechanism somebody who verifies it."""

from __future__ import annotations

import importlib.util
import os
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from angarium.config.address import covers_everything
from angarium.config.credentials import PASSWORD_MECHANISMS, TOKEN_MECHANISMS, Access, Credentials
from angarium.config.secret import read_secret_file
from angarium.config.units import format_duration

if TYPE_CHECKING:
    from angarium.config.locate import KeyPath
    from angarium.config.model import Config, Listener
    from angarium.config.problem import Findings

__all__ = ["check_access", "check_log_ins"]

_TOKENS = ("token", "token_file", "token_env")
_BIND_PASSWORDS = ("bind_password", "bind_password_file", "bind_password_env")
_CLIENT_SECRETS = ("client_secret", "client_secret_file", "client_secret_env")
_KEYS: dict[str, tuple[str, ...]] = {
    "file": ("file",),
    "dovecot": ("socket", "service", "timeout_s"),
    "http": ("url", *_TOKENS, "ca", "timeout_s"),
    "ldap": ("url", "user_dn", "base", "filter", "bind_dn", *_BIND_PASSWORDS, "ca", "timeout_s"),
    "oauth2": (
        "introspection_url",
        "client_id",
        *_CLIENT_SECRETS,
        "jwks_file",
        "jwks_url",
        "issuer",
        "audience",
        "scope",
        "log_in_claim",
        "ca",
        "timeout_s",
    ),
}
_REQUIRED = {"file": "file", "dovecot": "socket", "http": "url", "ldap": "url"}
_OTHERS_READ = 0o007


def check_access(config: Config, findings: Findings) -> None:
    """Every check of `[[credentials]]` and `[access]`."""
    for index, one in enumerate(config.credentials):
        path = findings.element(("credentials",), index)
        if findings.sound(path):
            _check_keys(one, path, findings)
            _check_kind(config, one, path, findings)
    access = config.access
    if findings.sound(("access", "delay"), ("access", "longest_delay")) and access.delay_s > access.longest_delay_s:
        key = "delay" if access.delay_s != Access().delay_s else "longest_delay"
        message = f"the first delay, {format_duration(access.delay_s)}, is longer than the longest, "
        findings.error(("access", key), message + format_duration(access.longest_delay_s))
    if findings.sound(("access", "trusted_networks")):
        for version in (4, 6):
            if covers_everything([network for network in access.trusted_networks if network.version == version]):
                findings.error(
                    ("access", "trusted_networks"), f"every IPv{version} address in the world may guess as it likes"
                )
    listeners_known = findings.whole(("listener",)) and findings.sound(("listener",))
    if (
        config.credentials
        and listeners_known
        and not any(listener.role == "submission" or listener.mechanisms for listener in config.listener)
    ):
        message = 'nobody can log in: no listener has role = "submission" or mechanisms'
        findings.warn(findings.element(("credentials",), 0), message)


def check_log_ins(config: Config, listener: Listener, path: KeyPath, findings: Findings) -> None:
    """Whether those who log in at a listener can be verified."""
    if not findings.sound((*path, "auth"), (*path, "role"), (*path, "tls"), (*path, "mechanisms")):
        return
    if listener.auth == "any":
        if not config.sandbox:
            findings.error((*path, "auth"), '"any" accepts every log-in, so it is for the sandbox only')
        elif listener.tls == "none":
            findings.error((*path, "auth"), 'a log-in is offered under TLS only, and this listener has tls = "none"')
        if listener.mechanisms:
            findings.error((*path, "mechanisms"), 'has no effect with auth = "any", which takes PLAIN and LOGIN')
        return
    if listener.role != "submission" and not listener.mechanisms:
        return
    key = "mechanisms" if listener.mechanisms else "role"
    if listener.tls == "none":
        findings.error((*path, key), 'a log-in is offered under TLS only, and this listener has tls = "none"')
    if not findings.whole(("credentials",)):
        return
    wants = set(listener.mechanisms) - {"EXTERNAL"}
    if not config.credentials and (wants or not listener.mechanisms):
        hint = ' (in a sandbox: write auth = "any")' if config.sandbox else ""
        message = (
            'there is nobody to verify log-ins: write a [[credentials]] table, such as kind = "file" with a file that '
            f'"angarium user add" writes{hint}'
        )
        findings.error((*path, key), message)
        return
    _check_mechanisms(config, listener, path, findings)


def _check_mechanisms(config: Config, listener: Listener, path: KeyPath, findings: Findings) -> None:
    kinds = {one.kind for one in config.credentials}
    for number, mechanism in enumerate(listener.mechanisms):
        where = findings.element((*path, "mechanisms"), number)
        if mechanism == "EXTERNAL" and listener.client_ca is None:
            findings.error(where, "EXTERNAL needs client_ca, or no client is asked for a certificate")
        elif mechanism in TOKEN_MECHANISMS and "oauth2" not in kinds:
            findings.error(where, f'{mechanism} needs [[credentials]] with kind = "oauth2"')
        elif mechanism in PASSWORD_MECHANISMS and not kinds - {"oauth2"}:
            findings.error(where, f"{mechanism} needs [[credentials]] that know passwords, and oauth2 does not")
        elif mechanism == "SCRAM-SHA-256" and not kinds & {"file", "dovecot"}:
            findings.error(where, f'{mechanism} needs [[credentials]] with kind = "file", or a Dovecot that does it')
        elif mechanism == "SCRAM-SHA-256-PLUS" and "file" not in kinds:
            findings.error(where, f'{mechanism} needs [[credentials]] with kind = "file": the others cannot do it')
    if "SCRAM-SHA-256-PLUS" in listener.mechanisms and "SCRAM-SHA-256" not in listener.mechanisms:
        findings.warn((*path, "mechanisms"), "clients that cannot bind a log-in to TLS have no SCRAM to use")


def _check_keys(one: Credentials, path: KeyPath, findings: Findings) -> None:
    """No key of another kind, and the one without which this kind is nothing."""
    usual = Credentials(kind=one.kind)
    for key in {key for keys in _KEYS.values() for key in keys} - set(_KEYS[one.kind]):
        if getattr(one, key) != getattr(usual, key):
            kinds = " or ".join(kind for kind, keys in _KEYS.items() if key in keys)
            findings.error((*path, _toml(key)), f"is for kind {kinds}, and this is {one.kind}")
    required = _REQUIRED.get(one.kind)
    if required is not None and getattr(one, required) is None:
        findings.error((*path, required), f'is required with kind = "{one.kind}"')


def _toml(key: str) -> str:
    return key.removesuffix("_s")


def _check_kind(config: Config, one: Credentials, path: KeyPath, findings: Findings) -> None:
    if one.kind == "file" and one.file is not None:
        _check_file(one.file, path, findings)
    elif one.kind == "dovecot" and one.socket is not None:
        if not os.path.exists(one.socket):
            findings.warn((*path, "socket"), f"{one.socket} is not there now")
    elif one.kind == "http" and one.url is not None:
        _check_url(config, one.url, (*path, "url"), findings)
        _check_secret(one, _TOKENS, path, findings)
    elif one.kind == "ldap" and one.url is not None:
        _check_ldap(config, one, path, findings)
    elif one.kind == "oauth2":
        _check_oauth2(config, one, path, findings)
    if one.ca is not None and not os.access(one.ca, os.R_OK):
        findings.error((*path, "ca"), f"{one.ca} cannot be read")


def _check_file(file: str, path: KeyPath, findings: Findings) -> None:
    try:
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        message = f'{file} is not there yet, so nobody can log in; "angarium user add" makes it'
        findings.warn((*path, "file"), message)
        return
    except OSError as error:
        findings.error((*path, "file"), f"{file} cannot be read: {error.strerror}")
        return
    if mode & _OTHERS_READ:
        findings.warn((*path, "file"), f"{file} can be read by every user: who reads it can guess passwords at leisure")


def _check_ldap(config: Config, one: Credentials, path: KeyPath, findings: Findings) -> None:
    parts = urlsplit(one.url or "")
    if parts.scheme not in {"ldap", "ldaps"} or not parts.hostname:
        findings.error((*path, "url"), 'expected a URL such as "ldaps://ldap.example.org"')
    elif parts.scheme == "ldap" and not _is_loopback(parts.hostname):
        findings.error((*path, "url"), "sends passwords over the network in plaintext; it begins with ldaps://")
    elif config.sandbox and not _is_loopback(parts.hostname):
        findings.error((*path, "url"), f"{parts.hostname} is not a loopback address, and this is a sandbox")
    if (one.user_dn is None) == (one.base is None):
        findings.error(
            path, 'wants either user_dn, such as "uid={log_in},ou=people,dc=example,dc=org", or base to search'
        )
    for key in ("user_dn", "filter"):
        text = getattr(one, key)
        if text is not None and "{log_in}" not in text:
            findings.error((*path, key), "has no {log_in} in it, so it would be the same for everybody")
    secrets = _check_secret(one, _BIND_PASSWORDS, path, findings)
    if (one.bind_dn is None) != (not secrets):
        wanted = ", ".join(_BIND_PASSWORDS) if one.bind_dn is not None else "bind_dn"
        findings.error((*path, secrets[-1] if secrets else "bind_dn"), f"wants {wanted} beside it")
    if importlib.util.find_spec("ldap3") is None:
        message = '"ldap" needs ldap3, which is not installed: pip install "angarium[ldap]"'
        findings.error((*path, "kind"), message)


def _check_oauth2(config: Config, one: Credentials, path: KeyPath, findings: Findings) -> None:
    ways = [key for key in ("introspection_url", "jwks_file", "jwks_url") if getattr(one, key) is not None]
    if len(ways) != 1:
        message = "wants one of introspection_url, jwks_file, jwks_url, to know whose an access token is"
        findings.error((*path, ways[-1]) if ways else path, message)
        return
    secrets = _check_secret(one, _CLIENT_SECRETS, path, findings)
    if secrets and one.client_id is None:
        findings.error((*path, secrets[-1]), "wants client_id beside it")
    if ways == ["introspection_url"]:
        _check_url(config, one.introspection_url or "", (*path, "introspection_url"), findings)
        return
    for key in ("client_id", *secrets):
        if getattr(one, key) is not None:
            findings.error((*path, key), "is for introspection_url, and tokens are verified by their signature here")
    if one.jwks_url is not None:
        _check_url(config, one.jwks_url, (*path, "jwks_url"), findings)
    elif one.jwks_file is not None and not os.access(one.jwks_file, os.R_OK):
        findings.error((*path, "jwks_file"), f"{one.jwks_file} cannot be read")
    if one.audience is None:
        message = "is not set: a token that the same server gave for any other service logs in here as well"
        findings.warn((*path, "audience"), message)


def _check_url(config: Config, url: str, path: KeyPath, findings: Findings) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in {"https", "http"} or parts.username is not None:
        findings.error(path, 'expected a URL such as "https://login.example.org/check"')
        return
    if parts.scheme == "http" and not _is_loopback(host):
        findings.error(path, "sends secrets over the network in plaintext; it begins with https://")
    if config.sandbox and not _is_loopback(host):
        findings.error(path, f"{host} is not a loopback address, and this is a sandbox")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_secret(one: Credentials, keys: tuple[str, ...], path: KeyPath, findings: Findings) -> list[str]:
    """Which of several ways to give one secret are used; more than one is an error, and so is a file without it."""
    given = [key for key in keys if getattr(one, key) is not None]
    if len(given) > 1:
        findings.error((*path, given[-1]), f"stands beside {given[0]}: one of the two is enough")
    for key in given:
        if not key.endswith("_file"):
            continue
        file = getattr(one, key)
        try:
            read_secret_file(file)
        except OSError as error:
            findings.error((*path, key), f"{file} cannot be read: {error.strerror}")
        except ValueError as error:
            findings.error((*path, key), str(error))
    return given
