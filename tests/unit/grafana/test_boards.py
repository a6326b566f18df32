"""The boards and rules are what the registry makes of them, name what exists, and can be read."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from angarium.outcome.metrics import REGISTRY, Kind
from grafana.boards import NOT_SHOWN, boards, made, node
from grafana.boards.ask import VARIABLE, filled, legend, panels
from grafana.boards.query import Scope
from grafana.boards.render import picture, said
from grafana.boards.rules import ALERTS

if TYPE_CHECKING:
    from grafana.boards.ask import Prometheus

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "grafana"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))}
NAME = re.compile(r"(?<![:\w-])angarium_\w+")
SELECTOR = re.compile(r"(?<![:\w-])(angarium_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')
TARGET_LABELS = {"instance", "job"}  # Prometheus adds them
BUILT_IN = {"__rate_interval", "__interval"}


def exported() -> dict[str, tuple[dict[str, tuple[str, ...]], Kind]]:
    """Every sample's name: its labels with their values, and its kind."""
    samples = {}
    for spec in REGISTRY:
        histogram = spec.kind in {Kind.HISTOGRAM, Kind.GAUGE_HISTOGRAM}
        for name in [f"{spec.name}_{end}" for end in ("bucket", "sum", "count")] if histogram else [spec.name]:
            samples[name] = ({label.name: label.values for label in spec.labels}, spec.kind)
    return samples


EXPORTED = exported()


def rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load((FOLDER / name).read_text()) for name in ("recording.yml", "alerts.yml")]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


EXPRESSIONS = [
    pytest.param(target["expr"], id=f"{name}-{panel['title']}-{target['refId']}")
    for name, board in BOARDS.items()
    for panel in panels(board)
    for target in panel["targets"]
] + [pytest.param(rule["expr"], id=rule.get("alert") or rule["record"]) for rule in rules()]


# ---------------------------------------------------------------- made from the registry


@pytest.mark.parametrize("name", made())
def test_a_file_is_what_the_registry_makes_of_it(name: str) -> None:
    assert (FOLDER / name).read_text() == made()[name], "run: make boards"


def test_no_other_board_lies_about() -> None:
    assert {f"dashboards/{name}.json" for name in BOARDS} == {name for name in made() if name.endswith(".json")}
    assert [board.name for board in boards()] == ["overview", "provider", "tenant", "node"]


def test_every_metric_is_on_a_board_or_is_not_for_a_reason() -> None:
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        if EXPORTED[name][1] in {Kind.HISTOGRAM, Kind.GAUGE_HISTOGRAM}
        else name
        for board in BOARDS.values()
        for panel in panels(board)
        for target in panel["targets"]
        for name in NAME.findall(target["expr"])
    }
    known = {spec.name for spec in REGISTRY}
    assert shown | set(NOT_SHOWN) == known
    assert not shown & set(NOT_SHOWN)
    assert all(len(reason) > 10 for reason in NOT_SHOWN.values())


def test_a_metric_that_has_no_place_gets_one() -> None:
    everything = {spec.name for spec in REGISTRY}
    missing = {"angarium_queue_messages", "angarium_ingress_rejections_total", "angarium_queue_write_latency_seconds"}
    row = node.with_rest(everything - missing).rows[-1]
    assert {name for panel in row.panels for query in panel.queries for name in query.metrics} == missing
    assert node.with_rest(everything) == node.BOARD


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda: Scope().level("queue_mesages"), "no metric angarium_queue_mesages"),
        (lambda: Scope().rate("ingress_rejections_total", "raison"), "no label raison"),
        (lambda: Scope().rate("ingress_rejections_total", reason="weather"), "reason is never weather"),
        (lambda: Scope().level("queue_messages", provider="x"), "no label provider"),
    ],
)
def test_what_the_registry_has_not_cannot_be_asked(ask: Any, why: str) -> None:
    with pytest.raises(LookupError, match=why):
        ask()


def test_gauges_have_no_rate_and_counters_no_level() -> None:
    with pytest.raises(TypeError):
        Scope().rate("queue_messages")
    with pytest.raises(TypeError):
        Scope().level("ingress_messages_total")
    with pytest.raises(TypeError):
        Scope().quantile(0.5, "ingress_messages_total")


