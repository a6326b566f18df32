"""The domains bench: a smoke run of both relays at a few dozen domains, and its report. The figures mean nothing."""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.domains import __main__ as command
from bench.domains.relays import AngariumByMx, PostfixByMx
from bench.load import accounting, spool, stage
from bench.load.machine import cores_of, on_cores
from bench.load.relays import Ground
from tests.support.ports import free_port, is_free

PATH = f"{os.environ['PATH']}:/usr/sbin"
TOOLS = ("smtp-sink", "nsd", "unbound")
HOST, OTHER_HOST, RESOLVER = "127.0.0.78", "127.0.0.79", "127.53.0.2"
ALL = frozenset(os.sched_getaffinity(0))
DOMAINS = 60

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or not all(shutil.which(tool, path=PATH) for tool in TOOLS)
    or not (is_free(HOST, 25) and is_free(OTHER_HOST, 25) and is_free(RESOLVER, 53)),
    reason=f"needs root, {', '.join(TOOLS)} (`make peers`), and ports 25 and 53 of loopback addresses",
)


def can_mount() -> bool:
    """Whether Postfix can be given an /etc/resolv.conf of its own."""
    probe = ["unshare", "--mount", "mount", "--bind", "/etc/hosts", "/etc/hosts"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def place() -> command.Place:
    return command.Place(
        hosts=(HOST, OTHER_HOST),
        resolver=RESOLVER,
        authority_port=free_port(),
        relay_port=free_port(),
        admin_port=free_port(),
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not in pytest's own: Postfix's users may not enter it."""
    with tempfile.TemporaryDirectory(prefix="angarium-domains-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def ground(folder: Path, place: command.Place) -> Ground:
    ground = Ground(
        spool.Spool(folder / "spool", "plain directory"),
        folder / "state",
        accounting.ProcessTree(),
        relay_port=place.relay_port,
        admin_port=place.admin_port,
        quiet_limit_s=0,
    )
    ground.spool.folder.mkdir()
    ground.state.mkdir()
    return ground


@pytest.fixture(params=[0, 7], ids=["a host each", "hosts in common"])
def sizes(request: pytest.FixtureRequest) -> command.Sizes:
    return command.Sizes(domains=DOMAINS, hosts=request.param, sessions=5, repetitions=1, limit_s=60.0)


@pytest.fixture
def names(folder: Path, sizes: command.Sizes, place: command.Place) -> Iterator[Any]:
    names = command.make_names(folder / "names", sizes, place)
    names.start()
    yield names
    names.close()


def test_angarium(ground: Ground, names: Any, sizes: command.Sizes, place: command.Place) -> None:
    run = command.measure(AngariumByMx(ground, names, ALL), names, sizes, place)
    assert run["ok"], run
    assert (run["arrived"], run["error"]) == (DOMAINS, "")
    assert run["cpu_us"] > 0
    options = argparse.Namespace(durability="fsync", nice=0)
    result = stage.describe("domains", "bench.domains", options, ground, [AngariumByMx(ground, names, ALL)], False)
    other = run | {"relay": "postfix", "repetition": 1, "rate": run["rate"] / 8}
    result |= {"cores": "apart", "runs": [run | {"relay": "angarium", "repetition": 1}, other]}
    result["sizes"] = {name: getattr(sizes, name) for name in command.Sizes.__dataclass_fields__}
    text = command.render(json.loads(json.dumps(result)))
    assert "# 60 distinct domains" in text
    assert "| end to end, beside Postfix | ≥ 5× | 8.0× | yes |" in text
    assert "Half of the cores is the relay's" in text


def test_the_cores_are_shared_out() -> None:
    with on_cores(ALL):
        relay, others = cores_of("apart")
        assert relay | others == ALL
        assert not relay & others or len(ALL) == 1
        assert cores_of("shared") == (ALL, ALL)
        with on_cores(relay):
            assert os.sched_getaffinity(0) == relay
        assert os.sched_getaffinity(0) == ALL


@pytest.mark.skipif(not can_mount(), reason="no mount namespaces here")
def test_postfix(ground: Ground, names: Any, sizes: command.Sizes, place: command.Place) -> None:
    relay = PostfixByMx(ground, names, ALL)
    if reason := relay.unavailable():
        pytest.skip(reason)
    run = command.measure(relay, names, sizes, place)
    assert run["ok"], run
    assert run["arrived"] == DOMAINS
