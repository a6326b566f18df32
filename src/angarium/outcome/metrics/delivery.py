"""What is counted of attempts at next hops, of DNS, TLS and log-ins there."""

from __future__ import annotations

from angarium._core.counters import Slot
from angarium.outcome.metrics.model import MetricSpec, counter, gauge, histogram

__all__ = ["DELIVERY"]

DELIVERY: tuple[MetricSpec, ...] = (
    gauge("delivery_open_connections", Slot.DELIVERY_CONNECTIONS, "Connections to next hops that are open."),
    gauge("delivery_ready_messages", Slot.DELIVERY_READY, "Messages that may go now."),
    gauge("delivery_scheduled_messages", Slot.DELIVERY_SCHEDULED, "Messages that wait for their time."),
    gauge(
        "delivery_access_token_seconds",
        Slot.DELIVERY_TOKEN_LEFT,
        "Until the first of the access tokens for log-ins expires; 0 when one is needed and there is none.",
    ),
    counter("delivery_attempts_total", Slot.DELIVERY_ATTEMPTS, "Attempts to hand a message to a next hop."),
    counter(
        "delivery_recipients_total",
        {
            "delivered": Slot.DELIVERY_DELIVERED_RECIPIENTS,
            "deferred": Slot.DELIVERY_DEFERRED_RECIPIENTS,
            "failed": Slot.DELIVERY_FAILED_RECIPIENTS,
            "expired": Slot.DELIVERY_EXPIRED_RECIPIENTS,
        },
        "Recipients by what an attempt came to; one that is deferred counts again at its next attempt.",
        "result",
    ),
    counter(
        "delivery_delivered_messages_total",
        Slot.DELIVERY_DELIVERED_MESSAGES,
        "Messages of which all recipients were delivered.",
    ),
    counter("delivery_mail_data_bytes_total", Slot.DELIVERY_OCTETS, "Octets of mail data taken by next hops."),
    counter(
        "delivery_possible_duplicates_total",
        Slot.DELIVERY_DUPLICATES_POSSIBLE,
        "Messages sent again after a transaction whose final reply was not seen.",
    ),
    histogram(
        "delivery_latency_seconds",
        {
            "fsync": Slot.DELIVERY_LATENCY_FSYNC,
            "async": Slot.DELIVERY_LATENCY_ASYNC,
            "memory": Slot.DELIVERY_LATENCY_MEMORY,
        },
        "From the acceptance of a message until it was delivered, by durability class.",
        "durability",
    ),
    histogram(
        "delivery_attempt_seconds",
        {
            "dns": Slot.DELIVERY_ATTEMPT_DNS,
            "connect": Slot.DELIVERY_ATTEMPT_CONNECT,
            "greeting": Slot.DELIVERY_ATTEMPT_GREETING,
            "ehlo": Slot.DELIVERY_ATTEMPT_EHLO,
            "tls": Slot.DELIVERY_ATTEMPT_TLS,
            "auth": Slot.DELIVERY_ATTEMPT_AUTH,
            "mail": Slot.DELIVERY_ATTEMPT_MAIL,
            "rcpt": Slot.DELIVERY_ATTEMPT_RCPT,
            "data": Slot.DELIVERY_ATTEMPT_DATA,
            "final": Slot.DELIVERY_ATTEMPT_FINAL,
        },
        "The time of attempts by phase. The first six are of a look-up or a connection, not of each message; the "
        "others last until a reply was read, and where commands are pipelined the first of them has the wait.",
        "phase",
    ),
    counter(
        "delivery_replies_total",
        {
            "2xx": Slot.DELIVERY_REPLIES_2XX,
            "4xx": Slot.DELIVERY_REPLIES_4XX,
            "5xx": Slot.DELIVERY_REPLIES_5XX,
            "none": Slot.DELIVERY_REPLIES_NONE,
        },
        "What decided for a recipient in an attempt: the first digit of the reply, or none for want of one.",
        "class",
    ),
    counter(
        "delivery_connections_total",
        {
            "opened": Slot.DELIVERY_CONNECTIONS_OPENED,
            "reused": Slot.DELIVERY_CONNECTIONS_REUSED,
            "failed": Slot.DELIVERY_CONNECTIONS_FAILED,
        },
        "Connections leased for an attempt: newly opened, taken from the pool, or not to be had.",
        "result",
    ),
    counter(
        "delivery_tls_connections_total",
        {
            "plaintext": Slot.DELIVERY_TLS_PLAINTEXT,
            "encrypted": Slot.DELIVERY_TLS_ENCRYPTED,
            "webpki": Slot.DELIVERY_TLS_WEBPKI,
            "dane": Slot.DELIVERY_TLS_DANE,
            "fingerprint": Slot.DELIVERY_TLS_FINGERPRINT,
        },
        "Connections to next hops that were set up, by their TLS: none, with an unknown host, or with one that was "
        "authenticated so.",
        "level",
    ),
    counter(
        "delivery_tls_failures_total",
        {
            "starttls_not_supported": Slot.DELIVERY_TLS_NOT_SUPPORTED,
            "certificate_host_mismatch": Slot.DELIVERY_TLS_HOST_MISMATCH,
            "certificate_expired": Slot.DELIVERY_TLS_EXPIRED,
            "certificate_not_trusted": Slot.DELIVERY_TLS_NOT_TRUSTED,
            "validation_failure": Slot.DELIVERY_TLS_VALIDATION,
            "tlsa_invalid": Slot.DELIVERY_TLS_TLSA_INVALID,
            "dnssec_invalid": Slot.DELIVERY_TLS_DNSSEC_INVALID,
            "dane_required": Slot.DELIVERY_TLS_DANE_REQUIRED,
        },
        "Connections to next hops whose TLS was not what the policy asks for, by result type (RFC 8460 §4.3).",
        "reason",
    ),
    counter(
        "delivery_next_host_total",
        Slot.DELIVERY_NEXT_HOST,
        "Deliveries that went on to another host of their next hop after trouble with one in a session.",
    ),
    counter(
        "delivery_source_failures_total",
        Slot.DELIVERY_SOURCE_FAILURES,
        "Connections that were not opened, for their source cannot be bound or has no address of the host's family.",
    ),
    counter(
        "delivery_source_replaced_total",
        Slot.DELIVERY_SOURCE_REPLACED,
        "Ways of a domain's mail that were found by another source of the pool, for the one assigned cannot be used.",
    ),
    counter(
        "delivery_source_pool_missing_total",
        Slot.DELIVERY_SOURCE_POOL_MISSING,
        "Messages whose source pool the configuration does not have: they go as mail without a pool of its own.",
    ),
    counter(
        "delivery_access_token_requests_total",
        {
            "granted": Slot.DELIVERY_TOKENS_GRANTED,
            "refused": Slot.DELIVERY_TOKENS_REFUSED,
            "failed": Slot.DELIVERY_TOKENS_FAILED,
        },
        "Requests for OAuth2 access tokens: granted, refused by the token host, or not answered in a way to be read.",
        "result",
    ),
    counter("delivery_dns_queries_total", Slot.DELIVERY_DNS_QUERIES, "DNS queries sent."),
    counter("delivery_dns_cache_hits_total", Slot.DELIVERY_DNS_CACHE_HITS, "DNS questions answered from the cache."),
    counter("delivery_dns_failures_total", Slot.DELIVERY_DNS_FAILURES, "DNS queries without a usable answer."),
    counter(
        "delivery_dns_stale_answers_total",
        Slot.DELIVERY_DNS_STALE,
        "DNS questions answered with what was right once, because no server had an answer in time.",
    ),
    gauge("delivery_mta_sts_policies", Slot.DELIVERY_MTA_STS_POLICIES, "Policies of MTA-STS that are kept."),
    counter(
        "delivery_mta_sts_fetches_total",
        {
            "ok": Slot.DELIVERY_MTA_STS_FETCHED,
            "failed": Slot.DELIVERY_MTA_STS_FAILED,
            "kept": Slot.DELIVERY_MTA_STS_KEPT,
        },
        "Policy files of MTA-STS that were asked for: a policy came of it, none is known, or one known before goes on.",
        "result",
    ),
)
