"""The configuration as values: what every other module is given, frozen and complete.

One Struct for each table of the TOML file. The attribute is the key with its unit behind it: `idle_timeout = "5m"` is
`idle_timeout_s == 300.0`, `message_size = "50MB"` is `message_size_octets == 50_000_000`; keys without a unit have the
same name; `class_` is `class`. Defaults stand here and nowhere else; docs/configuration.md explains each key.

`angarium.config.load` makes a Config from a file. `dump` and `load_dump` carry one from the supervisor to its workers.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from angarium.config.address import SPECIAL_PURPOSE, DnsServer, ListenAddress, Network, Peer
from angarium.config.credentials import Access, Credentials, Mechanism
from angarium.config.fingerprint import CertificateName, Fingerprint
from angarium.config.next_hop import NextHop, NextHopKind
from angarium.config.permission import Permission
from angarium.config.secret import Secret
from angarium.config.section import Section, toml_key
from angarium.config.source import DEFAULT_SOURCE, Source, SourceMember, SourcePool
from angarium.config.units import Count, Duration, FilePath, MemoryBudget, PositiveDuration, Size, Unit
from angarium.mail.pattern import AddressPattern, SenderPattern, TextPattern

__all__ = [
    "DEFAULT_SOURCE",
    "DURABILITIES",
    "SENDMAIL",
    "AddressFamily",
    "Admin",
    "Auth",
    "Certificate",
    "Classes",
    "Config",
    "Delivery",
    "Dns",
    "Durability",
    "Events",
    "Facility",
    "HeaderCondition",
    "Hop",
    "Limits",
    "Listener",
    "MtaSts",
    "Node",
    "Notification",
    "OAuth2",
    "Permission",
    "Pipe",
    "Provider",
    "Queue",
    "Retry",
    "Route",
    "Section",
    "Sendmail",
    "Source",
    "SourceMember",
    "SourcePool",
    "Stream",
    "Tenant",
    "Timeouts",
    "Tls",
    "TlsReport",
    "TlsRule",
    "TlsSettings",
    "TlsVersion",
    "Verification",
    "dump",
    "load_dump",
    "toml_key",
]

Durability = Literal["fsync", "async", "memory"]
DURABILITIES: tuple[Durability, ...] = ("fsync", "async", "memory")  # the strongest first
TlsVersion = Literal["1.0", "1.1", "1.2", "1.3"]
SENDMAIL = "sendmail"  # the name of the listener that local users' mail comes in by
TlsLevel = Literal["opportunistic", "none", "require", "verify", "dane", "fingerprint"]


class Node(Section, frozen=True):
    """The machine's name in the mail, its spool, and who runs it."""

    hostname: str
    spool: FilePath
    workers: Annotated[int, Meta(ge=1, le=256)] | Literal["auto"] = "auto"
    user: str | None = None
    group: str | None = None
    hang_timeout_s: Duration = 30.0  # then a process whose loop does not turn is killed; 0: never


class Admin(Section, frozen=True):
    """The HTTP side: API, metrics, console."""

    listen: ListenAddress = ListenAddress(host="127.0.0.1", port=8025)
    token_file: FilePath | None = None


class Tls(Section, frozen=True):
    """The node's certificate chain and its key, both PEM."""

    certificate: FilePath
    key: FilePath
    minimum: TlsVersion = "1.2"  # of the listeners; what next hops are spoken to with is another matter


class Certificate(Section, frozen=True):
    """A further certificate, for clients that ask for one of its names (SNI)."""

    certificate: FilePath
    key: FilePath
    names: tuple[str, ...] = ()  # "*.example.org" is one label; empty: those of the certificate


Facility = Literal[
    "kern",
    "user",
    "mail",
    "daemon",
    "auth",
    "syslog",
    "lpr",
    "news",
    "uucp",
    "cron",
    "authpriv",
    "ftp",
    "local0",
    "local1",
    "local2",
    "local3",
    "local4",
    "local5",
    "local6",
    "local7",
]  # RFC 5424 §6.2.1