# ---------------------------------------------------------------- expressions


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_metrics_that_exist(expression: str) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    names = set(NAME.findall(expression))
    assert names <= set(EXPORTED)
    assert set(re.findall(r"\binstance\w*:[\w:]+", expression)) <= recorded
    assert names or expression == 'up{job="angarium"} == 0'


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_selects_labels_and_values_that_exist(expression: str) -> None:
    for name, selector in SELECTOR.findall(expression):
        labels = EXPORTED[name][0]
        for matched, operator, value in MATCHER.findall(selector):
            if matched in TARGET_LABELS:
                continue
            assert matched in labels, f"{name} has no label {matched}"
            if labels[matched] and "$" not in value:
                pattern = value if operator == "=~" else re.escape(value)
                assert any(re.fullmatch(pattern, known) for known in labels[matched]), (
                    f"{name}: {matched} is never {value}"
                )
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        known = {label for name in NAME.findall(expression) for label in EXPORTED[name][0]}
        assert {word.strip() for word in grouped.split(",")} <= known | TARGET_LABELS | {"le"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_counters_are_asked_for_their_rate_and_gauges_are_not(expression: str) -> None:
    rated = set(re.findall(r"\b(?:rate|increase)\((angarium_\w+)", expression))
    for name in NAME.findall(expression):
        assert (EXPORTED[name][1] in {Kind.COUNTER, Kind.HISTOGRAM}) == (name in rated), name


# ---------------------------------------------------------------- panels


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_ids_places_and_words_of_their_own(name: str) -> None:
    board = BOARDS[name]
    every = [inner for panel in board["panels"] for inner in (panel, *panel.get("panels", []))]
    assert [number for number, times in Counter(panel["id"] for panel in every).items() if times > 1] == []
    cells: Counter[tuple[int, int]] = Counter()
    for panel in every:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells.update(
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        )
    assert max(cells.values()) == 1, "panels overlap"
    titles = Counter(panel["title"] for panel in panels(board))
    assert [title for title, times in titles.items() if times > 1] == []
    for panel in panels(board):
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0
        if len(panel["targets"]) > 1:
            legends = [target["legendFormat"] for target in panel["targets"]]
            assert len(set(legends)) == len(legends), panel["title"]


@pytest.mark.parametrize("name", BOARDS)
def test_units_fit_what_is_shown(name: str) -> None:
    for panel in panels(BOARDS[name]):
        if panel["type"] == "table":
            continue  # a unit for each column
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            expression = target["expr"]
            if "histogram_quantile" in expression:
                assert unit == ("s" if "_seconds" in expression else "short"), panel["title"]
            elif "_bytes" in expression:
                assert unit == ("Bps" if "rate(" in expression else "bytes"), panel["title"]
            elif " / " in expression:
                assert unit in {"percentunit", "short"}, panel["title"]
            elif "rate(" in expression and "_seconds" not in expression:
                assert unit == "cps", panel["title"]


@pytest.mark.parametrize("name", BOARDS)
def test_data_comes_from_the_variable_and_variables_exist(name: str) -> None:
    board = BOARDS[name]
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    for panel in panels(board):
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert set(VARIABLE.findall(target["expr"])) <= set(variables) | BUILT_IN
            assert "$instance" in target["expr"]
    for variable in variables.values():
        if variable["type"] == "query":
            assert set(NAME.findall(variable["query"]["query"])) <= set(EXPORTED)


def test_links_lead_to_boards_and_variables_that_exist() -> None:
    text = "\n".join(path.read_text() for path in [*(FOLDER / "dashboards").glob("*.json"), FOLDER / "alerts.yml"])
    uids = {board["uid"]: {variable["name"] for variable in board["templating"]["list"]} for board in BOARDS.values()}
    found = re.findall(r"/d/([\w-]+)\?([^\"\s]*)", text)
    assert found
    for uid, parameters in found:
        assert uid in uids
        assert set(re.findall(r"var-(\w+)=", parameters)) <= uids[uid]
    for board in BOARDS.values():
        assert any(link["type"] == "dashboards" and link["tags"] == ["angarium"] for link in board["links"])
        assert "angarium" in board["tags"]


# ---------------------------------------------------------------- rules and what goes with them


def test_an_alert_has_what_whoever_is_woken_needs() -> None:
    page = (ROOT / "docs" / "runbooks.md").read_text()
    books = {title.lower(): text for title, text in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.M | re.S)}
    alerts = [rule for rule in rules() if "alert" in rule]
    assert [alert.name.lower() for alert in ALERTS] == list(books), "every alert has a runbook, in the same order"
    for rule in alerts:
        book = books[rule["alert"].lower()]
        severity = rule["labels"]["severity"]
        assert severity in {"page", "ticket"}
        assert f"**Means** ({severity}):" in book
        assert "**See**:" in book
        assert "**Do**:" in book
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        assert rule["annotations"]["runbook_url"].endswith(f"docs/runbooks.md#{rule['alert'].lower()}")


