"""The boards against Grafana's own types (@grafana/schema, as it is published), judged by TypeScript's compiler."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from grafana.boards.ask import panels
from tests.support.clients import NODE_MODULES

MODULES = NODE_MODULES.parent / "grafana" / "node_modules"
SCHEMA = MODULES / "@grafana" / "schema" / "dist" / "esm"
COMPILER = MODULES / "typescript" / "bin" / "tsc"
BOARDS = sorted((Path(__file__).parents[3] / "grafana" / "dashboards").glob("*.json"))
PLUGINS = {"timeseries": "TimeSeries", "stat": "Stat", "bargauge": "BarGauge", "table": "Table"}
WITH_FIELDS = {"timeseries", "table"}

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(
        shutil.which("node") is None or not COMPILER.exists() or not SCHEMA.exists(),
        reason="@grafana/schema or typescript is not installed (.ci/install-peers)",
    ),
]

HEAD = """
import type {{ AnnotationQuery, Dashboard, DataQuery, Panel, RowPanel }} from '@grafana/schema';
{imports}
// what is an enum in the types is its value in JSON
type Json<T> = T extends string ? `${{T}}` : T extends object ? {{ [K in keyof T]: Json<T[K]> }} : T;
// what is not said takes Grafana's default
type Some<T> = T extends unknown[] ? T : T extends object ? {{ [K in keyof T]?: Some<T[K]> }} : T;
"""


def module(board: dict[str, Any]) -> str:
    """A TypeScript module that says what type the board, each of its panels, and their options are of."""
    imports = "\n".join(
        f"import type * as {name} from '{SCHEMA}/raw/composable/{plugin}/panelcfg/x/{name}PanelCfg_types.gen';"
        for plugin, name in PLUGINS.items()
    )
    lines = [HEAD.format(imports=imports)]
    rest = {name: value for name, value in board.items() if name not in {"panels", "annotations"}}
    lines.append(f"export const board: Json<Dashboard> = {json.dumps(rest)};")
    annotations = json.dumps(board["annotations"]["list"])
    lines.append(f"export const annotations: Json<AnnotationQuery<DataQuery & {{ expr: string }}>>[] = {annotations};")
    for row in (panel for panel in board["panels"] if panel["type"] == "row"):
        plain = {name: value for name, value in row.items() if name != "panels"}
        lines.append(f"export const row{row['id']}: Json<Omit<RowPanel, 'panels'>> = {json.dumps(plain)};")
    for panel in panels(board):
        number, name = panel["id"], PLUGINS[panel["type"]]
        lines.append(f"export const panel{number}: Json<Panel> = {json.dumps(panel)};")
        lines.append(f"export const options{number}: Json<Some<{name}.Options>> = {json.dumps(panel['options'])};")
        if panel["type"] in WITH_FIELDS:
            custom = panel["fieldConfig"]["defaults"].get("custom", {})
            lines.append(f"export const custom{number}: Json<Some<{name}.FieldConfig>> = {json.dumps(custom)};")
    return "\n".join(lines) + "\n"


def judged(folder: Path, boards: dict[str, dict[str, Any]]) -> str:
    """What the compiler says of some boards; nothing when all is well."""
    (folder / "node_modules").symlink_to(MODULES)
    for name, board in boards.items():
        (folder / f"{name}.ts").write_text(module(board))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext"]
    options += ["--moduleResolution", "bundler"]
    files = [str(folder / f"{name}.ts") for name in boards]
    done = subprocess.run(
        ["node", str(COMPILER), *options, *files], capture_output=True, text=True, check=False, cwd=folder
    )
    return done.stdout + done.stderr


def test_boards_are_of_grafana_s_types(tmp_path: Path) -> None:
    assert judged(tmp_path, {path.stem: json.loads(path.read_text()) for path in BOARDS}) == ""


def test_what_is_not_is_refused(tmp_path: Path) -> None:
    board = json.loads(BOARDS[0].read_text())
    board["timzone"] = "browser"
    first, second, third = panels(board)[:3]
    first["options"]["colorMode"] = "gaudy"
    second["gridPos"]["w"] = "wide"
    third["datasource"] = "Prometheus"
    said = judged(tmp_path, {"wrong": board})
    assert "timzone" in said
    assert '"gaudy"' in said
    assert said.count("error TS") >= 4
