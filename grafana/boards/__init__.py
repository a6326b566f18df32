"""The boards, alert rules and recording rules, made from the metric registry.

    python -m grafana.boards            write dashboards/*.json, alerts.yml and recording.yml
    python -m grafana.boards --check    say what differs from the files, and exit 1

query.py is the only place where a metric is named in PromQL: it refuses one that the registry
(angarium.outcome.metrics) does not have, and a label or a value of a label that it has not. Each module named after a
board says what is on it, rules.py has the rules, panel.py turns what they say into Grafana's JSON with the Foundation
SDK, ask.py asks a Prometheus what a panel would ask, and render.py draws the boards.
"""

from __future__ import annotations

import json

from . import node, overview, provider, tenant
from .panel import Board, build
from .rules import alert_rules, as_yaml, recording_rules

# The metrics that are on no board, each with the reason.
NOT_SHOWN: dict[str, str] = {}


def boards() -> tuple[Board, ...]:
    """Every board. The node's ends with a row of all metrics that stand nowhere else: a new one is seen at once."""
    placed = (overview.BOARD, provider.BOARD, tenant.BOARD, node.BOARD)
    shown = {name for board in placed for name in board.metrics}
    return (*placed[:-1], node.with_rest(shown | set(NOT_SHOWN)))


def made() -> dict[str, str]:
    """The text of each generated file, by its path in grafana/."""
    files = {f"dashboards/{board.name}.json": json.dumps(build(board), indent=1) + "\n" for board in boards()}
    files["alerts.yml"] = as_yaml("Alert rules for Prometheus; runbooks are in docs/runbooks.md.", alert_rules())
    files["recording.yml"] = as_yaml("Recording rules for Prometheus; alerts.yml needs them.", recording_rules())
    return files