def test_panels_that_runbooks_name_exist() -> None:
    page = (ROOT / "docs" / "runbooks.md").read_text()
    titles = {panel["title"] for board in BOARDS.values() for panel in panels(board)}
    series = {
        target["legendFormat"] for board in BOARDS.values() for panel in panels(board) for target in panel["targets"]
    }
    named = set(re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", page))
    assert len(named) > 20
    assert named <= titles | series


def test_a_share_that_stands_large_has_a_minimum_volume() -> None:
    """A stat is looked at from afar: three results at night must not make it red."""
    shares = [
        panel
        for board in BOARDS.values()
        for panel in panels(board)
        if panel["type"] == "stat" and panel["fieldConfig"]["defaults"]["unit"] == "percentunit"
    ]
    assert len(shares) > 5
    for panel in shares:
        assert re.search(r"and .*increase\(.*\[(15m|1h)\]\)\) >= \d+", panel["targets"][0]["expr"]), panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"] == "too few"


def test_series_that_rest_leave_the_legend() -> None:
    for board in BOARDS.values():
        for panel in panels(board):
            if panel["type"] == "timeseries":
                first = panel["fieldConfig"]["overrides"][0]
                assert first["matcher"] == {"id": "byValue", "options": {"reducer": "allIsZero"}}
                assert first["properties"] == [
                    {"id": "custom.hideFrom", "value": {"legend": True, "tooltip": False, "viz": False}}
                ]


def test_a_message_is_found_by_its_id() -> None:
    node = BOARDS["node"]
    (link,) = [link["url"] for link in node["links"] if "message=" in link.get("url", "")]
    assert link == "http://${instance}/#message=${message}"
    (asked,) = [variable for variable in node["templating"]["list"] if variable["name"] == "message"]
    assert asked["type"] == "textbox"


def test_shares_have_a_minimum_volume() -> None:
    for alert in ALERTS:
        if " / " in alert.expr or "ratio_rate" in alert.expr:
            assert re.search(r"and .*increase\(.*> \d+", alert.expr), alert.name


def test_provisioning_fits_together() -> None:
    prometheus = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    jobs = [job["job_name"] for job in prometheus["scrape_configs"]]
    assert jobs == ["angarium"], "the alert AngariumDown asks for this job"
    readme = (FOLDER / "README.md").read_text()
    assert all(name in readme for name in prometheus["rule_files"])
    (source,) = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    (destination,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["url"].endswith("#message=$${__value.raw}")
    provider = yaml.safe_load((FOLDER / "provisioning" / "dashboards" / "angarium.yml").read_text())
    assert provider["providers"][0]["options"]["path"] in readme


@pytest.mark.parametrize("name", BOARDS)
def test_the_readme_shows_each_board(name: str) -> None:
    """A picture may be a few panels behind its board; when it is more, grafana/README.md says how to draw it again."""
    assert f"pictures/{name}.svg" in (FOLDER / "README.md").read_text()
    drawn = (FOLDER / "pictures" / f"{name}.svg").read_text()
    titles = [panel["title"].replace("&", "&amp;") for panel in panels(BOARDS[name], collapsed=False)]
    assert sum(f">{title}<" in drawn for title in titles) >= 0.8 * len(titles)


# ---------------------------------------------------------------- what asks and draws


def test_variables_are_filled_in() -> None:
    values = {"instance": ".*", "__rate_interval": "5m"}
    assert filled('rate(x{instance=~"$instance"}[$__rate_interval])', values) == 'rate(x{instance=~".*"}[5m])'
    with pytest.raises(LookupError):
        filled("x{a=~'$other'}", values)
    assert legend("{{result}} of {{ x }}", {"result": "ok", "x": "y"}) == "ok of y"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.1234, "percentunit", "12.3%"),
        (1500, "cps", "1.5 K /s"),
        (0.0421, "s", "42.1 ms"),
        (7200, "s", "2 h"),
        (1536, "bytes", "1.5 KiB"),
        (3, "short", "3"),
        (float("nan"), "short", "no data"),
    ],
)
def test_values_are_said_with_their_units(value: float, unit: str, text: str) -> None:
    assert said(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s ago"), (250, "4 min ago"), (7300, "2 h ago"), (1e6, "12 d ago")]
)
def test_moments_are_said_by_how_long_ago_they_were(seconds: float, text: str) -> None:
    assert said((time.time() - seconds) * 1000, "dateTimeFromNow") == text


class Told:
    """Says the same of every expression: a line from 0 to `top`, and one that rests."""

    def __init__(self, top: float) -> None:
        self.top = top

    def range(self, expression: str, start: float, end: float, step: float) -> list[Any]:
        if "increase" in expression and " and " in expression:
            return []
        return [({"state": "a"}, [(start, 0.0), (end, self.top)]), ({"state": "b"}, [(start, 0.0), (end, 0.0)])]

    def instant(self, expression: str, at: float) -> list[Any]:
        return [({"state": "a"}, self.top)]


def test_a_picture_has_round_octets_times_and_words_for_too_little() -> None:
    values = {"instance": "relay", "__rate_interval": "5m"}
    drawn = picture(BOARDS["overview"], cast("Prometheus", Told(57 * 2**20)), values, 1795680000.0, 1795680600.0)
    assert ">60 MiB<" in drawn
    assert ">30 MiB<" in drawn
    assert drawn.count(">08:00<") == drawn.count(">08:05<") == drawn.count(">08:10<") > 10
    assert drawn.count(">too few<") == 2
    assert "instance: relay · last 10 minutes" in drawn
