"""The board for everybody: is mail coming in, is it going out, and if not, where does it stop."""

from __future__ import annotations

from .panel import Board, Panel, Row, Variable
from .query import Query, Scope

INSTANCE = Variable("instance", "Node", "label_values(angarium_queue_messages, instance)")
ALL = Scope((("instance", "$instance"),))
GREEN_AMBER_RED = "green", "yellow", "red"


def limits(amber: float, red: float) -> tuple[tuple[float | None, str], ...]:
    """Green, from `amber` on yellow, from `red` on red."""
    return (None, "green"), (amber, "yellow"), (red, "red")


NONE_IS_GOOD: tuple[tuple[float | None, str], ...] = ((None, "green"), (1, "red"))

accepted = ALL.rate("ingress_messages_total")
delivered = ALL.rate("delivery_recipients_total", result="delivered")
attempted = ALL.rate("delivery_recipients_total")
deferred = ALL.rate("delivery_recipients_total", result="deferred")
failed = ALL.rate("delivery_recipients_total", result=("failed", "expired"))
FEW = "too few"  # results to make a share of
LEAST = 20


def share_within(window: str, *wanted: str) -> Query:
    """Share of the results of a window, as the alerts look at it."""
    within = ALL.within(window)
    part = within.rate("delivery_recipients_total", result=wanted)
    return part.over(within.rate("delivery_recipients_total")).when(within.increase("delivery_recipients_total"), LEAST)


GOLDEN = Row(
    "Golden signals",
    (
        Panel(
            "Workers that answer",
            (ALL.level("process_up", process="worker-.*"),),
            "stat",
            4,
            4,
            limits=((None, "red"), (1, "green")),
            decimals=0,
            text="Worker processes that answered at the last scrape. 0: no mail is taken.",
        ),
        Panel("Accepted", (accepted,), "stat", 4, 4, text="Messages answered 250, a second."),
        Panel("Delivered", (delivered,), "stat", 4, 4, text="Recipients delivered, a second."),
        Panel(
            "Deferred",
            (share_within("15m", "deferred"),),
            "stat",
            4,
            4,
            limits=limits(0.1, 0.3),
            decimals=1,
            no_value=FEW,
            text='Share of the results of 15 minutes, of 20 or more, that say "later". From 30 % on '
            "AngariumDeferrals tells.",
        ),
        Panel(
            "Refused for good",
            (share_within("1h", "failed", "expired"),),
            "stat",
            4,
            4,
            limits=limits(0.05, 0.1),
            decimals=1,
            no_value=FEW,
            text="Share of the results of an hour, of 20 or more, that are final refusals, and of recipients given up. "
            "From 10 % on AngariumFailures tells.",
        ),
        Panel("Queued", (ALL.level("queue_messages"),), "stat", 4, 4),
        Panel(
            "In and out",
            (
                accepted.named("accepted"),
                delivered.named("delivered"),
                deferred.named("deferred"),
                failed.named("failed"),
            ),
            width=12,
            text="Messages accepted, and results by recipient, a second.",
        ),
        Panel(
            "Accepted until delivered",
            ALL.quantiles("delivery_latency_seconds"),
            width=12,
            exemplars=True,
            text="For mail that arrived. Mail that waits is not in it: see Age of what is queued. "
            "A diamond is one message; its link leads to the console.",
        ),
    ),
)

INTAKE = Row(
    "Intake",
    (
        Panel("Accepted by durability", (ALL.rate("ingress_messages_total", "durability"),), stacked=True),
        Panel(
            "End of data until 250",
            ALL.quantiles("ingress_accept_latency_seconds", phase="commit"),
            limits=((None, "transparent"), (0.5, "red")),
            exemplars=True,
            text="What a client waits for the disk.",
        ),
        Panel(
            "Turned away",
            (ALL.rate("ingress_rejections_total", "reason"),),
            text="By reason; a command, a message or a session each.",
        ),
        Panel("Replies to clients", (ALL.rate("ingress_replies_total", "class"),), width=6),
        Panel("Client connections", (ALL.level("ingress_open_connections").named("open"),), width=6),
        Panel(
            "New and refused connections",
            (
                ALL.rate("ingress_connections_total").named("opened"),
                ALL.rate("ingress_refused_connections_total", "limit").named("refused: {{limit}}"),
            ),
            width=6,
        ),
        Panel(
            "TLS and AUTH",
            (
                ALL.rate("ingress_tls_handshakes_total", "result").named("TLS {{result}}"),
                ALL.rate("ingress_authentications_total", "result").named("AUTH {{result}}"),
            ),
            width=6,
        ),
    ),
)