class Events(Section, frozen=True):
    """The event log: where it goes, and what is kept of its files. Of sizes and times of files 0 is no bound."""

    to: Literal["file", "syslog", "journald"] = "file"
    file: FilePath | None = None  # None: no log; with another `to`, a file in the spool that is kept until it is sent
    flush_interval_s: PositiveDuration = 0.25
    rotate_size_octets: Annotated[Size, Meta(ge=0, le=1 << 40)] = 100_000_000
    rotate_every_s: Duration = 86400.0
    compression: Literal["zstd", "gzip", "none"] = "zstd"
    keep_size_octets: Annotated[Size, Meta(ge=0, le=1 << 50)] = 10_000_000_000  # of rotated files
    keep_s: Duration = 30 * 86400.0
    keep_unsent_octets: Annotated[Size, Meta(ge=0, le=1 << 50)] = 10_000_000_000  # of those a stream has not sent yet
    syslog: str = "unix:/dev/log"
    facility: Facility = "mail"


class Trace(Section, frozen=True):
    """What was said with next hops, kept for `angarium trace`."""

    dialogues: Literal["failures", "all", "none"] = "failures"
    keep_s: Duration = 86400.0  # 0: as long as there is room
    size_octets: Annotated[Size, Meta(ge=1 << 20, le=1 << 40)] = 256_000_000  # of the node


class Stream(Section, frozen=True, kw_only=True):
    """Events on their way to another system, at least once each and in their order."""

    name: str
    url: str  # https: and http: a webhook; kafka:, nats:, redis:, otlp+https:
    user: str | None = None  # of a log-in; its password is the secret
    secret: Secret | None = None  # of the three at most one; of a webhook, the key of its signature
    secret_file: FilePath | None = None
    secret_env: str | None = None
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"  # SASL, of Kafka
    ca: FilePath | None = None  # PEM, what the other side's certificate must lead to; None: what the system trusts
    certificate: FilePath | None = None  # what this relay shows, PEM, and its key
    key: FilePath | None = None
    events: tuple[str, ...] = ()  # empty: all
    tenants: tuple[str, ...] = ()  # empty: all, and those of none
    start: Literal["now", "oldest"] = "now"  # of a stream that has not run before
    batch_events: Annotated[int, Meta(ge=1, le=10_000)] = 500
    batch_size_octets: Annotated[Size, Meta(ge=1024, le=64 << 20)] = 1_000_000
    batch_wait_s: Duration = 1.0
    timeout_s: PositiveDuration = 30.0
    retry_first_s: PositiveDuration = 1.0
    retry_longest_s: PositiveDuration = 300.0
    give_up_s: PositiveDuration = 86400.0  # then a batch is a dead letter
    dead_letter_size_octets: Annotated[Size, Meta(ge=0, le=1 << 40)] = 100_000_000
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0  # OpenTelemetry: the share of messages that are traced
    sample_failures: bool = True  # and all that fail


class Dns(Section, frozen=True):
    """Whom to ask. No servers: those of the system."""

    servers: tuple[DnsServer, ...] = ()
    dnssec: Literal["trust-ad", "off"] = "off"


class Limits(Section, frozen=True):
    """What one client, one session, one message may ask for (RFC 5321 §4.5.3)."""

    connections: Count = 10_000  # of the node
    connections_per_client: Count = 1000
    commands_per_second: Count = 1000  # of one session
    transactions: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0  # of one session; 0: no limit
    recipients: Annotated[int, Meta(ge=1, le=65535)] = 1000  # of one message; at least 100, §4.5.3.1.8
    message_size_octets: Annotated[Size, Meta(ge=1, le=2_000_000_000)] = 50_000_000
    header_size_octets: Annotated[Size, Meta(ge=1000, le=2_000_000_000)] = 256_000
    command_line_octets: Annotated[Size, Meta(ge=512, le=65536)] = 2048  # at least 512, §4.5.3.1.4
    hops: Count = 100  # §6.3
    errors: Count = 20  # of one session
    idle_timeout_s: PositiveDuration = 300.0  # §4.5.3.2.7
    data_timeout_s: PositiveDuration = 3600.0  # from the start of one message's data to its end
    future_release_s: Duration = 7 * 86400.0  # the longest hold a client may ask for (RFC 4865); 0: not offered


Priority = Annotated[int, Meta(ge=-9, le=9)]  # RFC 6710 §3.1


class Tenant(Section, frozen=True):
    """Whose mail it is: what shares and classes it has. None: as the listener says."""

    name: str
    networks: tuple[Network, ...] = ()
    class_: Literal["transactional", "bulk"] = "transactional"
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1  # share of a busy next hop, against that of the other tenants
    durability: Durability | None = None
    durability_floor: Durability | None = None
    durability_ceiling: Durability | None = None
    highest_priority: Priority | None = None
    source_pool: str | None = None  # None: as the route says


