"""What is counted where clients connect and hand over mail."""

from __future__ import annotations

from angarium._core.counters import Slot
from angarium.outcome.metrics.model import MetricSpec, counter, gauge, histogram

__all__ = ["INGRESS"]

INGRESS: tuple[MetricSpec, ...] = (
    # ingress: connections
    gauge("ingress_open_connections", Slot.INGRESS_CONNECTIONS, "Client connections that are open."),
    counter("ingress_connections_total", Slot.INGRESS_CONNECTIONS_TOTAL, "Client connections accepted."),
    counter(
        "ingress_refused_connections_total",
        {"node": Slot.INGRESS_REFUSED_NODE, "client": Slot.INGRESS_REFUSED_CLIENT},
        "Connections answered 421 at once, by the limit that was reached: the node's or the client's own.",
        "limit",
    ),
    counter(
        "ingress_client_table_full_total",
        Slot.INGRESS_CLIENT_TABLE_FULL,
        "Connections whose client found no place in the table of clients, and so shared one limit with others like it.",
    ),
    counter(
        "ingress_tls_handshakes_total",
        {"ok": Slot.INGRESS_TLS_HANDSHAKES, "failed": Slot.INGRESS_TLS_FAILURES},
        "TLS handshakes with clients.",
        "result",
    ),
    counter(
        "ingress_proxy_headers_total",
        {
            "client": Slot.INGRESS_PROXY_CLIENT,
            "own": Slot.INGRESS_PROXY_OWN,
            "malformed": Slot.INGRESS_PROXY_MALFORMED,
            "too_long": Slot.INGRESS_PROXY_TOO_LONG,
            "timeout": Slot.INGRESS_PROXY_TIMEOUT,
            "lost": Slot.INGRESS_PROXY_LOST,
        },
        "Connections from proxies by the header of the PROXY protocol: it names a client or the proxy itself, or there "
        "is none that can be used and the connection was closed.",
        "result",
    ),
    counter(
        "ingress_xclient_total",
        {"taken": Slot.INGRESS_XCLIENT, "refused": Slot.INGRESS_XCLIENT_REFUSED},
        "XCLIENT commands of hosts to whom it is offered.",
        "result",
    ),
    counter(
        "ingress_client_certificates_total",
        {"relays": Slot.INGRESS_CERTIFICATE_RELAYS, "other": Slot.INGRESS_CERTIFICATE_OTHER},
        "Verified certificates of clients: named in relay_certificates, or not.",
        "named",
    ),
    counter(
        "ingress_certificate_reads_total",
        {"ok": Slot.INGRESS_CERTIFICATES_LOADED, "failed": Slot.INGRESS_CERTIFICATES_REFUSED},
        "Times a process read its own certificates again because their files had changed.",
        "result",
    ),
    gauge(
        "ingress_certificate_expiry_seconds",
        Slot.INGRESS_CERTIFICATE_LEFT,
        "Until the first of the relay's own certificates ends; 0 without [tls], and when one has ended.",
    ),
    counter(
        "ingress_authentications_total",
        {
            "ok": Slot.INGRESS_AUTH_OK,
            "failed": Slot.INGRESS_AUTH_FAILED,
            "banned": Slot.INGRESS_AUTH_BANNED,
            "unavailable": Slot.INGRESS_AUTH_UNAVAILABLE,
        },
        "AUTH commands by result: right, wrong, not looked at because the client or the log-in is banned, or nobody "
        "could say.",
        "result",
    ),
    counter(
        "ingress_verifications_total",
        {
            "accepted": Slot.INGRESS_VERIFIED_ACCEPTED,
            "refused": Slot.INGRESS_VERIFIED_REFUSED,
            "unavailable": Slot.INGRESS_VERIFIED_UNAVAILABLE,
            "remembered": Slot.INGRESS_VERIFIED_REMEMBERED,
        },
        "Log-ins by what back ends said of them; nobody could look at them, or they were answered from memory.",
        "result",
    ),
    counter(
        "ingress_delayed_log_ins_total", Slot.INGRESS_DELAYED_LOG_INS, "Failed log-ins whose answer was held back."
    ),
    gauge(
        "ingress_banned",
        {"address": Slot.INGRESS_BANNED_ADDRESSES, "log_in": Slot.INGRESS_BANNED_LOG_INS},
        "Clients and log-ins whose AUTH is not looked at for a time, because too many have failed.",
        "of",
    ),
    counter(
        "ingress_bans_total",
        {"address": Slot.INGRESS_BANS_ADDRESS, "log_in": Slot.INGRESS_BANS_LOG_IN},
        "Bans that began, of clients and of log-ins.",
        "of",
    ),
    counter("ingress_lifted_bans_total", Slot.INGRESS_BANS_LIFTED, "Bans that an operator lifted."),
    # ingress: commands and replies
    counter("ingress_commands_total", Slot.INGRESS_COMMANDS_TOTAL, "SMTP commands received."),
    counter(
        "ingress_replies_total",
        {
            "2xx": Slot.INGRESS_REPLIES_2XX,
            "3xx": Slot.INGRESS_REPLIES_3XX,
            "4xx": Slot.INGRESS_REPLIES_4XX,
            "5xx": Slot.INGRESS_REPLIES_5XX,
        },
        "SMTP replies sent to clients, by the first digit of the reply code.",
        "class",
    ),
    counter(
        "ingress_throttled_total", Slot.INGRESS_THROTTLED, "Times a session had to wait for sending commands too fast."
    ),
    counter(
        "ingress_paced_total", Slot.INGRESS_PACED, "Times a session had to wait because memory was over its hard mark."
    ),
    # ingress: messages
    counter(
        "ingress_messages_total",
        {
            "fsync": Slot.INGRESS_MESSAGES_FSYNC,
            "async": Slot.INGRESS_MESSAGES_ASYNC,
            "memory": Slot.INGRESS_MESSAGES_MEMORY,
        },
        "Messages answered 250, by durability class.",
        "durability",
    ),
    counter("ingress_mail_data_bytes_total", Slot.INGRESS_OCTETS, "Octets of mail data answered 250."),
    counter(
        "ingress_rejections_total",
        {
            "relay": Slot.INGRESS_REJECTED_RELAY,
            "size": Slot.INGRESS_REJECTED_SIZE,
            "bare_newline": Slot.INGRESS_REJECTED_BARE_NEWLINE,
            "hops": Slot.INGRESS_REJECTED_HOPS,
            "syntax": Slot.INGRESS_REJECTED_SYNTAX,
            "recipients": Slot.INGRESS_REJECTED_RECIPIENTS,
            "errors": Slot.INGRESS_REJECTED_ERRORS,
            "idle": Slot.INGRESS_REJECTED_IDLE,
            "storage": Slot.INGRESS_REJECTED_STORAGE,
            "memory_full": Slot.INGRESS_REJECTED_MEMORY_FULL,
            "unknown_recipient": Slot.INGRESS_REJECTED_UNKNOWN,
            "unverified_recipient": Slot.INGRESS_REJECTED_UNVERIFIED,
            "sender": Slot.INGRESS_REJECTED_SENDER,
            "quota": Slot.INGRESS_REJECTED_QUOTA,
            "header": Slot.INGRESS_REJECTED_HEADER,
        },
        "Commands, messages and sessions turned away, by reason.",
        "reason",
    ),
    counter(
        "ingress_recipients_checked_total",
        {
            "known": Slot.INGRESS_CHECKED_KNOWN,
            "unknown": Slot.INGRESS_CHECKED_UNKNOWN,
            "deferred": Slot.INGRESS_CHECKED_DEFERRED,
            "unchecked": Slot.INGRESS_CHECKED_UNCHECKED,
        },
        "Recipients of the relay's own domains by what their verification came to; unchecked: accepted because the "
        "mailbox host could not be asked.",
        "result",
    ),
    counter(
        "ingress_recipient_lists_total",
        {"read": Slot.INGRESS_LISTS_READ, "failed": Slot.INGRESS_LISTS_FAILED},
        "Files of recipients read, by worker and change; failed: the recipients stay as they were.",
        "result",
    ),
    counter(
        "ingress_recipient_probes_total",
        {
            "known": Slot.INGRESS_PROBES_KNOWN,
            "unknown": Slot.INGRESS_PROBES_UNKNOWN,
            "failed": Slot.INGRESS_PROBES_FAILED,
            "spared": Slot.INGRESS_PROBES_SPARED,
            "stale": Slot.INGRESS_PROBES_STALE,
        },
        "Questions about recipients to mailbox hosts by what they said; spared: answered by what was known; stale: by "
        "what was right once, since the host could not be asked.",
        "result",
    ),
    # ingress: permissions
    counter(
        "ingress_fixed_up_messages_total",
        Slot.INGRESS_FIXED_UP,
        "Messages whose header section was completed, cleaned or rewritten.",
    ),
    counter(
        "ingress_over_quota_messages_total",
        Slot.INGRESS_OVER_QUOTA,
        "Messages accepted beyond their sender's limit, which go when it allows.",
    ),
    counter(
        "ingress_held_unusual_messages_total",
        Slot.INGRESS_HELD_UNUSUAL,
        "Messages accepted and held, because their sender sends unusually much.",
    ),
    counter(
        "ingress_unusual_senders_total",
        Slot.INGRESS_UNUSUAL_SENDERS,
        "Times a sender was found to send unusually much.",
    ),
    gauge("ingress_drop_waiting_files", Slot.INGRESS_DROP_WAITING, "Files in the drop folder when it was looked into."),
    counter(
        "ingress_drop_files_total",
        {
            "taken": Slot.INGRESS_DROP_TAKEN,
            "refused": Slot.INGRESS_DROP_REFUSED,
            "returned": Slot.INGRESS_DROP_RETURNED,
        },
        "Files of the drop folder: queued and removed, put aside for good, left because no mail could be taken then.",
        "result",
    ),
    histogram(
        "ingress_accept_latency_seconds",
        {
            "envelope": Slot.INGRESS_ACCEPT_ENVELOPE,
            "data": Slot.INGRESS_ACCEPT_DATA,
            "commit": Slot.INGRESS_COMMIT_LATENCY,
        },
        "The time of messages answered 250, by phase: from MAIL until the mail data began, until its end, until the "
        "250 was written.",
        "phase",
    ),
)
