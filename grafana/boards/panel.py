"""What a board says, as Grafana's JSON: panels, rows, variables and links, by the Grafana Foundation SDK.

Input: a Board of Rows of Panels, each with Queries (query.py). Output: a dictionary, the same for the same input.
Panels flow from left to right and wrap at 24 columns, so that a board is written without coordinates.
What a panel is about is said by itself, or by the help texts of its metrics in the registry.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prom

from angarium.outcome.metrics import REGISTRY

from .query import Query, labels_of, spec_of

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLUMNS = 24
HELP = {spec.name: spec.help for spec in REGISTRY}
TAG = "angarium"
CHANGES = 'changes(angarium_node_configuration_timestamp_seconds{instance=~"$instance"}[$__interval]) > 0'
BUILDERS = {"timeseries": timeseries.Panel, "stat": stat.Panel, "bargauge": bargauge.Panel, "table": table.Panel}
# Series of these names look the same on every board: what is well is green, what waits is yellow, what is not is red.
COLORS = {
    "delivered": "green",
    "accepted": "blue",
    "deferred": "yellow",
    "failed": "red",
    "bounced": "red",
    "expired": "purple",
    "2xx": "green",
    "3xx": "blue",
    "4xx": "yellow",
    "5xx": "red",
    "ok": "green",
    "none": "purple",
}


@dataclass(frozen=True)
class Panel:
    """One panel. `limits`: from which value on which colour holds, the first colour from the beginning."""

    title: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat", "bargauge", "table"] = "timeseries"
    width: int = 8
    height: int = 8
    unit: str = ""
    text: str = ""
    limits: tuple[tuple[float | None, str], ...] = ()
    stacked: bool = False
    bounds: tuple[float | None, float | None] = (0, None)
    decimals: int | None = None
    no_value: str = ""  # what is said when there is nothing to say
    words: tuple[tuple[str, str, str], ...] = ()  # value, what is said for it, colour
    link: tuple[str, str] | None = None  # title, address: of a series
    exemplars: bool = False

    @property
    def description(self) -> str:
        """What a reader is told behind the panel's mark."""
        helps = dict.fromkeys(HELP[name] for query in self.queries for name in query.metrics)
        return self.text or " ".join(helps)


@dataclass(frozen=True)
class Row:
    """A heading and what stands below it."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True)
class Variable:
    """A choice at the head of a board: the values of a label."""

    name: str
    label: str
    query: str
    several: bool = True


@dataclass(frozen=True)
class Board:
    """One board."""

    name: str
    title: str
    text: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()
    links: tuple[tuple[str, str], ...] = field(default=())
    asked: tuple[tuple[str, str], ...] = ()  # name, label: what a reader types in

    @property
    def metrics(self) -> set[str]:
        """What it shows."""
        return {name for row in self.rows for panel in row.panels for query in panel.queries for name in query.metrics}

    @property
    def uid(self) -> str:
        """Under which other boards and runbooks link to it."""
        return f"angarium-{self.name}"


def build(board: Board) -> dict[str, Any]:
    """The board as the JSON that Grafana reads."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.text)
        .tags([TAG, "smtp"])
        .version(1)
        .editable()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in board.variables:
        made.with_variable(_variable(variable))
    for name, label in board.asked:
        made.with_variable(dashboard.TextBoxVariable(name).label(label).default_value(""))
    made.link(
        dashboard.DashboardLink("Boards")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )
    for title, address in board.links:
        made.link(
            dashboard.DashboardLink(title)
            .type(models.DashboardLinkType.LINK)
            .url(address)
            .target_blank(True)
            .icon("doc")
        )
    made.annotation(
        dashboard.AnnotationQuery().name("Configuration").datasource(SOURCE).enable(True).icon_color("blue")
    )
    number, y = 1, 0
    for row in board.rows:
        heading = dashboard.Row(row.title).id(number).collapsed(row.collapsed)
        heading.grid_pos(models.GridPos(h=1, w=COLUMNS, x=0, y=y))
        number, y = number + 1, y + 1
        inside = []
        x = height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            place = models.GridPos(h=panel.height, w=panel.width, x=x, y=y)
            inside.append(_panel(panel).id(number).grid_pos(place))
            number, x, height = number + 1, x + panel.width, max(height, panel.height)
        y += height
        for one in inside:
            if row.collapsed:
                heading.with_panel(one)
        made.with_row(heading)
        if not row.collapsed:
            for one in inside:
                made.with_panel(one)
    content = _plain(made.build())
    # the SDK has no field for what a data source asks for an annotation; Grafana's schema has
    content["annotations"]["list"][0]["target"] = {"expr": CHANGES, "refId": "Anno"}
    for variable in content["templating"]["list"]:
        for name in ("auto", "auto_count", "auto_min"):  # of intervals; the SDK says them of every variable
            variable.pop(name, None)
    return content


