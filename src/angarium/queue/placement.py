"""Which worker owns which shard.

A spool is made with a fixed number of shards. At each start they are shared out among the workers there are, so that a
spool can be served by more or fewer workers than before; a shard has exactly one owner, and every worker has at least
one."""

from pathlib import Path

import msgspec

MOST_SHARDS = 256  # eight bits of a queue id
SPOOL_VERSION = 1


class SpoolError(Exception):
    """The spool cannot be used as it is; the text says why and what to do."""


class _Description(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    shards: int


def shards_of(worker: int, workers: int, shards: int) -> list[int]:
    """The shards that worker (counted from 0) owns. The first of them takes its intake."""
    return list(range(worker, shards, workers))


def shard_folder(spool: Path, shard: int) -> Path:
    """Where a shard's segments are."""
    return spool / "shards" / f"{shard:03d}"


def describe_spool(spool: Path, wanted_shards: int, workers: int) -> int:
    """Make the spool if it is new, else read how many shards it has. Returns that number.

    `wanted_shards` counts for a new spool only. SpoolError: an unknown version, or more workers than shards.
    """
    path = spool / "spool.json"
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        try:
            description = msgspec.json.decode(path.read_bytes(), type=_Description)
        except msgspec.MsgspecError as failure:
            raise SpoolError(f"{path}: {failure}") from failure
        if description.version != SPOOL_VERSION:
            raise SpoolError(
                f"{path}: version {description.version} of the spool is not known here (this is {SPOOL_VERSION})"
            )
    else:
        if not 1 <= wanted_shards <= MOST_SHARDS:
            raise SpoolError(f"a spool has 1 to {MOST_SHARDS} shards, not {wanted_shards}")
        description = _Description(version=SPOOL_VERSION, shards=wanted_shards)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(description) + b"\n")
        temporary.rename(path)
    if workers > description.shards:
        raise SpoolError(
            f"{spool} was made with {description.shards} shards: at most that many workers can serve it, not {workers}"
        )
    for shard in range(description.shards):
        shard_folder(spool, shard).mkdir(mode=0o700, parents=True, exist_ok=True)
    return description.shards
