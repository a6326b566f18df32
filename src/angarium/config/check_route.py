"""What must hold of the routes of a configuration.

Beside the checks that angarium.config.check tells of: every tenant and listener that a route names is there, the next
hops of one route are alternatives of one another, no mail is led back to a listener of this relay, and a program can be
run. Users and files are looked up on this machine; nothing is run.
"""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from angarium.config.check_auth import check_auth
from angarium.config.model import SENDMAIL, Pipe
from angarium.config.next_hop import SESSION_KINDS
from angarium.config.problem import nearest

if TYPE_CHECKING:
    from collections.abc import Collection

    from angarium.config.locate import KeyPath
    from angarium.config.model import Config, Listener, Route
    from angarium.config.next_hop import NextHop
    from angarium.config.problem import Findings

__all__ = ["check_route", "check_shadows", "check_stays", "leads_to"]

_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104  (compared with, not bound)


def check_route(config: Config, route: Route, path: KeyPath, findings: Findings) -> None:
    """One route by itself."""
    if not route.recipients and findings.sound((*path, "recipients")):
        findings.error((*path, "recipients"), "is empty, so that no mail would take this route")
    if findings.whole(("tenant",)):
        _check_names(route.tenants, [tenant.name for tenant in config.tenant], (*path, "tenants"), "tenant", findings)
    if findings.whole(("listener",)):
        names = [listener.name for listener in config.listener] + ([SENDMAIL] if config.sendmail else [])
        _check_names(route.listeners, names, (*path, "listeners"), "listener", findings)
    if not findings.sound((*path, "next_hop")):
        return
    for index, hop in enumerate(route.hops):
        where = (*path, "next_hop") if len(route.hops) == 1 else (*path, "next_hop", index)
        _check_next_hop(config, hop.to, where, findings)
    _check_alternatives(route, path, findings)
    check_auth(config, route, path, findings)
    if route.kind == "pipe":
        _check_pipe(config, route, path, findings)
    elif route.pipe != Pipe() and findings.sound((*path, "pipe")):
        findings.error((*path, "pipe"), 'has no effect: the next hop is no "pipe:"')


def _check_names(wanted: Collection[str], known: list[str], path: KeyPath, what: str, findings: Findings) -> None:
    for number, name in enumerate(wanted):
        if name not in known:
            where = findings.element(path, number)
            findings.error(where, f'there is no {what} "{name}"', nearest(name, known))


def _check_next_hop(config: Config, hop: NextHop, path: KeyPath, findings: Findings) -> None:
    for listener in config.listener:
        if hop.kind in SESSION_KINDS and leads_to(hop, listener):
            message = (
                f'leads back to listener "{listener.name}": the mail would go round until its hops are counted out'
            )
            findings.error(path, message)


def leads_to(hop: NextHop, listener: Listener) -> bool:
    """Whether a listener of this relay is who would answer there."""
    here = listener.listen
    if here.path or hop.path:
        return bool(here.path) and here.path == hop.path
    return here.port == hop.port and (hop.host == here.host or (hop.is_loopback and here.host in _WILDCARDS))


def _check_alternatives(route: Route, path: KeyPath, findings: Findings) -> None:
    """Several next hops: each must do for any message in place of any other."""
    if len(route.hops) == 1:
        return
    seen: set[NextHop] = set()
    for index, hop in enumerate(route.hops):
        where = (*path, "next_hop", index)
        if hop.to.kind not in SESSION_KINDS:
            message = f'"{hop.to}" cannot be one of several next hops: only hosts ({", ".join(SESSION_KINDS)}) can'
            findings.error(where, message)
        elif hop.to.kind.startswith("lmtp") != route.kind.startswith("lmtp"):
            findings.error(where, f'"{hop.to}" speaks another protocol than "{route.hops[0].to}"')
        if hop.to in seen:
            findings.error(where, f'"{hop.to}" stands in this route twice; for a larger share use weight')
        seen.add(hop.to)


def _check_pipe(config: Config, route: Route, path: KeyPath, findings: Findings) -> None:
    program = route.hops[0].to.words[0].literals[0]
    if not os.access(program, os.X_OK):
        findings.warn((*path, "next_hop"), f"{program} is not there, or cannot be run by this user")
    user = route.pipe.user
    if user is not None:
        try:
            pwd.getpwnam(user)
        except KeyError:
            near = nearest(user, [entry.pw_name for entry in pwd.getpwall()])
            findings.error((*path, "pipe", "user"), f'there is no user "{user}" on this machine', near)
            return
    if user is not None and config.node.user not in (None, user):
        message = f'the relay runs as "{config.node.user}" (node.user) and cannot become "{user}"'
        findings.error((*path, "pipe", "user"), message)
    elif user is None and config.node.user is None and os.geteuid() == 0:
        message = "no program is run as root: unless the relay runs as another user, set pipe.user or node.user"
        findings.warn((*path, "next_hop"), message)


def check_shadows(config: Config, findings: Findings) -> None:
    """Patterns of which the first match is always elsewhere."""
    seen: dict[str, KeyPath] = {}
    for index, route in enumerate(config.route):
        path = findings.element(("route",), index)
        if "*" in seen:
            findings.warn(path, f'no mail takes this route: {_show(seen["*"])} in front of it has "*"')
            continue
        for number, pattern in enumerate(route.recipients):
            text = str(pattern)
            if text in seen:
                where = findings.element((*path, "recipients"), number)
                findings.warn(where, f'"{text}" stands in {_show(seen[text])} already, and the first match wins')
            if not route.conditional:
                seen.setdefault(text, path)


def _show(path: KeyPath) -> str:
    return f"{path[0]}[{path[1]}]"


def check_stays(config: Config, hop: NextHop, path: KeyPath, findings: Findings) -> None:
    """A next hop of a sandbox, which must not lead away from this machine."""
    match hop.kind:
        case "discard" | "bounce":
            return
        case "maildir":
            spool = os.path.realpath(config.node.spool)
            if findings.sound(("node", "spool")) and not os.path.realpath(hop.path).startswith(spool + os.sep):
                findings.error(path, f"{hop.path} is not under the sandbox's spool, {config.node.spool}")
        case "lmtp+unix":
            return
        case "smtp" | "smtps" | "lmtp" if hop.is_loopback:
            return
        case "smtp" | "smtps" | "lmtp" as kind:
            suggestion = f"{kind}://127.0.0.1:{hop.port}" if hop.host == "localhost" else None
            message = f'"{hop}" could leave the machine, and this is a sandbox: only a loopback address is sure to stay'
            findings.error(path, message, suggestion)
        case _:
            findings.error(path, f'"{hop}" could leave the machine, and this is a sandbox')