QUEUE = Row(
    "Queue",
    (
        Panel(
            "What messages wait for",
            (ALL.rate("queue_waited_seconds_total", "cause"),),
            stacked=True,
            unit="short",
            text="Messages that wait, by cause. backoff: a host said later; concurrency, connection: all connections "
            "to it are busy, or there is none; room: it takes less than is there; quota, held, suspended, release: it "
            "may not go yet.",
        ),
        Panel(
            "Age of what is queued",
            ALL.quantiles("queue_age_seconds"),
            text="Since messages that are queued now were accepted: half of them, nine in ten, 99 in a hundred are "
            "younger.",
        ),
        Panel(
            "Domains with the most waiting mail",
            (
                Query(
                    f"topk(10, {ALL.level('queue_top_domain_messages', 'domain').expr})",
                    "{{domain}}",
                    "short",
                    ("angarium_queue_top_domain_messages",),
                ),
            ),
            "bargauge",
        ),
        Panel(
            "Messages that wait",
            (
                ALL.level("delivery_ready_messages").named("ready"),
                ALL.level("delivery_scheduled_messages").named("scheduled"),
                ALL.level("queue_messages").named("all queued"),
            ),
        ),
        Panel(
            "Duration of fdatasync",
            ALL.quantiles("queue_sync_latency_seconds"),
            limits=((None, "transparent"), (0.5, "red")),
            text="One sync of a journal. Clients wait for it.",
        ),
        Panel(
            "Ledger",
            (
                ALL.rate("queue_ledger_recipients_total", "outcome"),
                ALL.rate("queue_ledger_dropped_recipients_total", "reason").named("dropped: {{reason}}"),
            ),
            text="Recipients accepted and how it ended for them, a second, from the journal itself.",
        ),
    ),
)

TO_PROVIDER = (
    "This provider",
    "/d/angarium-provider?var-provider=${__field.labels.provider}&${instance:queryparam}&${__url_time_range}",
)

DELIVERY = Row(
    "Delivery by provider",
    (
        Panel(
            "Delivered by provider",
            (ALL.rate("provider_recipients_total", "provider", result="delivered"),),
            stacked=True,
            link=TO_PROVIDER,
            text="Recipients delivered, a second, by provider.",
        ),
        Panel(
            "Share that is deferred",
            (
                ALL.rate("provider_recipients_total", "provider", result="deferred").over(
                    ALL.rate("provider_recipients_total", "provider"), "{{provider}}"
                ),
            ),
            bounds=(0, 1),
            link=TO_PROVIDER,
            text="Of the results of attempts, by provider.",
        ),
        Panel(
            "Waiting by provider", (ALL.level("provider_waiting_messages", "provider"),), stacked=True, link=TO_PROVIDER
        ),
        Panel(
            "Domains that defer the most",
            (
                Query(
                    f"topk(10, {ALL.level('delivery_top_domain_deferred_recipients', 'domain').expr})",
                    "{{domain}}",
                    "short",
                    ("angarium_delivery_top_domain_deferred_recipients",),
                ),
            ),
            "bargauge",
        ),
        Panel("Results of attempts", (ALL.rate("delivery_recipients_total", "result"),), stacked=True),
        Panel(
            "Deferred and failed",
            (deferred.over(attempted, "deferred"), failed.over(attempted, "failed")),
            bounds=(0, 1),
        ),
    ),
)

