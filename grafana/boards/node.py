"""The board of one node: its processes, its disk, its configuration, its clients, in every detail."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from angarium.outcome.metrics import Kind

from .overview import INSTANCE, NONE_IS_GOOD, limits
from .panel import Board, Panel, Row
from .query import SPECS, Scope

if TYPE_CHECKING:
    from .query import Query

NODE = Scope((("instance", "$instance"),))

STATE = Row(
    "State",
    (
        Panel(
            "Takes mail",
            (NODE.level("node_draining", how="max"),),
            "stat",
            3,
            4,
            words=(("0", "accepting", "green"), ("1", "draining", "yellow")),
        ),
        Panel(
            "Last reload",
            (NODE.level("node_last_reload_refused", how="max"),),
            "stat",
            3,
            4,
            words=(("0", "applied", "green"), ("1", "refused", "red")),
        ),
        Panel(
            "Configuration since",
            (
                replace(
                    NODE.level("node_configuration_timestamp_seconds", how="max"),
                    expr=f"1000 * {NODE.level('node_configuration_timestamp_seconds', how='max').expr}",
                    unit="dateTimeFromNow",
                ),
            ),
            "stat",
            3,
            4,
            bounds=(None, None),
        ),
        Panel(
            "Restart needed",
            (NODE.level("node_restart_keys", how="max"),),
            "stat",
            3,
            4,
            limits=((None, "green"), (1, "yellow")),
        ),
        Panel("Failed shards", (NODE.level("queue_failed_shards"),), "stat", 3, 4, limits=NONE_IS_GOOD),
        Panel("Full shards", (NODE.level("queue_full_shards"),), "stat", 3, 4, limits=NONE_IS_GOOD),
        Panel("Ledger drift", (NODE.level("queue_ledger_drift_recipients"),), "stat", 3, 4, limits=NONE_IS_GOOD),
        Panel(
            "Certificate ends in",
            (NODE.level("ingress_certificate_expiry_seconds", how="min"),),
            "stat",
            3,
            4,
            limits=((None, "red"), (7 * 86400, "yellow"), (14 * 86400, "green")),
        ),
    ),
)

PROCESSES = Row(
    "Processes",
    (
        Panel(
            "CPU",
            (NODE.rate("process_cpu_seconds_total", "process"),),
            width=6,
            unit="short",
            text="Cores that each process uses: 1 is a core.",
        ),
        Panel("Resident memory", (NODE.level("process_resident_memory_bytes", "process"),), width=6),
        Panel("Open descriptors", (NODE.level("process_open_fds", "process"),), width=6),
        Panel(
            "Processes that answer",
            (NODE.level("process_up", "process", how="max"),),
            "bargauge",
            6,
            bounds=(0, 1),
            decimals=0,
            limits=((None, "red"), (1, "green")),
        ),
        Panel(
            "Event loop lag",
            NODE.quantiles("worker_loop_lag_seconds"),
            width=12,
            height=6,
            limits=((None, "transparent"), (0.2, "red")),
        ),
        Panel(
            "Worker starts and reloads",
            (
                NODE.increase("worker_starts_total").named("worker starts"),
                NODE.increase("node_reloads_total", "result").named("reloads {{result}}"),
            ),
            width=6,
            height=6,
        ),
        Panel(
            "Deaths and hangs",
            (
                NODE.increase("node_process_deaths_total", "kind").named("died: {{kind}}"),
                NODE.increase("node_process_hangs_total", "kind").named("hung: {{kind}}"),
            ),
            width=6,
            height=6,
        ),
    ),
)

JOURNAL = Row(
    "Journal and disk",
    (
        Panel(
            "Duration of fdatasync",
            NODE.quantiles("queue_sync_latency_seconds"),
            limits=((None, "transparent"), (0.5, "red")),
        ),
        Panel(
            "Syncs and commits",
            (
                NODE.rate("queue_syncs_total").named("syncs"),
                NODE.rate("queue_commits_total").named("commits"),
                NODE.rate("queue_commit_records_total").named("messages kept"),
            ),
        ),
        Panel(
            "Records a commit",
            (
                NODE.mean("queue_commit_batch_records").named("mean"),
                NODE.quantile(0.99, "queue_commit_batch_records"),
            ),
            unit="short",
        ),
        Panel("Duration of a write", NODE.quantiles("queue_write_latency_seconds")),
        Panel(
            "Written to journals",
            (
                NODE.rate("queue_journal_written_bytes_total").named("written"),
                NODE.rate("queue_compacted_bytes_total").named("of it by compaction"),
            ),
        ),
        Panel(
            "Journal on disk",
            (
                NODE.level("queue_journal_bytes").named("segments"),
                NODE.level("queue_journal_living_bytes").named("of it needed"),
            ),
            text="What segments take, and what of it is still needed. Far apart for long: AngariumSpaceAmplification.",
        ),
        Panel("Segments taken into use", (NODE.rate("queue_segments_total", "origin"),)),
        Panel("Journal by shard", (NODE.level("shard_journal_bytes", "shard").named("{{shard}}"),), stacked=True),
        Panel("Needed by shard", (NODE.level("shard_living_bytes", "shard").named("{{shard}}"),), stacked=True),
        Panel(
            "Shards that take no mail",
            (NODE.level("shard_closed", "shard", how="max").named("{{shard}}"),),
            height=5,
            decimals=0,
        ),
        Panel("Shards that changed", (NODE.increase("queue_shard_changes_total", "state"),), height=5),
        Panel(
            "Found at start, and damage",
            (
                NODE.increase("queue_recovered_messages_total").named("messages recovered"),
                NODE.increase("queue_torn_records_total").named("unfinished records"),
                NODE.increase("queue_damaged_records_total", "found").named("damaged, found at {{found}}"),
            ),
            height=5,
        ),
    ),
)

MEMORY = Row(
    "Memory and queue",
    (
        Panel(
            "Memory behind mail data",
            (
                NODE.level("queue_memory_bytes").named("in use"),
                NODE.level("queue_memory_mark_bytes", "mark", how="max").named("mark: {{mark}}"),
            ),
        ),
        Panel("Workers by state of memory", (NODE.level("queue_memory_state", "state"),), stacked=True),
        Panel(
            "Intake slowed",
            (
                NODE.rate("queue_memory_passed_marks_total", "mark").named("mark passed: {{mark}}"),
                NODE.rate("ingress_paced_total").named("sessions paced"),
                NODE.rate("ingress_throttled_total").named("sessions throttled"),
            ),
        ),
        Panel(
            "Recipients queued",
            (
                NODE.level("queue_recipients").named("of messages queued"),
                NODE.level("queue_ledger_queued_recipients").named("not final yet, by the ledger"),
            ),
            width=12,
        ),
        Panel(
            "Attempts",
            (
                NODE.rate("delivery_attempts_total").named("attempts"),
                NODE.rate("delivery_delivered_messages_total").named("messages delivered to all"),
                NODE.rate("delivery_next_host_total").named("went on to another host"),
            ),
            width=12,
        ),
    ),
)

EVENTS = Row(
    "Events and streams",
    (
        Panel(
            "Streams that fail",
            (NODE.level("stream_failing"),),
            "stat",
            4,
            4,
            limits=NONE_IS_GOOD,
            decimals=0,
            text="Streams whose receiver does not take the batch that is under way. After 15 minutes "
            "AngariumStreamFailing tells.",
        ),
        Panel(
            "Furthest behind",
            (NODE.level("stream_lag_seconds", how="max"),),
            "stat",
            4,
            4,
            limits=limits(300, 900),
            text="Age of the oldest event that a stream has not sent, of the stream that is furthest behind.",
        ),
        Panel(
            "Dead letters",
            (NODE.level("stream_dead_letters"),),
            "stat",
            4,
            4,
            limits=NONE_IS_GOOD,
            decimals=0,
            text="Events that are set aside, of all streams: `angarium stream resend NAME` sends them once more.",
        ),
        Panel(
            "Lost by streams",
            (NODE.within("24h").increase("stream_lost_events_total"),),
            "stat",
            4,
            4,
            limits=NONE_IS_GOOD,
            decimals=0,
            text="Events of the last 24 hours that no receiver will get.",
        ),
        Panel(
            "Events not written",
            (NODE.within("24h").increase("outcome_dropped_events_total"),),
            "stat",
            4,
            4,
            limits=NONE_IS_GOOD,
            decimals=0,
            text="Events of the last 24 hours that the event log could not take.",
        ),
        Panel("Event log on disk", (NODE.level("outcome_event_log_bytes"),), "stat", 4, 4),
        Panel("Sent by stream", (NODE.rate("stream_sent_events_total", "stream"),), width=6, stacked=True),
        Panel("Behind: events", (NODE.level("stream_lag_events", "stream"),), width=6),
        Panel(
            "Behind: age",
            (NODE.level("stream_lag_seconds", "stream", how="max"),),
            width=6,
            limits=((None, "transparent"), (900, "red")),
        ),
        Panel(
            "Batches",
            (
                NODE.rate("stream_sent_batches_total", "stream").named("taken: {{stream}}"),
                NODE.rate("stream_failures_total", "stream").named("not taken: {{stream}}"),
            ),
            width=6,
            text="Batches that the other side has taken, and tries that failed, by stream.",
        ),
        Panel(
            "Set aside and lost",
            (
                NODE.level("stream_dead_letters", "stream").named("dead letters: {{stream}}"),
                NODE.increase("stream_lost_events_total", "stream").named("lost: {{stream}}"),
            ),
            height=6,
        ),
        Panel(
            "Event log",
            (
                NODE.rate("outcome_events_total").named("written"),
                NODE.rate("outcome_dropped_events_total").named("dropped"),
                NODE.rate("outcome_dropped_dialogues_total").named("dialogues not kept"),
            ),
            height=6,
        ),
        Panel(
            "Event log files",
            (
                NODE.increase("outcome_event_log_rotations_total").named("rotated"),
                NODE.increase("outcome_event_log_compressions_total", "result").named("compressed: {{result}}"),
                NODE.increase("outcome_event_log_deleted_files_total").named("deleted"),
            ),
            height=6,
        ),
    ),
)

CLIENTS = Row(
    "Clients, log-ins, recipients",
    (
        Panel("Accepted by listener", (NODE.rate("listener_messages_total", "listener"),), width=6, stacked=True),
        Panel("Turned away by listener", (NODE.rate("listener_rejections_total", "listener"),), width=6),
        Panel(
            "Connections by listener",
            (
                NODE.rate("listener_connections_total", "listener"),
                NODE.rate("listener_refused_connections_total", "listener").named("refused: {{listener}}"),
            ),
            width=6,
        ),
        Panel(
            "Time of acceptance",
            (NODE.quantile(0.9, "ingress_accept_latency_seconds", "phase", "{{phase}}"),),
            width=6,
            text="p90 of each phase of messages answered 250: from MAIL until the data began, until its end, until "
            "the 250 was written.",
        ),
        Panel("Commands", (NODE.rate("ingress_commands_total").named("commands"),), width=6),
        Panel(
            "Log-ins looked at",
            (
                NODE.rate("ingress_verifications_total", "result"),
                NODE.rate("ingress_delayed_log_ins_total").named("answer held back"),
            ),
            width=6,
        ),
        Panel(
            "Bans",
            (
                NODE.level("ingress_banned", "of").named("banned: {{of}}"),
                NODE.increase("ingress_bans_total", "of").named("began: {{of}}"),
                NODE.increase("ingress_lifted_bans_total").named("lifted"),
            ),
            width=6,
        ),
        Panel(
            "Doors",
            (
                NODE.rate("ingress_proxy_headers_total", "result").named("PROXY {{result}}"),
                NODE.rate("ingress_xclient_total", "result").named("XCLIENT {{result}}"),
                NODE.rate("ingress_client_certificates_total", "named").named("certificate: {{named}}"),
                NODE.increase("ingress_certificate_reads_total", "result").named("own certificates read: {{result}}"),
                NODE.rate("ingress_client_table_full_total").named("client table full"),
            ),
            width=6,
        ),
        Panel("Recipients verified", (NODE.rate("ingress_recipients_checked_total", "result"),), width=6),
        Panel(
            "Mailbox hosts asked",
            (
                NODE.rate("ingress_recipient_probes_total", "result"),
                NODE.increase("ingress_recipient_lists_total", "result").named("lists: {{result}}"),
            ),
            width=6,
        ),
        Panel(
            "Permissions",
            (
                NODE.rate("ingress_fixed_up_messages_total").named("fixed up"),
                NODE.rate("ingress_over_quota_messages_total").named("over quota"),
                NODE.rate("ingress_held_unusual_messages_total").named("held: unusual"),
                NODE.increase("ingress_unusual_senders_total").named("unusual senders"),
            ),
            width=6,
        ),
        Panel(
            "Drop folder",
            (
                NODE.level("ingress_drop_waiting_files").named("waiting"),
                NODE.increase("ingress_drop_files_total", "result"),
            ),
            width=6,
        ),
    ),
    collapsed=True,
)

OUTCOME = Row(
    "Notifications, policies, tokens",
    (
        Panel(
            "Notifications that wait",
            (
                NODE.level("outcome_waiting_notifications").named("waiting"),
                NODE.increase("outcome_put_off_notifications_total").named("put off"),
                NODE.increase("outcome_dropped_notifications_total").named("dropped"),
            ),
        ),
        Panel("MTA-STS policies kept", (NODE.level("delivery_mta_sts_policies").named("policies"),)),
        Panel("Access token expires in", (NODE.level("delivery_access_token_seconds", how="min").named("left"),)),
    ),
    collapsed=True,
)

BOARD = Board(
    "node",
    "Angarium: node",
    "One node in every detail: processes, disk, memory, clients, configuration.",
    (STATE, PROCESSES, EVENTS, JOURNAL, MEMORY, CLIENTS, OUTCOME),
    (replace(INSTANCE, several=False),),
    links=(
        ("Console", "http://${instance}/"),
        ("Message in the console", "http://${instance}/#message=${message}"),
        ("Readiness", "http://${instance}/readyz"),
    ),
    asked=(("message", "Message id"),),
)


def with_rest(shown: set[str]) -> Board:
    """This board, with a row of its own for every metric that is not among these."""
    rest = [spec for spec in SPECS.values() if spec.name not in shown]
    if not rest:
        return BOARD
    panels = tuple(
        Panel(spec.name.removeprefix("angarium_").removesuffix("_total").replace("_", " ").capitalize(), _all_of(name))
        for name, spec in SPECS.items()
        if spec in rest
    )
    return replace(BOARD, rows=(*BOARD.rows, Row("Further metrics", panels, collapsed=True)))


def _all_of(name: str) -> tuple[Query, ...]:
    spec = SPECS[name]
    if spec.kind in {Kind.HISTOGRAM, Kind.GAUGE_HISTOGRAM}:
        return NODE.quantiles(name)
    by = [label.name for label in spec.labels]
    return (NODE.rate(name, by) if spec.kind is Kind.COUNTER else NODE.level(name, by),)