class Verification(Section, frozen=True):
    """How the mailbox host is asked whether it takes mail for a recipient, and how long its answers are kept."""

    keep_known_s: Duration = 2 * 3600.0
    keep_unknown_s: Duration = 300.0
    entries: Annotated[int, Meta(ge=1, le=10_000_000)] = 50_000  # answers kept
    timeout_s: PositiveDuration = 10.0  # for one question
    connections: Annotated[int, Meta(ge=1, le=1000)] = 5  # of the node to the mailbox host, for questions
    unreachable: Literal["defer", "accept"] = "defer"  # a recipient of whom it cannot be asked: 451 4.4.3, or 250


class Listener(Section, frozen=True):
    """One address on which SMTP or LMTP is spoken."""

    name: str
    listen: ListenAddress
    role: Literal["relay", "submission", "inbound"]
    tls: Literal["none", "starttls", "implicit"] = "none"  # the loader: starttls when there is a [tls] section
    tls_minimum: TlsVersion | None = None  # None: tls.minimum
    client_ca: FilePath | None = None  # PEM; clients are asked for a certificate that leads here
    relay_certificates: tuple[CertificateName, ...] = ()  # those that may relay, by name or fingerprint
    proxy_networks: tuple[Peer, ...] = ()  # from where the header of the PROXY protocol is required
    xclient_networks: tuple[Peer, ...] = ()  # to whom XCLIENT is offered
    socket_mode: str = "0660"  # of a Unix socket
    socket_group: str | None = None  # None: node.group, else that of the relay's user
    protocol: Literal["smtp", "lmtp"] = "smtp"  # lmtp: RFC 2033, a reply for each recipient
    domains: tuple[AddressPattern, ...] = ()  # inbound: whose mail is taken from everybody
    verify_recipients: Literal["none", "list", "call-ahead"] = "none"  # of these domains
    recipient_file: FilePath | None = None  # list: who there is
    recipient_delimiter: str | None = None  # list: behind any of these characters a local part has only a detail
    call_ahead: NextHop | None = None  # call-ahead: the mailbox host
    verification: Verification = field(default_factory=Verification)
    auth: Literal["none", "any"] = "none"  # any: every log-in is accepted; in the sandbox only
    mechanisms: tuple[Mechanism, ...] = ()  # AUTH; empty: on a submission listener, all that the credentials allow
    relay_networks: tuple[Network, ...] = ()
    allow_open_relay: bool = False
    tenant: str | None = None  # of the clients that are in no tenant's networks
    durability: Durability | None = None  # None: the queue's
    durability_floor: Durability | None = None  # the weakest class a message may ask for; None: the class itself
    durability_ceiling: Durability | None = None  # the strongest; None: fsync
    mt_priority: bool = True  # RFC 6710 is offered
    priority_profile: str | None = None  # its priority assignment policy, named in EHLO
    highest_priority: Priority = 9
    bare_newline: Literal["refuse", "repair"] = "refuse"
    repair_networks: tuple[Network, ...] = ()  # the legacy clients whose bare CR and LF are repaired
    limits: Limits | None = None  # None: the node's; never partial, the loader fills what is not set from the node's


class Sendmail(Section, frozen=True):
    """How mail of this machine's own users and programs comes in: `angarium-sendmail`."""

    socket: FilePath = "/run/angarium/sendmail.sock"
    drop: FilePath = "/var/spool/angarium-drop"  # for what comes while the relay is down
    tenant: str | None = None


class Retry(Section, frozen=True):
    """When a deferred message is tried again: first, first*factor, first*factor², … up to longest, until it expires."""

    first_s: PositiveDuration = 60.0
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    longest_s: PositiveDuration = 4 * 3600.0
    expire_s: PositiveDuration = 5 * 86400.0
    warn_after_s: Duration = 4 * 3600.0  # 0: never
    jitter: Annotated[float, Meta(ge=0, le=0.5)] = 0.1  # share of each interval by which it is made longer or shorter