EGRESS = Row(
    "Egress and reputation",
    (
        Panel("Replies that decided", (ALL.rate("delivery_replies_total", "class"),), width=6, stacked=True),
        Panel(
            "Where the time of an attempt goes",
            (ALL.quantile(0.9, "delivery_attempt_seconds", "phase", "{{phase}}"),),
            width=6,
            text="p90 of each phase of an attempt. dns to auth are of connections, mail to final of messages.",
        ),
        Panel("Connections to next hops", (ALL.level("delivery_open_connections").named("open"),), width=6),
        Panel("Connections by result", (ALL.rate("delivery_connections_total", "result"),), width=6),
        Panel(
            "Delivered by source",
            (ALL.rate("source_recipients_total", "source", result="delivered"),),
            width=6,
            stacked=True,
            text="Recipients delivered, a second, by the address that their mail left from.",
        ),
        Panel(
            "Share deferred by source",
            (
                ALL.rate("source_recipients_total", "source", result="deferred").over(
                    ALL.rate("source_recipients_total", "source"), "{{source}}"
                ),
            ),
            width=6,
            bounds=(0, 1),
            text="Of the results of attempts. One address far above the others has lost its good name.",
        ),
        Panel(
            "Share refused by source",
            (
                ALL.rate("source_replies_total", "source", **{"class": "5xx"}).over(
                    ALL.rate("source_replies_total", "source"), "{{source}}"
                ),
            ),
            width=6,
            bounds=(0, 1),
            text="Of the replies that decided, those that refuse for good. A block list shows here first.",
        ),
        Panel(
            "Connections by source",
            (
                ALL.rate("source_connections_total", "source", result="opened").named("opened: {{source}}"),
                ALL.rate("source_connections_total", "source", result="failed").named("failed: {{source}}"),
            ),
            width=6,
        ),
        Panel("Attempts by source", (ALL.rate("source_attempts_total", "source"),)),
        Panel(
            "Results by pool", (ALL.rate("pool_recipients_total", ("pool", "result")).named("{{pool}}: {{result}}"),)
        ),
        Panel(
            "Sources that cannot be used",
            (
                ALL.rate("delivery_source_failures_total").named("connections not opened"),
                ALL.rate("delivery_source_replaced_total").named("another source taken"),
                ALL.rate("delivery_source_pool_missing_total").named("pool missing"),
            ),
        ),
        Panel(
            "Notifications",
            (
                ALL.rate("outcome_notifications_total", "kind"),
                ALL.rate("outcome_double_bounces_total").named("double bounces"),
            ),
        ),
        Panel(
            "Given up and in doubt",
            (
                ALL.increase("queue_expired_messages_total").named("expired"),
                ALL.increase("queue_in_doubt_messages_total").named("in doubt"),
                ALL.increase("delivery_possible_duplicates_total").named("possible duplicates"),
            ),
        ),
        Panel(
            "Mail data",
            (
                ALL.rate("ingress_mail_data_bytes_total").named("in"),
                ALL.rate("delivery_mail_data_bytes_total").named("out"),
            ),
        ),
    ),
)

CONNECTIONS = Row(
    "TLS, DNS and log-ins of next hops",
    (
        Panel("TLS of connections to next hops", (ALL.rate("delivery_tls_connections_total", "level"),), stacked=True),
        Panel("TLS that was not what the policy asks for", (ALL.rate("delivery_tls_failures_total", "reason"),)),
        Panel(
            "DNS",
            (
                ALL.rate("delivery_dns_queries_total").named("queries"),
                ALL.rate("delivery_dns_cache_hits_total").named("cache hits"),
                ALL.rate("delivery_dns_failures_total").named("failures"),
                ALL.rate("delivery_dns_stale_answers_total").named("stale answers"),
            ),
        ),
        Panel(
            "MTA-STS",
            (ALL.rate("delivery_mta_sts_fetches_total", "result").named("fetches: {{result}}"),),
        ),
        Panel(
            "TLS reports",
            (
                ALL.rate("outcome_tls_results_total").named("results gathered"),
                ALL.rate("outcome_dropped_tls_results_total").named("results dropped"),
                ALL.rate("outcome_tls_reports_total", "result").named("reports {{result}}"),
            ),
        ),
        Panel("Access tokens", (ALL.rate("delivery_access_token_requests_total", "result"),)),
    ),
    collapsed=True,
)

RUNTIME = Row(
    "Runtime and storage",
    (
        Panel(
            "CPU",
            (ALL.rate("process_cpu_seconds_total", ("instance",)),),
            unit="short",
            text="Cores that all processes of a node use: 1 is a core. The node's board has them one by one.",
        ),
        Panel(
            "Event loop lag",
            (ALL.quantile(0.99, "worker_loop_lag_seconds"),),
            limits=((None, "transparent"), (0.2, "red")),
        ),
        Panel(
            "Octets",
            (
                ALL.level("queue_mail_data_bytes").named("mail data"),
                ALL.level("queue_memory_bytes").named("memory"),
                ALL.level("queue_journal_bytes").named("journal"),
            ),
        ),
    ),
)

BOARD = Board(
    "overview",
    "Angarium: overview",
    "Is mail coming in, is it going out, and if not, where does it stop.",
    (GOLDEN, INTAKE, QUEUE, DELIVERY, EGRESS, CONNECTIONS, RUNTIME),
    (INSTANCE,),
    links=(("Runbooks", "https://example.org/angarium/docs/runbooks.md"),),
)
