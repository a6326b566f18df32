"""What a panel would ask a Prometheus: its expressions with the board's variables filled in, and the answers.

Used by the renderer and by the tests, which so ask exactly what Grafana would. Fails with OSError when Prometheus
cannot be reached, and with ValueError, in Prometheus' words, when it does not understand an expression.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

VARIABLE = re.compile(r"\$\{?(\w+)(?::\w+)?\}?")


def filled(expression: str, values: dict[str, str]) -> str:
    """An expression without variables; LookupError for one that has no value."""
    return VARIABLE.sub(lambda found: values[found[1]], expression)


def panels(board: dict[str, Any], collapsed: bool = True) -> list[dict[str, Any]]:
    """Every panel of a board's JSON that is no row; those of collapsed rows too, or not."""
    found = []
    for panel in board["panels"]:
        if panel["type"] != "row":
            found.append(panel)
        elif collapsed:
            found.extend(panel.get("panels", []))
    return found


@dataclass(frozen=True)
class Prometheus:
    """One Prometheus, by the address of its root."""

    root: str

    def _get(self, path: str, **parameters: str) -> Any:
        address = f"{self.root}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310  # the caller's own Prometheus
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refusal:
            raise ValueError(json.load(refusal).get("error", str(refusal))) from None

    def instant(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series now, or at a time."""
        when = {} if at is None else {"time": str(at)}
        result = self._get("query", query=expression, **when)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """(labels, points) of each series."""
        result = self._get("query_range", query=expression, start=str(start), end=str(end), step=str(step))["result"]
        return [(one["metric"], [(float(t), float(v)) for t, v in one["values"]]) for one in result]

    def exemplars(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """The exemplars behind the series of an expression."""
        found = self._get("query_exemplars", query=expression, start=str(start), end=str(end))
        return [exemplar for series in found for exemplar in series["exemplars"]]

    def alerts(self) -> list[dict[str, Any]]:
        """What is pending or firing."""
        result: list[dict[str, Any]] = self._get("alerts")["alerts"]
        return result


def legend(template: str, labels: dict[str, str]) -> str:
    """The name of a series."""
    if not template:
        return ", ".join(f"{name}={value}" for name, value in labels.items() if name != "__name__")
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), template)