class Queue(Section, frozen=True):
    """How safe, how large, how patient."""

    durability: Durability = "fsync"
    sync_interval_s: PositiveDuration = 1.0  # class async: the longest time between 250 and the disk
    shards: Annotated[int, Meta(ge=1, le=256)] | Literal["auto"] = "auto"
    memory_budget: MemoryBudget = MemoryBudget(percent=25.0)
    memory_soft_mark: Annotated[float, Meta(gt=0, le=1)] = 0.5  # share of the budget: data of what waits is dropped
    memory_hard_mark: Annotated[float, Meta(gt=0, le=1)] = 0.85  # intake is slowed
    segment_size_octets: Annotated[Size, Meta(ge=1 << 20, le=1 << 32)] = 64_000_000
    compaction_rate_octets: Annotated[Size, Meta(ge=1 << 16, le=1 << 40)] = 16_000_000  # a second, of each worker
    in_doubt: Literal["resend", "hold", "fail"] = "resend"  # what becomes of mail whose final reply was not seen
    retry: Retry = field(default_factory=Retry)


class Timeouts(Section, frozen=True):
    """How long the client side waits for the next host (RFC 5321 §4.5.3.2)."""

    connect_s: PositiveDuration = 30.0
    greeting_s: PositiveDuration = 300.0  # §4.5.3.2.1
    ehlo_s: PositiveDuration = 300.0
    mail_s: PositiveDuration = 300.0  # §4.5.3.2.2
    rcpt_s: PositiveDuration = 300.0  # §4.5.3.2.3
    data_s: PositiveDuration = 120.0  # §4.5.3.2.4
    block_s: PositiveDuration = 180.0  # §4.5.3.2.5
    final_s: PositiveDuration = 600.0  # §4.5.3.2.6


AddressFamily = Literal["ipv6-first", "ipv4-first", "ipv6-only", "ipv4-only"]


class Delivery(Section, frozen=True):
    """Connections to next hops."""

    connections_per_host: Count = 20
    messages_per_connection: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0  # 0: no limit
    idle_s: PositiveDuration = 30.0
    lifetime_s: PositiveDuration = 600.0
    bdat: Literal["auto", "never"] = "auto"
    tls: TlsLevel = "opportunistic"
    address_family: AddressFamily = "ipv6-first"
    never_contact: tuple[Network, ...] = (
        SPECIAL_PURPOSE  # by MX; a host that a route names is the operator's own choice
    )
    own_addresses: tuple[Network, ...] = ()  # that lead to this relay and that it cannot see itself
    timeouts: Timeouts = field(default_factory=Timeouts)


class Hop(Section, frozen=True):
    """One of several next hops of a route: those of the lowest priority first, in shares by weight."""

    to: NextHop
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    priority: Annotated[int, Meta(ge=0, le=65535)] = 0


class HeaderCondition(Struct, frozen=True):
    """A field of the header section, by name (no case), and what its value is to be (no case either)."""

    name: str
    value: TextPattern


class Pipe(Section, frozen=True):
    """Who the program of a `pipe:` next hop runs as, and what it may take. Memory and time are of each process."""

    user: str | None = None  # None: whoever the relay runs as, unless that is root
    timeout_s: PositiveDuration = 300.0
    cpu_s: PositiveDuration = 60.0
    memory_octets: Annotated[Size, Meta(ge=1 << 20, le=1 << 50)] = 1_000_000_000
    output_octets: Annotated[Size, Meta(ge=0, le=1 << 20)] = 16_384  # that is kept of what it says


class OAuth2(Section, frozen=True):
    """Where the access tokens of a log-in come from (RFC 6749 §4.4, §6)."""

    token_url: str
    client_id: str
    grant: Literal["client_credentials", "refresh_token"] = "client_credentials"
    client_secret: Secret | None = None  # of the three at most one
    client_secret_file: FilePath | None = None
    client_secret_env: str | None = None
    refresh_token: Secret | None = None  # of the three one, with the grant of that name
    refresh_token_file: FilePath | None = None
    refresh_token_env: str | None = None
    scope: str | None = None
    ca: FilePath | None = None  # PEM, what the token host's certificate must lead to; None: what the system trusts
    timeout_s: PositiveDuration = 30.0


class Auth(Section, frozen=True):
    """How this relay logs in at the next hosts of a route."""

    user: str
    mechanism: Literal["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"] | None = None  # None: the strongest
    password: Secret | None = None  # of the three and oauth2 one
    password_file: FilePath | None = None
    password_env: str | None = None
    oauth2: OAuth2 | None = None
    plaintext: bool = False  # also where the connection has no TLS


