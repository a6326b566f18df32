"""Which worker owns which shard, and what a spool says of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from angarium.queue.placement import MOST_SHARDS, SpoolError, describe_spool, shard_folder, shards_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("shards", [1, 2, 3, 8, 256])
def test_every_shard_has_one_owner_and_every_worker_a_shard(shards: int) -> None:
    for workers in range(1, shards + 1):
        owned = [shards_of(worker, workers, shards) for worker in range(workers)]
        assert all(owned)
        assert sorted(shard for of_worker in owned for shard in of_worker) == list(range(shards))
        assert max(map(len, owned)) - min(map(len, owned)) <= 1


def test_a_new_spool_is_made_with_what_is_wanted(tmp_path: Path) -> None:
    spool = tmp_path / "a" / "spool"
    assert describe_spool(spool, 4, 2) == 4
    assert json.loads((spool / "spool.json").read_text()) == {"version": 1, "shards": 4}
    assert sorted(path.name for path in (spool / "shards").iterdir()) == ["000", "001", "002", "003"]
    assert shard_folder(spool, 3) == spool / "shards" / "003"
    assert spool.stat().st_mode & 0o077 == 0
    assert not (spool / "spool.new").exists()


def test_a_spool_keeps_its_number_of_shards(tmp_path: Path) -> None:
    describe_spool(tmp_path, 4, 2)
    (shard_folder(tmp_path, 0) / "000000.segment").write_bytes(b"mail")
    for wanted, workers in ((1, 1), (8, 4), (0, 3), (10_000, 1)):
        assert describe_spool(tmp_path, wanted, workers) == 4
    assert (shard_folder(tmp_path, 0) / "000000.segment").read_bytes() == b"mail"


def test_a_shard_folder_that_is_missing_is_made_again(tmp_path: Path) -> None:
    describe_spool(tmp_path, 2, 1)
    shard_folder(tmp_path, 1).rmdir()
    describe_spool(tmp_path, 2, 1)
    assert shard_folder(tmp_path, 1).is_dir()


def test_more_workers_than_shards_are_refused(tmp_path: Path) -> None:
    describe_spool(tmp_path, 2, 2)
    with pytest.raises(SpoolError, match="made with 2 shards: at most that many workers can serve it, not 3"):
        describe_spool(tmp_path, 8, 3)


@pytest.mark.parametrize("wanted", [-1, 0, MOST_SHARDS + 1])
def test_a_number_of_shards_that_cannot_be_is_refused(tmp_path: Path, wanted: int) -> None:
    with pytest.raises(SpoolError, match="1 to 256 shards"):
        describe_spool(tmp_path, wanted, 1)
    assert not (tmp_path / "spool.json").exists()
    assert describe_spool(tmp_path, MOST_SHARDS, 1) == 256


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ('{"version": 2, "shards": 4}', "version 2 of the spool is not known here"),
        ('{"version": 1}', "shards"),
        ('{"version": 1, "shards": 4, "colour": "red"}', "colour"),
        ('{"version": 1, "shards": "many"}', "shards"),
        ("", "spool.json"),
        ("not json", "spool.json"),
    ],
)
def test_a_spool_that_is_not_understood_is_left_alone(tmp_path: Path, description: str, why: str) -> None:
    (tmp_path / "spool.json").write_text(description)
    with pytest.raises(SpoolError, match=why) as refused:
        describe_spool(tmp_path, 4, 1)
    assert "spool.json" in str(refused.value)
    assert (tmp_path / "spool.json").read_text() == description
    assert not (tmp_path / "shards").exists()
