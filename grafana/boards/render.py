"""Draw the boards as SVG, from their JSON and the data of a Prometheus: to see them without Grafana.

    python -m grafana.boards.render --prometheus http://127.0.0.1:9090 --minutes 5 --folder grafana/pictures

Not Grafana: panels stand where Grafana puts them, with the same queries, units, limits and names, drawn plainly. What
Grafana shows only after a click (collapsed rows) is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from html import escape
from pathlib import Path
from typing import Any

from .ask import Prometheus, filled, legend, panels

WIDTH, UNIT, GAP, HEAD = 1680, 34, 8, 56
COLUMN = (WIDTH - GAP) / 24
POINTS = 110
BACK, CARD, EDGE, TEXT, FAINT = "#111217", "#181b1f", "#2a2d33", "#d8d9da", "#8e9199"
NAMED = {
    "green": "#73bf69", "yellow": "#f2cc0c", "red": "#f2495c", "blue": "#5794f2", "purple": "#b877d9",
    "transparent": "none",
    "orange": "#ff9830",
}  # fmt: skip
PALETTE = (
    "#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a",
    "#c4162a",
    "#1f60c4", "#8f3bb8", "#ffa6b0", "#96d98d",
)  # fmt: skip


def said(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit, as short as Grafana says it."""
    if math.isnan(value):
        return "no data"
    if unit == "dateTimeFromNow":
        seconds = time.time() - value / 1000
        size, name = next(one for one in ((86400, "d"), (3600, "h"), (60, "min"), (0, "s")) if seconds >= one[0])
        return f"{seconds / (size or 1):.0f} {name} ago"
    if unit == "percentunit":
        return f"{value * 100:.{1 if decimals is None else decimals}f}%"
    if unit == "s":
        for size, name in ((86400, " d"), (3600, " h"), (60, " min"), (1, " s"), (1e-3, " ms"), (1e-6, " µs")):
            if abs(value) >= size:
                return f"{value / size:.3g}{name}"
        return "0 s"
    suffix = {"cps": " /s", "bytes": "B", "Bps": "B/s"}.get(unit, "")
    base, names = (1024, ("", " Ki", " Mi", " Gi", " Ti")) if "B" in suffix else (1000, ("", " K", " M", " G", " T"))
    step = 0
    while abs(value) >= base and step < len(names) - 1:
        value, step = value / base, step + 1
    number = f"{value:.0f}" if value == int(value) or decimals == 0 else f"{value:.3g}"
    return number + (names[step] or (" " if "B" in suffix else "")) + suffix