class TlsSettings(Section, frozen=True):
    """The TLS to some next hops, where it is another than that of `delivery.tls`. None: it is not."""

    tls: TlsLevel | None = None
    tls_name: str | None = None  # what the certificate must be for; None: the host's name
    tls_ca: FilePath | None = None  # PEM, what `verify` trusts; None: the system's
    tls_certificate: FilePath | None = None  # what this relay shows, PEM, and its key
    tls_key: FilePath | None = None
    tls_fingerprints: tuple[Fingerprint, ...] = ()  # of certificates or public keys


class TlsRule(TlsSettings, frozen=True, kw_only=True):
    """The TLS to the mail hosts of some domains; the first that matches holds."""

    domains: tuple[AddressPattern, ...]


class Route(TlsSettings, frozen=True, kw_only=True):
    """Which mail goes where; the first route all of whose conditions hold wins, and the last resort is by MX."""

    recipients: tuple[AddressPattern, ...]
    next_hop: NextHop | tuple[Hop, ...]
    name: str | None = None
    senders: tuple[SenderPattern, ...] = ()  # of this and what follows, empty: no condition
    tenants: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()
    log_ins: tuple[TextPattern, ...] = ()
    headers: tuple[HeaderCondition, ...] = ()  # all of them
    connections: Count | None = None  # None: delivery.connections_per_host
    messages_per_connection: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None  # None: as in [delivery]
    idle_s: PositiveDuration | None = None
    message_size_octets: Annotated[Size, Meta(ge=1, le=2_000_000_000)] | None = None  # None: no limit of its own
    timeouts: Timeouts | None = None  # None: delivery.timeouts; never partial, the loader fills what is not set
    delivered_to: bool = True  # LMTP: a transaction and a Delivered-To for each recipient; else one for all of them
    auth: Auth | None = None
    source_pool: str | None = None  # of mail that has none by its permission or tenant; None: the system's choice
    retry: Retry | None = None  # None: the queue's; never partial, the loader fills what is not set from the queue's
    pipe: Pipe = field(default_factory=Pipe)

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The next hops, one or several."""
        return (Hop(to=self.next_hop),) if isinstance(self.next_hop, NextHop) else self.next_hop

    @property
    def kind(self) -> NextHopKind:
        """Of its next hops; where there are several, the first's."""
        return self.hops[0].to.kind

    @property
    def conditional(self) -> bool:
        """Whether more than the recipient decides."""
        return bool(self.senders or self.tenants or self.listeners or self.log_ins or self.headers)

    @property
    def way(self) -> "Route":
        """What it says of the way, without what it says of who takes it: routes with equal ways share connections."""
        return msgspec.structs.replace(
            self,
            recipients=(),
            name=None,
            senders=(),
            tenants=(),
            listeners=(),
            log_ins=(),
            headers=(),
            source_pool=None,  # ready queues are kept apart by source, whatever the pool
            retry=None,
        )


class Provider(Section, frozen=True):
    """Whom some domains' mail hosts belong to, in metrics; the first that matches holds."""

    name: str
    domains: tuple[AddressPattern, ...] = ()
    mail_hosts: tuple[AddressPattern, ...] = ()  # patterns of names: of the hosts that MX records or a route name


class Classes(Struct, frozen=True):
    """The durability class of mail that asks for none, and the weakest and strongest it may ask for."""

    own: Durability
    floor: Durability
    ceiling: Durability

    @property
    def ordered(self) -> bool:
        """Whether the class stands between the two."""
        strength = DURABILITIES.index
        return strength(self.ceiling) <= strength(self.own) <= strength(self.floor)


class Notification(Section, frozen=True):
    """What senders are told of their mail, and in which words."""

    templates: FilePath | None = None  # folder of LANGUAGE.toml; None: the texts that come with the relay
    languages: tuple[str, ...] = ("en",)  # one after the other; the first gives the subject
    original_size_octets: Annotated[Size, Meta(ge=0, le=50_000_000)] = 50_000  # of what is returned whole


class MtaSts(Section, frozen=True):
    """What domains ask for by MTA-STS (RFC 8461). Never in a sandbox."""

    enabled: bool = True
    ca_file: FilePath | None = None  # that vouch for policy files, and where reports go by HTTPS; None: the system's
    port: Annotated[int, Meta(ge=1, le=65535)] = 443  # of policy files; another one is for tests


