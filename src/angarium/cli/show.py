"""How the commands show tables, sizes, ages and messages to people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from angarium.cli.client import printable
from angarium.config.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ago", "octets_text", "recipients_text", "show_table"]

RECIPIENTS_SHOWN = 3


def show_table(
    head: Iterable[str] | None, rows: Iterable[Iterable[str]], *, right: tuple[int, ...] = (), err: bool = False
) -> None:
    """Print a table on standard output (or standard error), as wide as the terminal.

    What comes from outside is made printable.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=head is not None, header_style="bold", padding=(0, 2, 0, 0))
    wanted = [tuple(row) for row in rows]
    names = tuple(head) if head is not None else ("",) * max(map(len, wanted), default=0)
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i in right else "left", overflow="fold")
    for row in wanted:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(stderr=err)
    # a pipe or a file has no width of its own: nothing is folded there
    if not console.is_terminal:
        console = Console(width=100_000, stderr=err)
    console.print(table, soft_wrap=not console.is_terminal)


def octets_text(octets: float) -> str:
    """A size for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if octets < 1024:
            return f"{octets:.0f} {unit}" if unit == "B" or octets >= 10 else f"{octets:.1f} {unit}"
        octets /= 1024
    return f"{octets:,.1f} TiB"


def ago(seconds: float) -> str:
    """A duration for people, to two units: `1h 30m`."""
    whole = math.floor(seconds)
    if whole < 60:
        return format_duration(float(whole))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    return " ".join(parts)


def span_text(seconds: float) -> str:
    """How long something took: 8.88 ms, 2.7 s, 3 min."""
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 60 else ago(seconds)


def recipients_text(message: dict[str, Any]) -> str:
    """The first few recipients of a message, each with its state."""
    recipients = message["recipients"]
    shown = [f"{recipient['address']} ({recipient['state']})" for recipient in recipients[:RECIPIENTS_SHOWN]]
    if len(recipients) > RECIPIENTS_SHOWN:
        shown.append(f"and {len(recipients) - RECIPIENTS_SHOWN:,} more")
    return ", ".join(shown)
