"""The board of the mail providers: who takes our mail, who says later, who refuses, and what waits for whom."""

from __future__ import annotations

from .overview import FEW, INSTANCE, LEAST, limits
from .panel import Board, Panel, Row, Variable
from .query import Query, Scope

HERE = Scope((("instance", "$instance"), ("provider", "$provider")))
PROVIDER = Variable(
    "provider", "Provider", 'label_values(angarium_provider_attempts_total{instance=~"$instance"}, provider)'
)

results = HERE.rate("provider_recipients_total")
by_provider = HERE.rate("provider_recipients_total", "provider")


def share(*wanted: str, by: str = "") -> Query:
    """The share of results that are among these."""
    part = HERE.rate("provider_recipients_total", by, result=wanted)
    return part.over(by_provider if by else results, "{{provider}}" if by else "")


SOON = HERE.within("15m")
ENOUGH = SOON.increase("provider_recipients_total")


def share_now(*wanted: str) -> Query:
    """The share among the results of 15 minutes."""
    part = SOON.rate("provider_recipients_total", result=wanted)
    return part.over(SOON.rate("provider_recipients_total")).when(ENOUGH, LEAST)


SIGNALS = Row(
    "At a glance",
    (
        Panel(
            "Delivered",
            (HERE.rate("provider_recipients_total", result="delivered"),),
            "stat",
            4,
            4,
            text="Recipients, a second.",
        ),
        Panel(
            "Deferred",
            (share_now("deferred"),),
            "stat",
            4,
            4,
            limits=limits(0.2, 0.5),
            decimals=1,
            no_value=FEW,
            text="Share of the results of 15 minutes, of 20 or more. From 50 % on AngariumProviderDeferrals tells.",
        ),
        Panel(
            "Refused for good",
            (share_now("failed", "expired"),),
            "stat",
            4,
            4,
            limits=limits(0.05, 0.2),
            decimals=1,
            no_value=FEW,
            text="Share of the results of 15 minutes, of 20 or more. From 20 % of an hour's on "
            "AngariumProviderRefusals tells.",
        ),
        Panel(
            "No connection",
            (
                SOON.rate("provider_connections_total", result="failed")
                .over(SOON.rate("provider_connections_total"))
                .when(SOON.increase("provider_connections_total"), 10),
            ),
            "stat",
            4,
            4,
            limits=limits(0.1, 0.5),
            decimals=1,
            no_value=FEW,
            text="Share of the connections of 15 minutes, of 10 or more, that could not be had. From 50 % on "
            "AngariumProviderUnreachable tells.",
        ),
        Panel("Waiting", (HERE.level("provider_waiting_messages"),), "stat", 4, 4),
        Panel(
            "Oldest", (HERE.level("provider_oldest_seconds", how="max"),), "stat", 4, 4, limits=limits(1800, 4 * 3600)
        ),
    ),
)

RESULTS = Row(
    "Results",
    (
        Panel("What became of recipients", (HERE.rate("provider_recipients_total", "result"),), width=12, stacked=True),
        Panel("Replies that decided", (HERE.rate("provider_replies_total", "class"),), width=12, stacked=True),
        Panel(
            "Delivered by provider",
            (HERE.rate("provider_recipients_total", "provider", result="delivered"),),
            stacked=True,
            text="Recipients delivered, a second.",
        ),
        Panel(
            "Share deferred by provider",
            (share("deferred", by="provider"),),
            bounds=(0, 1),
            text="Of the results of attempts.",
        ),
        Panel(
            "Share refused by provider",
            (share("failed", "expired", by="provider"),),
            bounds=(0, 1),
            text="Of the results of attempts: final refusals, and recipients given up.",
        ),
    ),
)

WAITING = Row(
    "Waiting and connections",
    (
        Panel("Messages that wait", (HERE.level("provider_waiting_messages", "provider"),), width=6, stacked=True),
        Panel("Oldest message", (HERE.level("provider_oldest_seconds", "provider", how="max"),), width=6),
        Panel("Attempts", (HERE.rate("provider_attempts_total", "provider"),), width=6),
        Panel(
            "Connections",
            (
                HERE.rate("provider_connections_total", result="opened").named("opened, to all"),
                HERE.rate("provider_connections_total", "provider", result="failed").named("failed: {{provider}}"),
            ),
            width=6,
        ),
    ),
)

NOW = Row(
    "All of them",
    (
        Panel(
            "Providers now",
            (
                HERE.rate("provider_recipients_total", "provider", result="delivered").named("Delivered/s"),
                share("deferred", by="provider").named("Deferred"),
                share("failed", "expired", by="provider").named("Refused"),
                HERE.level("provider_waiting_messages", "provider").named("Waiting"),
                HERE.level("provider_oldest_seconds", "provider", how="max").named("Oldest"),
            ),
            "table",
            24,
            8,
            link=(
                "This provider",
                "/d/angarium-provider?var-provider=${__data.fields.provider}&${instance:queryparam}&${__url_time_range}",
            ),
            text="One line a provider; a click looks at it alone.",
        ),
    ),
)

BOARD = Board(
    "provider",
    "Angarium: provider",
    "Who takes our mail, who says later, who refuses, and what waits for whom.",
    (SIGNALS, RESULTS, WAITING, NOW),
    (INSTANCE, PROVIDER),
)
