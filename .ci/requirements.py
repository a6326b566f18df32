"""Print every dependency that pyproject.toml names, extras included, one a line: old pips know no dependency groups."""

import pathlib
import sys
import tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
names = list(project["dependencies"])
for extra in project["optional-dependencies"].values():
    names += extra
sys.stdout.write("\n".join(names) + "\n")
