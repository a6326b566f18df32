"""What must hold of a route's log-in: there is one thing to log in with, and it goes where it is safe."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from angarium.config.next_hop import SESSION_KINDS
from angarium.config.problem import nearest_file
from angarium.config.secret import read_secret_file

if TYPE_CHECKING:
    from angarium.config.locate import KeyPath
    from angarium.config.model import Auth, Config, OAuth2, Route
    from angarium.config.problem import Findings

__all__ = ["check_auth"]

_WITHOUT_TLS = {"smtp", "lmtp"}
_PASSWORDS = ("password", "password_file", "password_env")
_CLIENT_SECRETS = ("client_secret", "client_secret_file", "client_secret_env")
_REFRESH_TOKENS = ("refresh_token", "refresh_token_file", "refresh_token_env")
_TOKEN_MECHANISMS = {"XOAUTH2", "OAUTHBEARER"}
_OTHERS_READ = 0o004


def check_auth(config: Config, route: Route, path: KeyPath, findings: Findings) -> None:
    """Every check of one route's `auth`."""
    auth, path = route.auth, (*path, "auth")
    if auth is None or not findings.sound(path):
        return
    if route.kind not in SESSION_KINDS:
        message = f'a log-in is for a next hop that is named, such as "smtps://host:port", not {route.hops[0].to}'
        findings.error(path, message)
    elif (
        (route.tls or config.delivery.tls) == "none"
        and not auth.plaintext
        and _WITHOUT_TLS & {hop.to.kind for hop in route.hops}
    ):
        message = 'would never be sent: tls = "none", and a log-in goes over TLS only, or with plaintext = true'
        findings.error(path, message)
    _check_secrets(auth, path, findings)
    if auth.oauth2 is not None:
        _check_oauth2(config, auth.oauth2, (*path, "oauth2"), findings)


def _check_secrets(auth: Auth, path: KeyPath, findings: Findings) -> None:
    given = _given(auth, _PASSWORDS, path, findings)
    if auth.oauth2 is not None and given:
        findings.error((*path, given[-1]), "stands beside oauth2: a log-in has one of the two")
    elif auth.oauth2 is None and not given and findings.sound(*((*path, key) for key in (*_PASSWORDS, "oauth2"))):
        findings.error(path, f"has nothing to log in with; write one of {', '.join(_PASSWORDS)}, oauth2")
    if auth.mechanism is not None and (auth.mechanism in _TOKEN_MECHANISMS) != (auth.oauth2 is not None):
        wants = "oauth2" if auth.mechanism in _TOKEN_MECHANISMS else "a password"
        if findings.sound((*path, "mechanism"), (*path, "oauth2")) and (given or auth.oauth2 is not None):
            findings.error((*path, "mechanism"), f"{auth.mechanism} wants {wants}")


def _check_oauth2(config: Config, oauth2: OAuth2, path: KeyPath, findings: Findings) -> None:
    secrets = _given(oauth2, _CLIENT_SECRETS, path, findings)
    tokens = _given(oauth2, _REFRESH_TOKENS, path, findings)
    if findings.sound((*path, "grant")):
        if (
            oauth2.grant == "refresh_token"
            and not tokens
            and findings.sound(*((*path, key) for key in _REFRESH_TOKENS))
        ):
            findings.error((*path, "grant"), f"wants one of {', '.join(_REFRESH_TOKENS)}")
        elif oauth2.grant == "client_credentials" and tokens:
            findings.error((*path, tokens[-1]), 'is for grant = "refresh_token"')
        elif (
            oauth2.grant == "client_credentials"
            and not secrets
            and findings.sound(*((*path, key) for key in _CLIENT_SECRETS))
        ):
            findings.error((*path, "grant"), f"wants one of {', '.join(_CLIENT_SECRETS)}")
    if oauth2.ca is not None and findings.sound((*path, "ca")) and not os.access(oauth2.ca, os.R_OK):
        findings.error((*path, "ca"), f"{oauth2.ca} cannot be read", nearest_file(oauth2.ca))
    if findings.sound((*path, "token_url")):
        _check_url(config, oauth2.token_url, (*path, "token_url"), findings)


def _check_url(config: Config, url: str, path: KeyPath, findings: Findings) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in {"https", "http"} or parts.username is not None:
        findings.error(path, 'expected a URL such as "https://login.example.org/oauth2/token"')
        return
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if parts.scheme == "http" and not loopback:
        findings.error(path, "sends the client's secret over the network in plaintext; it begins with https://")
    if config.sandbox and not loopback:
        findings.error(path, f"{host} is not a loopback address, and this is a sandbox")


def _given(section: Auth | OAuth2, keys: tuple[str, ...], path: KeyPath, findings: Findings) -> list[str]:
    """Which of several ways to give one secret are used; more than one is an error, and so is a file without it."""
    given = [key for key in keys if getattr(section, key) is not None]
    if len(given) > 1:
        findings.error((*path, given[-1]), f"stands beside {given[0]}: one of the two is enough")
    for key in given:
        file = getattr(section, key)
        if not key.endswith("_file") or not findings.sound((*path, key)):
            continue
        try:
            read_secret_file(file)
            if os.stat(file).st_mode & _OTHERS_READ:
                findings.warn((*path, key), f"{file} can be read by every user of this machine")
        except OSError as error:
            findings.error((*path, key), f"{file} cannot be read: {error.strerror}", nearest_file(file))
        except ValueError as error:
            findings.error((*path, key), str(error))
    return given
