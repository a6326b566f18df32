"""A module of this package in a process of its own, so that what it costs is its own and not the bench's."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from bench.load.relays import PROJECT, Angarium, RelayFailure


class Program:
    """Run with the interpreter of the checkout's venv; the last line of its standard output is its result."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._what = f"{module} {' '.join(arguments)}"
        self._process = subprocess.Popen(
            [str(Angarium.python), "-m", f"bench.queue.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
        )

    def running(self) -> bool:
        return self._process.poll() is None

    def wait_begun(self) -> None:
        """Until it has said something, or has ended; it says nothing more before its end."""
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def finish(self, limit_s: float) -> dict[str, Any]:
        """End its standard input, wait for its end, and return its result; RelayFailure when it failed."""
        try:
            out, errors = self._process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.close()
            raise RelayFailure(f"{self._what}: not done in {limit_s:g} s") from None
        if self._process.returncode:
            raise RelayFailure(f"{self._what}: {' '.join((out + errors).split())[-300:]}")
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result

    def close(self) -> None:
        if self.running():
            self._process.terminate()
        self._process.communicate()