class Picture:
    """One board being drawn."""

    def __init__(self, source: Prometheus, values: dict[str, str], start: float, end: float) -> None:
        self._source = source
        self._values = values
        self._start, self._end = start, end
        self._out: list[str] = []

    def board(self, board: dict[str, Any]) -> str:
        """The whole board."""
        lowest, squeezed = 0, 0.0
        places: list[tuple[dict[str, Any], float]] = []
        for panel in board["panels"]:
            place = panel["gridPos"]
            places.append((panel, HEAD + (place["y"] - squeezed) * UNIT))
            if panel["type"] == "row" and panel.get("panels"):
                bottom = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in panel["panels"])
                squeezed += bottom - place["y"] - 1
            lowest = max(lowest, int(places[-1][1] + place["h"] * UNIT))
        self._text(GAP * 2, 34, board["title"], 20, TEXT, weight=600)
        chosen = " · ".join(
            f"{name}: {'all' if value == '.*' else value}" for name, value in self._values.items() if name[0] != "_"
        )
        self._text(
            WIDTH - GAP * 2, 34, f"{chosen} · last {(self._end - self._start) / 60:.0f} minutes", 13, FAINT, "end"
        )
        for panel, y in places:
            self._panel(panel, y)
        height = lowest + GAP
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="Inter, Helvetica, Arial, sans-serif"><rect width="100%" height="100%" fill="{BACK}"/>\n'
            + "\n".join(self._out)
            + "\n</svg>\n"
        )

    # -------------------------------------------------------------- parts

    def _text(
        self, x: float, y: float, text: str, size: float, color: str, anchor: str = "start", weight: int = 400
    ) -> None:
        bold = f' font-weight="{weight}"' if weight != 400 else ""
        at = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._out.append(
            f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size:g}" fill="{color}"{at}{bold}>{escape(text)}</text>'
        )

    def _panel(self, panel: dict[str, Any], y: float) -> None:
        place = panel["gridPos"]
        x = GAP + place["x"] * COLUMN
        width, height = place["w"] * COLUMN - GAP, place["h"] * UNIT - GAP
        if panel["type"] == "row":
            mark = "▸" if panel["collapsed"] else "▾"
            self._text(x + 4, y + 20, f"{mark} {panel['title']}", 15, TEXT, weight=600)
            return
        self._out.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="3" fill="{CARD}" '
            f'stroke="{EDGE}"/>'
        )
        self._text(x + 10, y + 19, panel["title"], 13, TEXT, weight=600)
        draw = {"stat": self._stat, "timeseries": self._lines, "bargauge": self._bars, "table": self._table}[
            panel["type"]
        ]
        draw(panel, x + 10, y + 28, width - 20, height - 36)

    def _series(self, panel: dict[str, Any]) -> list[tuple[str, list[tuple[float, float]]]]:
        found = []
        for target in panel["targets"]:
            expression = filled(target["expr"], self._values)
            step = max(1.0, (self._end - self._start) / POINTS)
            for labels, points in self._source.range(expression, self._start, self._end, step):
                found.append((legend(target["legendFormat"], labels), [p for p in points if math.isfinite(p[1])]))
        return found

    def _color(self, panel: dict[str, Any], value: float) -> str:
        color = TEXT
        for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", []):
            if step.get("value") is None or value >= step["value"]:
                color = NAMED.get(step["color"], step["color"])
        return color

    def _stat(self, panel: dict[str, Any], x: float, y: float, width: float, height: float) -> None:
        series = self._series(panel)
        defaults = panel["fieldConfig"]["defaults"]
        points = series[0][1] if series else []
        value = points[-1][1] if points else math.nan
        color = self._color(panel, value)
        text = said(value, defaults.get("unit", ""), defaults.get("decimals"))
        if math.isnan(value) and defaults.get("noValue"):
            text, color = defaults["noValue"], FAINT
        for mapping in defaults.get("mappings", []):
            words = mapping["options"].get(f"{value:g}")
            if words:
                text, color = words["text"], NAMED[words["color"]]
        size = min(38.0, width / max(3, len(text)) * 1.6)
        if len(points) > 1 and not defaults.get("mappings"):
            top = max(value for _, value in points) or 1.0
            across = width / (self._end - self._start)
            line = " ".join(
                f"{x + (t - self._start) * across:.0f},{y + height - v / top * height * 0.4:.0f}" for t, v in points
            )
            self._out.append(
                f'<polyline points="{line}" fill="none" stroke="{color}" stroke-opacity=".45" stroke-width="1.5"/>'
            )
        self._text(x + width / 2, y + height / 2 + size / 3 - 12, text, size, color, "middle", 600)

    def _lines(self, panel: dict[str, Any], x: float, y: float, width: float, height: float) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        custom, unit = defaults.get("custom", {}), defaults.get("unit", "short")
        stacked = custom.get("stacking", {}).get("mode") == "normal"
        series = [(name, points) for name, points in self._series(panel) if points]
        shown = [one for one in series if any(value for _, value in one[1])] or series[:1]
        fixed = {
            override["matcher"]["options"]: NAMED[prop["value"]["fixedColor"]]
            for override in panel["fieldConfig"]["overrides"]
            for prop in override["properties"]
            if prop["id"] == "color"
        }
        left, bottom = x + 52, y + height - 34
        under: dict[float, float] = {}
        drawn, floors = [], []
        for name, points in shown:
            floors.append([(t, under.get(t, 0.0)) for t, _ in points])
            raised = []
            for t, value in points:
                under[t] = (under.get(t, 0.0) if stacked else 0.0) + value
                raised.append((t, under[t]))
            drawn.append((name, raised))
        steps = [step for step in defaults.get("thresholds", {}).get("steps", []) if step.get("value") is not None]
        top = max([value for _, points in drawn for _, value in points] + [defaults.get("max") or 0.0], default=0.0)
        top = _round_up(top, 1024 if unit in {"bytes", "Bps"} else 1000) if top > 0 else 1.0
        for part in range(5):
            at = bottom - (bottom - y - 6) * part / 4
            self._out.append(f'<path d="M{left:.0f} {at:.0f}H{x + width:.0f}" stroke="{EDGE}"/>')
            if part % 2 == 0:
                digits = 0 if unit == "percentunit" and top >= 0.05 else None
                self._text(left - 6, at + 4, said(top * part / 4, unit, digits), 11, FAINT, "end")
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
            moment = time.strftime("%H:%M", time.gmtime(self._start + share * (self._end - self._start)))
            self._text(left + share * (x + width - left), bottom + 14, moment, 11, FAINT, anchor)
        for step in steps:
            if step["value"] <= top:
                at = bottom - step["value"] / top * (bottom - y - 6)
                self._out.append(
                    f'<path d="M{left:.0f} {at:.0f}H{x + width:.0f}" stroke="{NAMED["red"]}" stroke-dasharray="5 5"/>'
                )
        palette = iter(PALETTE * 4)
        names = []

        def place(t: float, value: float) -> str:
            across = left + (t - self._start) / (self._end - self._start) * (x + width - left)
            return f"{across:.0f},{bottom - value / top * (bottom - y - 6):.1f}"

        for (name, points), floor in zip(drawn, floors, strict=True):
            color = fixed.get(name) or next(palette)
            names.append((name, color))
            if stacked:
                area = " ".join([place(*point) for point in points] + [place(*point) for point in reversed(floor)])
                self._out.append(f'<polygon points="{area}" fill="{color}" fill-opacity=".3"/>')
            for part in self._pieces(points):
                line = " ".join(place(*point) for point in part)
                self._out.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        self._legend(names, x, y + height, width, len(series) - len(shown))

    def _pieces(self, points: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
        """A line without what it does not know: it is broken where a value is missing."""
        pieces: list[list[tuple[float, float]]] = []
        gap = 2.5 * max(1.0, (self._end - self._start) / POINTS)
        for point in points:
            if not pieces or point[0] - pieces[-1][-1][0] > gap:
                pieces.append([])
            pieces[-1].append(point)
        return pieces

    def _legend(self, names: list[tuple[str, str]], x: float, y: float, width: float, still: int) -> None:
        at = x
        for index, (name, color) in enumerate(names):
            need = 24 + len(name) * 6.8
            if at + need > x + width - 60 and index < len(names) - 1:
                still += len(names) - index
                break
            self._out.append(f'<rect x="{at:.0f}" y="{y - 8:.0f}" width="10" height="4" fill="{color}"/>')
            self._text(at + 14, y - 2, name, 11, FAINT)
            at += need
        if still:
            self._text(x + width, y - 2, f"+{still}", 11, FAINT, "end")

    def _bars(self, panel: dict[str, Any], x: float, y: float, width: float, height: float) -> None:
        unit = panel["fieldConfig"]["defaults"].get("unit", "short")
        rows = self._now(panel["targets"][0])
        top = max([value for _, value in rows], default=1.0) or 1.0
        if not rows:
            self._text(x + width / 2, y + height / 2, "none", 13, FAINT, "middle")
        step = min(26.0, height / max(1, len(rows)))
        for index, (labels, value) in enumerate(sorted(rows, key=lambda row: -row[1])):
            at = y + index * step
            name = legend(panel["targets"][0]["legendFormat"], labels)
            self._text(x, at + step / 2 + 4, name, 12, TEXT)
            start, room = x + width * 0.42, width * 0.42
            color = self._color(panel, value)
            self._out.append(
                f'<rect x="{start:.0f}" y="{at + 3:.0f}" width="{max(1.0, room * value / top):.0f}" '
                f'height="{step - 6:.0f}" fill="{color}"/>'
            )
            self._text(x + width, at + step / 2 + 4, said(value, unit), 12, color, "end")

    def _now(self, target: dict[str, Any]) -> list[tuple[dict[str, str], float]]:
        expression = filled(target["expr"], self._values)
        return [row for row in self._source.instant(expression, self._end) if math.isfinite(row[1])]

    def _table(self, panel: dict[str, Any], x: float, y: float, width: float, height: float) -> None:
        units = {
            override["matcher"]["options"]: prop["value"]
            for override in panel["fieldConfig"]["overrides"]
            for prop in override["properties"]
            if prop["id"] == "unit"
        }
        rows: dict[str, dict[str, float]] = {}
        for target in panel["targets"]:
            for labels, value in self._now(target):
                name = " ".join(labels.values())
                rows.setdefault(name, {})[target["legendFormat"]] = value
        columns = [target["legendFormat"] for target in panel["targets"]]
        room = width * 0.72 / max(1, len(columns))
        for index, column in enumerate(columns):
            self._text(x + width * 0.28 + (index + 1) * room, y + 12, column, 12, FAINT, "end")
        for number, (name, cells) in enumerate(
            sorted(rows.items(), key=lambda row: -sum(row[1].values()))[: int(height / 24) - 1]
        ):
            at = y + 36 + number * 24
            self._out.append(f'<path d="M{x:.0f} {at - 17:.0f}h{width:.0f}" stroke="{EDGE}"/>')
            self._text(x, at, name, 13, NAMED["blue"])
            for index, column in enumerate(columns):
                text = said(cells[column], units.get(column, "short")) if column in cells else "–"
                self._text(x + width * 0.28 + (index + 1) * room, at, text, 13, TEXT, "end")


def _round_up(value: float, base: int = 1000) -> float:
    """The next round number above, of units that are `base` times each other."""
    size = float(base) ** math.floor(math.log(value, base)) if value >= 1 else 1.0
    power = size * 10 ** math.floor(math.log10(value / size))
    return next(step * power for step in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)


def picture(board: dict[str, Any], source: Prometheus, values: dict[str, str], start: float, end: float) -> str:
    """A board as SVG."""
    return Picture(source, values, start, end).board(board)


def main() -> None:
    """Draw every board into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--window", default="20s", help="what stands for $__rate_interval")
    parser.add_argument("--instance", default=".*")
    parser.add_argument("--end", type=float, help="Unix time; now")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "pictures")
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    end = given.end or time.time()
    values = {
        "instance": given.instance,
        "provider": ".*",
        "tenant": ".*",
        "__rate_interval": given.window,
        "__interval": "5s",
    }
    for path in sorted((Path(__file__).parents[1] / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        used = {name: value for name, value in values.items() if name[0] == "_" or any(
            variable["name"] == name for variable in board["templating"]["list"])}  # fmt: skip
        assert panels(board)
        drawn = picture(board, Prometheus(given.prometheus), used, end - given.minutes * 60, end)
        (given.folder / f"{path.stem}.svg").write_text(drawn)


if __name__ == "__main__":
    main()
