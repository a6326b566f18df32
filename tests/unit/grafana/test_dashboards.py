"""The boards and alert rules name what exists: metrics, labels and their values, variables, runbooks."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from angarium.outcome.metrics import METRICS, PROCESS_METRICS, Kind

ROOT = Path(__file__).parents[3]
BOARDS = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
ALERTS = ROOT / "grafana" / "alerts.yml"
NAME = re.compile(r"\bangarium_\w+")
SELECTOR = re.compile(r"\b(angarium_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')
TARGET_LABELS = {"instance", "job"}  # Prometheus adds them
BUILT_IN = {"__rate_interval"}


def exported() -> dict[str, tuple[str, tuple[str, ...], Kind]]:
    """Every sample's name: its label, that label's values, and its kind."""
    samples = {}
    for spec in METRICS + PROCESS_METRICS:
        names = [spec.name]
        if spec.kind is Kind.HISTOGRAM:
            names = [f"{spec.name}_{suffix}" for suffix in ("bucket", "sum", "count")]
        for name in names:
            samples[name] = (spec.label, spec.label_values, spec.kind)
    return samples


EXPORTED = exported()


def board(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def panels(path: Path) -> list[dict[str, Any]]:
    return [inner for panel in board(path)["panels"] for inner in (panel, *panel.get("panels", []))]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


EXPRESSIONS = [
    pytest.param(target["expr"], id=f"{path.stem}-{panel['title']}-{target['refId']}")
    for path in BOARDS
    for panel in panels(path)
    for target in panel.get("targets", [])
] + [pytest.param(rule["expr"], id=rule["alert"]) for rule in rules()]


def test_there_are_boards_panels_and_rules() -> None:
    assert BOARDS
    assert len(EXPRESSIONS) > 60


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_metrics_that_exist(expression: str) -> None:
    names = set(NAME.findall(expression))
    assert names or expression == 'up{job="angarium"} == 0'
    assert names <= set(EXPORTED)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_selects_labels_and_values_that_exist(expression: str) -> None:
    for name, selector in SELECTOR.findall(expression):
        label, values, _ = EXPORTED[name]
        for matched, operator, value in MATCHER.findall(selector):
            if matched in TARGET_LABELS:
                continue
            assert matched == label, f"{name} has no label {matched}"
            pattern = value if operator == "=~" else re.escape(value)
            assert any(re.fullmatch(pattern, known) for known in values), f"{name}: {label} is never {value}"
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        labels = {EXPORTED[name][0] for name in NAME.findall(expression)}
        assert {word.strip() for word in grouped.split(",")} <= labels | TARGET_LABELS | {"le"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_counters_are_asked_for_their_rate_and_gauges_are_not(expression: str) -> None:
    rated = set(re.findall(r"\b(?:rate|increase)\((angarium_\w+)", expression))
    for name in NAME.findall(expression):
        assert (EXPORTED[name][2] is not Kind.GAUGE) == (name in rated), name


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_parentheses_and_braces_are_closed(expression: str) -> None:
    for pair in ("()", "{}", "[]"):
        assert expression.count(pair[0]) == expression.count(pair[1])
    assert expression.count('"') % 2 == 0


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_panels_have_ids_places_units_and_descriptions_of_their_own(path: Path) -> None:
    ids = Counter(panel["id"] for panel in panels(path))
    assert [number for number, times in ids.items() if times > 1] == []
    cells: Counter[tuple[int, int]] = Counter()
    for panel in panels(path):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells.update(
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        )
        if panel["type"] != "row":
            assert len(panel["description"]) > 3, panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs) > 0
    assert max(cells.values()) == 1, "panels overlap"


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_units_fit_what_is_shown(path: Path) -> None:
    for panel in panels(path):
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
        for target in panel.get("targets", []):
            expression = target["expr"]
            if "histogram_quantile" in expression:
                assert unit == "s", panel["title"]
            elif "_bytes" in expression:
                assert unit == ("Bps" if "rate(" in expression else "bytes"), panel["title"]
            elif " / " in expression:
                assert unit in {"percentunit", "short"}, panel["title"]
            elif "rate(" in expression and "cpu_seconds" not in expression:
                assert unit == "cps", panel["title"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_data_comes_from_the_variable_and_variables_exist(path: Path) -> None:
    content = board(path)
    variables = {variable["name"]: variable for variable in content["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for panel in panels(path):
        for source in (panel, *panel.get("targets", [])):
            if panel["type"] != "row":
                assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    queries = [target["expr"] for panel in panels(path) for target in panel.get("targets", [])]
    used = {name for query in queries for name in re.findall(r"\$\{?(\w+)", query)}
    assert used <= set(variables) | BUILT_IN
    assert all("$instance" in query for query in queries)
    for variable in variables.values():
        if variable["type"] == "query":
            assert set(NAME.findall(variable["definition"])) <= set(EXPORTED)


def test_an_alert_has_what_whoever_is_woken_needs() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    headings = {heading.lower() for heading in re.findall(r"^#### (\w+)$", operations, re.M)}
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    assert {name.lower() for name in names} == headings, "every alert has a runbook, and every runbook an alert"
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_shares_have_a_minimum_volume() -> None:
    for rule in rules():
        if " / " in rule["expr"]:
            assert re.search(r"and .*increase\(.*> \d+", rule["expr"]), rule["alert"]


def test_provisioning_fits_together() -> None:
    folder = ROOT / "grafana"
    prometheus = yaml.safe_load((folder / "prometheus.yml").read_text())
    jobs = [job["job_name"] for job in prometheus["scrape_configs"]]
    assert jobs == ["angarium"], "the alert AngariumDown asks for this job"
    source = yaml.safe_load((folder / "provisioning" / "datasources" / "prometheus.yml").read_text())
    assert [entry["type"] for entry in source["datasources"]] == ["prometheus"]
    assert source["datasources"][0]["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    provider = yaml.safe_load((folder / "provisioning" / "dashboards" / "angarium.yml").read_text())
    assert provider["providers"][0]["options"]["path"] in (folder / "README.md").read_text()
