"""What must hold of [[provider]] tables: names that can be labels, and patterns that can match."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from angarium.config.model import Config
    from angarium.config.problem import Findings

__all__ = ["MOST_PROVIDERS", "check_providers"]

MOST_PROVIDERS = 50  # rows of the metrics that count by provider
OTHER = "other"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_providers(config: Config, findings: Findings) -> None:
    """Names, numbers, patterns."""
    names: set[str] = set()
    seen: dict[str, set[str]] = {"domains": set(), "mail_hosts": set()}
    if len(config.provider) > MOST_PROVIDERS:
        where = findings.element(("provider",), MOST_PROVIDERS)
        findings.error(where, f"there are {len(config.provider)} providers, and metrics have room for {MOST_PROVIDERS}")
    for index, provider in enumerate(config.provider):
        path = findings.element(("provider",), index)
        if not _NAME.fullmatch(provider.name):
            message = f'"{provider.name}" is not a name: letters, digits, ".", "_" and "-", at most 64'
            findings.error((*path, "name"), message)
        elif provider.name == OTHER:
            findings.error((*path, "name"), '"other" is the name of what no provider matches')
        elif provider.name in names:
            findings.error((*path, "name"), f'another provider is named "{provider.name}" too')
        names.add(provider.name)
        if not (provider.domains or provider.mail_hosts) and findings.sound(
            (*path, "domains"), (*path, "mail_hosts"), (*path, "name")
        ):
            findings.error((*path, "name"), "matches nothing: it needs domains or mail_hosts")
        for key, patterns in (("domains", provider.domains), ("mail_hosts", provider.mail_hosts)):
            for number, pattern in enumerate(patterns):
                where = findings.element((*path, key), number)
                if pattern.kind in {"address", "any"}:
                    findings.error(
                        where, f'"{pattern}" is no name of one or many: write "example.org" or "*.example.org"'
                    )
                elif str(pattern) in seen[key]:
                    findings.warn(where, f'"{pattern}" is in front of this already, and the first match wins')
                seen[key].add(str(pattern))