def _plain(value: Any) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(value))
    return result


def _variable(variable: Variable) -> Any:
    made = (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(SOURCE)
        .query({"query": variable.query, "refId": variable.name})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(variable.several)
        .include_all(variable.several)
    )
    if variable.several:
        made.all_value(".*").current(models.VariableOption(text="All", value="$__all"))
    return made


def _panel(panel: Panel) -> Any:
    made = BUILDERS[panel.kind]().title(panel.title).description(panel.description).datasource(SOURCE)
    made.unit(panel.unit or panel.queries[0].unit)
    for letter, query in zip("ABCDEFGHIJKLMNOP", panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).datasource(SOURCE)
        if panel.kind in {"table", "bargauge"}:
            target.instant()
        else:
            target.range()
        if panel.kind == "table":
            target.format(prom.PromQueryFormat.TABLE)
        if panel.exemplars:
            target.exemplar(True)
        made.with_target(target)
    if panel.decimals is not None:
        made.decimals(panel.decimals)
    low, high = panel.bounds
    if low is not None:
        made.min(low)
    if high is not None:
        made.max(high)
    if panel.no_value:
        made.no_value(panel.no_value)
    if panel.limits:
        steps = [models.Threshold(value=value, color=color) for value, color in panel.limits]
        made.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    if panel.words:
        options = {
            value: models.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, text, color) in enumerate(panel.words)
        }
        made.mappings([models.ValueMap(options=options)])
    if panel.link:
        title, address = panel.link
        made.data_links([dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(address)])
    {"timeseries": _timeseries, "stat": _stat, "bargauge": _bars, "table": _table}[panel.kind](made, panel)
    return made


def _timeseries(made: Any, panel: Panel) -> None:
    made.line_width(2 if len(panel.queries) < 6 else 1).fill_opacity(30 if panel.stacked else 8)
    made.show_points(kinds.VisibilityMode.NEVER).span_nulls(False)
    made.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    made.legend(
        common.VizLegendOptions()
        .display_mode(kinds.LegendDisplayMode.LIST)
        .placement(kinds.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    made.tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
    if panel.stacked:
        made.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if panel.limits:
        made.thresholds_style(common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED))
    # most series of a closed set rest at zero: they are drawn, and would only fill the legend
    hidden = {"legend": True, "tooltip": False, "viz": False}
    made.with_override(
        models.MatcherConfig(id_val="byValue", options={"reducer": "allIsZero"}),
        [models.DynamicConfigValue(id_val="custom.hideFrom", value=hidden)],
    )
    shown = {query.legend for query in panel.queries}
    for query in panel.queries:
        for name in query.metrics:
            for values in labels_of(spec_of(name.removeprefix("angarium_"))).values():
                shown.update(values)
    for name, color in COLORS.items():
        if name in shown:
            fixed = {"mode": "fixed", "fixedColor": color}
            made.override_by_name(name, [models.DynamicConfigValue(id_val="color", value=fixed)])


def _stat(made: Any, panel: Panel) -> None:
    made.color_mode(kinds.BigValueColorMode.BACKGROUND if panel.words else kinds.BigValueColorMode.VALUE)
    made.graph_mode(kinds.BigValueGraphMode.NONE if panel.words else kinds.BigValueGraphMode.AREA)
    made.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    if not panel.limits:
        steps = [models.Threshold(value=None, color="blue")]
        made.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))


def _bars(made: Any, panel: Panel) -> None:
    made.display_mode(kinds.BarGaugeDisplayMode.BASIC).orientation(kinds.VizOrientation.HORIZONTAL)
    made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    if not panel.limits:
        steps = [models.Threshold(value=None, color="blue")]
        made.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))


def _table(made: Any, panel: Panel) -> None:
    hidden = {"Time": True, "__name__": True, "job": True}
    names = {f"Value #{letter}": query.legend for letter, query in zip("ABCDEFGH", panel.queries, strict=False)}
    if len(panel.queries) > 1:
        made.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    else:
        names = {"Value": panel.queries[0].legend}
    made.with_transformation(
        models.DataTransformerConfig(
            id_val="organize", options={"excludeByName": hidden, "indexByName": {}, "renameByName": names}
        )
    )
    made.show_header(True).cell_height(kinds.TableCellHeight.SM)
    for query in panel.queries:
        made.override_by_name(query.legend, [models.DynamicConfigValue(id_val="unit", value=query.unit)])
