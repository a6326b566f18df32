"""Who may log in: where log-ins are looked for, and how long somebody may guess.

`[[credentials]]` in the order of the file, `[access]` once. config.check_access says which keys go with which kind."""

from typing import Annotated, Literal

from msgspec import Meta

from angarium.config.address import Network
from angarium.config.secret import Secret
from angarium.config.section import Section
from angarium.config.units import Count, Duration, FilePath, PositiveDuration

__all__ = ["ALL_MECHANISMS", "PASSWORD_MECHANISMS", "TOKEN_MECHANISMS", "Access", "Credentials", "Mechanism"]

Mechanism = Literal["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN", "EXTERNAL"]
ALL_MECHANISMS: tuple[Mechanism, ...] = (
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-256",
    "OAUTHBEARER",
    "XOAUTH2",
    "PLAIN",
    "LOGIN",
    "EXTERNAL",
)
PASSWORD_MECHANISMS: tuple[Mechanism, ...] = ("PLAIN", "LOGIN")
TOKEN_MECHANISMS: tuple[Mechanism, ...] = ("OAUTHBEARER", "XOAUTH2")


class Credentials(Section, frozen=True):
    """One place where log-ins are looked for. Which keys it takes depends on its kind."""

    kind: Literal["file", "dovecot", "http", "ldap", "oauth2"]
    file: FilePath | None = None  # kind file: what "angarium user" writes
    socket: FilePath | None = None  # kind dovecot: its auth-client socket
    service: str = "smtp"  # kind dovecot: the service name it is told
    url: str | None = None  # kinds http and ldap
    token: Secret | None = None  # kind http: sent as a Bearer token; of the three at most one
    token_file: FilePath | None = None
    token_env: str | None = None
    user_dn: str | None = None  # kind ldap: a template with {log_in}; or a search:
    base: str | None = None
    filter: str = "(uid={log_in})"
    bind_dn: str | None = None
    bind_password: Secret | None = None  # of the three at most one
    bind_password_file: FilePath | None = None
    bind_password_env: str | None = None
    introspection_url: str | None = None  # kind oauth2: RFC 7662; or keys of signed tokens:
    client_id: str | None = None
    client_secret: Secret | None = None  # of the three at most one
    client_secret_file: FilePath | None = None
    client_secret_env: str | None = None
    jwks_file: FilePath | None = None
    jwks_url: str | None = None
    issuer: str | None = None
    audience: str | None = None
    scope: str | None = None  # a token without it is refused
    log_in_claim: str = "email"
    ca: FilePath | None = None  # PEM, what the server's certificate must lead to; None: what the system trusts
    timeout_s: PositiveDuration = 5.0


class Access(Section, frozen=True):
    """How many log-ins are verified at a time, and what becomes of those who guess."""

    verifiers: Annotated[int, Meta(ge=1, le=64)] = 2  # threads
    waiting: Count = 1000  # log-ins that wait for a verifier; more are answered 454
    remember_s: Duration = 300.0  # that a log-in was right; 0: every one is verified
    delay_s: Duration = 1.0  # from the AUTH command to its 535, doubled with each failure
    longest_delay_s: Duration = 30.0
    address_failures: Count = 20  # of one client within the window; then it is banned
    log_in_failures: Count = 50  # of one log-in, whoever tries
    window_s: PositiveDuration = 3600.0
    ban_s: PositiveDuration = 900.0
    trusted_networks: tuple[Network, ...] = ()  # neither delayed nor banned
