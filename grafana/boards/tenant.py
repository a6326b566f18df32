"""The board of the tenants: whose mail comes in, what becomes of it, whose waits."""

from __future__ import annotations

from .overview import FEW, INSTANCE, LEAST, limits
from .panel import Board, Panel, Row, Variable
from .query import Query, Scope

HERE = Scope((("instance", "$instance"), ("tenant", "$tenant")))
TENANT = Variable("tenant", "Tenant", 'label_values(angarium_tenant_recipients_total{instance=~"$instance"}, tenant)')
OUTCOMES = ("delivered", "deferred", "failed", "expired")


def share(*wanted: str, by: str = "") -> Query:
    """The share of results that are among these."""
    part = HERE.rate("tenant_recipients_total", by, result=wanted)
    return part.over(HERE.rate("tenant_recipients_total", by, result=OUTCOMES), "{{tenant}}" if by else "")


SOON = HERE.within("15m")


def share_now(*wanted: str) -> Query:
    """The share among the results of 15 minutes."""
    part = SOON.rate("tenant_recipients_total", result=wanted)
    return part.over(SOON.rate("tenant_recipients_total", result=OUTCOMES)).when(
        SOON.increase("tenant_recipients_total", result=OUTCOMES), LEAST
    )


SIGNALS = Row(
    "At a glance",
    (
        Panel(
            "Accepted",
            (HERE.rate("tenant_recipients_total", result="accepted"),),
            "stat",
            5,
            4,
            text="Recipients, a second.",
        ),
        Panel(
            "Delivered",
            (HERE.rate("tenant_recipients_total", result="delivered"),),
            "stat",
            5,
            4,
            text="Recipients, a second.",
        ),
        Panel(
            "Deferred",
            (share_now("deferred"),),
            "stat",
            5,
            4,
            limits=limits(0.2, 0.5),
            decimals=1,
            no_value=FEW,
            text="Share of the results of 15 minutes, of 20 or more.",
        ),
        Panel(
            "Refused for good",
            (share_now("failed", "expired"),),
            "stat",
            5,
            4,
            limits=limits(0.05, 0.1),
            decimals=1,
            no_value=FEW,
            text="Share of the results of 15 minutes, of 20 or more.",
        ),
        Panel("Queued", (HERE.level("tenant_waiting_messages"),), "stat", 4, 4),
    ),
)

RESULTS = Row(
    "Mail",
    (
        Panel(
            "Accepted by tenant",
            (HERE.rate("tenant_recipients_total", "tenant", result="accepted"),),
            stacked=True,
            text="Recipients, a second.",
        ),
        Panel(
            "Delivered by tenant",
            (HERE.rate("tenant_recipients_total", "tenant", result="delivered"),),
            stacked=True,
            text="Recipients, a second.",
        ),
        Panel("Queued by tenant", (HERE.level("tenant_waiting_messages", "tenant"),), stacked=True),
        Panel("What became of recipients", (HERE.rate("tenant_recipients_total", "result"),)),
        Panel(
            "Share deferred by tenant",
            (share("deferred", by="tenant"),),
            bounds=(0, 1),
            text="Of the results of attempts.",
        ),
        Panel(
            "Share refused by tenant",
            (share("failed", "expired", by="tenant"),),
            bounds=(0, 1),
            text="Of the results of attempts: a tenant with an old address list, or a bad name, is at the top.",
        ),
    ),
)

NOW = Row(
    "All of them",
    (
        Panel(
            "Tenants now",
            (
                HERE.rate("tenant_recipients_total", "tenant", result="accepted").named("Accepted/s"),
                HERE.rate("tenant_recipients_total", "tenant", result="delivered").named("Delivered/s"),
                share("deferred", by="tenant").named("Deferred"),
                share("failed", "expired", by="tenant").named("Refused"),
                HERE.level("tenant_waiting_messages", "tenant").named("Queued"),
            ),
            "table",
            24,
            8,
            link=(
                "This tenant",
                "/d/angarium-tenant?var-tenant=${__data.fields.tenant}&${instance:queryparam}&${__url_time_range}",
            ),
            text="One line a tenant; a click looks at it alone.",
        ),
    ),
)

BOARD = Board(
    "tenant",
    "Angarium: tenant",
    "Whose mail comes in, what becomes of it, whose waits.",
    (SIGNALS, RESULTS, NOW),
    (INSTANCE, TENANT),
)
