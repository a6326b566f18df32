"""What is counted of what is reported: events, notifications, TLS reports."""

from __future__ import annotations

from angarium._core.counters import Slot
from angarium.outcome.metrics.model import MetricSpec, counter, gauge

__all__ = ["OUTCOME"]

OUTCOME: tuple[MetricSpec, ...] = (
    counter("outcome_events_total", Slot.OUTCOME_EVENTS, "Events written to the event log."),
    counter("outcome_dropped_events_total", Slot.OUTCOME_EVENTS_DROPPED, "Events that could not be written."),
    gauge("outcome_event_log_bytes", Slot.OUTCOME_LOG_OCTETS, "Octets on disk of the event log's files."),
    counter("outcome_event_log_rotations_total", Slot.OUTCOME_LOG_ROTATIONS, "Rotations of the event log."),
    counter(
        "outcome_event_log_compressions_total",
        {"ok": Slot.OUTCOME_LOG_COMPRESSED, "failed": Slot.OUTCOME_LOG_COMPRESS_FAILED},
        "Files of the event log that were compressed, and tries that failed and come again.",
        "result",
    ),
    counter(
        "outcome_event_log_deleted_files_total",
        Slot.OUTCOME_LOG_DELETED,
        "Files of the event log that were deleted for their age, for their size, or unsent.",
    ),
    counter(
        "outcome_dropped_dialogues_total",
        Slot.OUTCOME_DIALOGUES_DROPPED,
        "Attempts of which it could not be kept what was said, for want of room in memory or on disk.",
    ),
    counter(
        "outcome_notifications_total",
        {
            "failed": Slot.OUTCOME_NOTIFICATIONS_FAILED,
            "delayed": Slot.OUTCOME_NOTIFICATIONS_DELAYED,
            "success": Slot.OUTCOME_NOTIFICATIONS_SUCCESS,
        },
        "Delivery status notifications queued, by the worst that they tell their recipient.",
        "kind",
    ),
    gauge(
        "outcome_waiting_notifications",
        Slot.OUTCOME_NOTIFICATIONS_WAITING,
        "Notifications that no journal has taken yet; the messages that they are about stay queued.",
    ),
    counter(
        "outcome_put_off_notifications_total",
        Slot.OUTCOME_NOTIFICATIONS_PUT_OFF,
        "Notifications that found no room to wait in: their message is deferred, and they are tried again with it.",
    ),
    counter(
        "outcome_dropped_notifications_total",
        Slot.OUTCOME_NOTIFICATIONS_DROPPED,
        "Notifications of a success that found no room to wait in, and were given up.",
    ),
    counter(
        "outcome_double_bounces_total",
        Slot.OUTCOME_DOUBLE_BOUNCES,
        "Mail with the null reverse-path that failed: nobody is told.",
    ),
    counter("outcome_tls_results_total", Slot.OUTCOME_TLS_RESULTS, "Results of TLS sessions gathered for reports."),
    counter(
        "outcome_dropped_tls_results_total",
        Slot.OUTCOME_TLS_RESULTS_DROPPED,
        "Results of TLS sessions that found no room, and are in no report.",
    ),
    counter(
        "outcome_tls_reports_total",
        {
            "mailed": Slot.OUTCOME_TLS_REPORTS_MAILED,
            "posted": Slot.OUTCOME_TLS_REPORTS_POSTED,
            "failed": Slot.OUTCOME_TLS_REPORTS_FAILED,
        },
        "Daily reports of TLS results: queued as mail, taken by HTTPS, or given up after a day.",
        "result",
    ),
)