class TlsReport(Section, frozen=True):
    """Reports of TLS results to the domains that ask for them (RFC 8460). Never in a sandbox."""

    enabled: bool = True
    organization: str | None = None  # None: node.hostname
    contact: str | None = None  # None: postmaster at node.hostname
    delay_s: Annotated[float, Meta(ge=0, le=82800), Unit.DURATION] = 4 * 3600.0  # over which reports are spread
    keep_s: Annotated[float, Meta(ge=2 * 86400), Unit.DURATION] = 14 * 86400.0

    def contact_of(self, node: Node) -> str:
        """The address that reports come from."""
        return self.contact or f"postmaster@{node.hostname}"


class Config(Section, frozen=True):
    """Everything."""

    node: Node
    listener: tuple[Listener, ...]
    admin: Admin = field(default_factory=Admin)
    tls: Tls | None = None
    certificate: tuple[Certificate, ...] = ()
    events: Events = field(default_factory=Events)
    dns: Dns = field(default_factory=Dns)
    limits: Limits = field(default_factory=Limits)
    queue: Queue = field(default_factory=Queue)
    delivery: Delivery = field(default_factory=Delivery)
    tenant: tuple[Tenant, ...] = ()
    source: tuple[Source, ...] = ()
    source_pool: tuple[SourcePool, ...] = ()
    route: tuple[Route, ...] = ()
    tls_policy: tuple[TlsRule, ...] = ()
    provider: tuple[Provider, ...] = ()
    permission: tuple[Permission, ...] = ()
    notification: Notification = field(default_factory=Notification)
    mta_sts: MtaSts = field(default_factory=MtaSts)
    tls_report: TlsReport = field(default_factory=TlsReport)
    credentials: tuple[Credentials, ...] = ()
    access: Access = field(default_factory=Access)
    sendmail: Sendmail | None = None  # None: no mail comes in this way
    stream: tuple[Stream, ...] = ()
    trace: Trace = field(default_factory=Trace)
    sandbox: bool = False  # nothing may leave the machine

    @property
    def event_file(self) -> str | None:
        """Where events are written; None: nowhere. What goes elsewhere is in a file of the spool until it is sent."""
        if self.events.file is None and self.events.to != "file":
            return f"{self.node.spool}/events/events.jsonl"
        return self.events.file

    @property
    def sendmail_listener(self) -> Listener | None:
        """What `angarium-sendmail` speaks to, as a listener: in routes and events it has the name "sendmail"."""
        if self.sendmail is None:
            return None
        return Listener(
            name=SENDMAIL,
            listen=ListenAddress(path=self.sendmail.socket),
            role="relay",
            tenant=self.sendmail.tenant,
        )

    def limits_of(self, listener: Listener) -> Limits:
        """What holds on this listener."""
        return self.limits if listener.limits is None else listener.limits

    def durability_of(self, listener: Listener) -> Durability:
        """The class of what this listener accepts."""
        return listener.durability or self.queue.durability

    def tenant_named(self, name: str | None) -> Tenant | None:
        """The tenant of that name; None when there is none."""
        return next((tenant for tenant in self.tenant if tenant.name == name), None)

    def classes_of(self, listener: Listener, tenant: Tenant | None) -> Classes:
        """The durability classes of a tenant's mail on this listener: what the tenant does not say, the listener does.

        A class that the tenant or the listener sets is the weakest that its messages may ask for, unless a floor is
        set beside it.
        """
        own = self.durability_of(listener)
        floor = listener.durability_floor or own
        ceiling = listener.durability_ceiling or "fsync"
        if tenant is not None:
            if tenant.durability is not None:
                own = floor = tenant.durability
            floor = tenant.durability_floor or floor
            ceiling = tenant.durability_ceiling or ceiling
        return Classes(own=own, floor=floor, ceiling=ceiling)


def dump(config: Config) -> bytes:
    """The whole configuration in a form that load_dump reads back to an equal value."""
    return msgspec.msgpack.encode(config)


def load_dump(octets: bytes) -> Config:
    """The configuration from what dump made; msgspec.DecodeError or ValidationError when it is something else."""
    return msgspec.msgpack.decode(octets, type=Config)
