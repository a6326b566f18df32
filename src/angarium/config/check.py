"""What must hold between the keys of a configuration, and between it and the machine.

Each check looks only at keys that are sound by themselves, so that one mistake makes one message. What is legal but
probably not meant is a warning. The sandbox's rule is here too: nothing in a sandbox leaves the machine or is reached
from outside, so every address must be a loopback address, and a route for all recipients must stand in front of the MX
look-up that is the last resort of every configuration.

Files are opened to see that they can be read, the certificate and key are loaded together; nothing is written, no name
is looked up, no port is bound.
"""

from __future__ import annotations

import grp
import pwd
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING

from angarium.config.address import covers_everything, parse_host
from angarium.config.check_access import check_access, check_log_ins
from angarium.config.check_doors import check_certificates, check_door
from angarium.config.check_inbound import check_inbound
from angarium.config.check_mta_sts import check_mta_sts, check_tls_report
from angarium.config.check_permission import check_permissions
from angarium.config.check_provider import check_providers
from angarium.config.check_route import check_route, check_shadows, check_stays
from angarium.config.check_sendmail import check_sendmail
from angarium.config.check_source import check_sources
from angarium.config.check_stream import check_events
from angarium.config.check_tls import check_tls, read_file
from angarium.config.problem import nearest
from angarium.config.units import format_duration, format_size
from angarium.config.wording import read_wordings

if TYPE_CHECKING:
    from angarium.config.address import Network
    from angarium.config.locate import KeyPath
    from angarium.config.model import Classes, Config, Limits, Listener, Retry
    from angarium.config.problem import Findings

__all__ = ["check_all", "check_nothing_leaves"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}")

LEAST_RECIPIENTS = 100  # RFC 5321 §4.5.3.1.8
LEAST_MESSAGE_OCTETS = 64 * 1024  # §4.5.3.1.7
HANG_LEAST_S = 2.0  # processes that are well beat twice a second


def check_all(config: Config, findings: Findings) -> None:
    """Every check that applies to this configuration."""
    _check_node(config, findings)
    _check_admin(config, findings)
    check_tls(config, findings)
    check_certificates(config, findings)
    _check_tenants(config, findings)
    check_providers(config, findings)
    _check_listeners(config, findings)
    _check_limits(config, findings)
    _check_memory_marks(config, findings)
    _check_dns(config, findings)
    _check_retry(config.queue.retry, ("queue", "retry"), findings)
    _check_routes(config, findings)
    _check_notification(config, findings)
    check_access(config, findings)
    check_mta_sts(config, findings)
    check_tls_report(config, findings)
    check_permissions(config, findings)
    check_sendmail(config, findings)
    check_sources(config, findings)
    check_events(config, findings)
    if config.sandbox:
        check_nothing_leaves(config, findings)


def _check_node(config: Config, findings: Findings) -> None:
    node = config.node
    if findings.sound(("node", "hostname")):
        _check_hostname(node.hostname, findings)
    if node.user is not None and findings.sound(("node", "user")):
        try:
            pwd.getpwnam(node.user)
        except KeyError:
            near = nearest(node.user, [entry.pw_name for entry in pwd.getpwall()])
            findings.error(("node", "user"), f'there is no user "{node.user}" on this machine', near)
    if node.group is not None and findings.sound(("node", "group")):
        try:
            grp.getgrnam(node.group)
        except KeyError:
            near = nearest(node.group, [entry.gr_name for entry in grp.getgrall()])
            findings.error(("node", "group"), f'there is no group "{node.group}" on this machine', near)
    if findings.sound(("node", "hang_timeout")) and 0 < node.hang_timeout_s < HANG_LEAST_S:
        message = f"{node.hang_timeout_s:g}s is less than {HANG_LEAST_S:g}s: processes that are well would be killed"
        findings.error(("node", "hang_timeout"), message)
    shards, workers = config.queue.shards, node.workers
    if isinstance(workers, int) and isinstance(shards, int) and workers > shards:
        message = f"{workers} workers cannot share {shards} shard(s): a shard has one owner; see queue.shards"
        findings.error(("node", "workers"), message)


def _check_hostname(hostname: str, findings: Findings) -> None:
    path: KeyPath = ("node", "hostname")
    try:
        name = parse_host(hostname)
    except ValueError as error:
        findings.error(path, str(error))
        return
    try:
        ip_address(name)
    except ValueError:
        if "." not in name:
            findings.warn(
                path, f'"{hostname}" is not fully qualified, and many hosts refuse mail for that (RFC 5321 §2.3.5)'
            )
    else:
        findings.error(path, f'"{hostname}" is an address; a name is wanted, such as "relay.example.org"')


def _check_admin(config: Config, findings: Findings) -> None:
    admin = config.admin
    if admin.listen.name and findings.sound(("admin", "listen")):
        message = f'"{admin.listen}": the commands would not know where to ask; listen on an address or a Unix socket'
        findings.error(("admin", "listen"), message)
    elif admin.token_file is None:
        if not admin.listen.is_loopback and findings.sound(("admin",)):
            message = f"{admin.listen} can be reached from other machines: set admin.token_file or listen on loopback"
            findings.error(("admin", "listen"), message)
    elif findings.sound(("admin", "token_file")):
        token = read_file(admin.token_file, ("admin", "token_file"), findings)
        if token is not None and not token.strip():
            findings.error(("admin", "token_file"), f"{admin.token_file} is empty")


def _check_listeners(config: Config, findings: Findings) -> None:
    if not config.listener and findings.sound(("listener",)):
        findings.error(("listener",), "there is no listener, so no mail would be accepted")
    names: dict[str, int] = {}
    addresses: dict[str, str] = {}
    if findings.sound(("admin", "listen")):
        addresses[str(config.admin.listen)] = "admin.listen"
    for index, listener in enumerate(config.listener):
        path = findings.element(("listener",), index)
        _check_listener(config, listener, path, findings)
        if not _NAME.fullmatch(listener.name):
            message = f'"{listener.name}" is not a name: letters, digits, ".", "_" and "-", at most 64'
            findings.error((*path, "name"), message)
        if names.setdefault(listener.name, index) != index:
            findings.error((*path, "name"), f'another listener is named "{listener.name}" too')
        listen, own = listener.listen, f'listener "{listener.name}"'
        address = str(listen)
        if (listen.port or listen.path or listen.name) and addresses.setdefault(address, own) != own:
            findings.error((*path, "listen"), f"{address} is the address of {addresses[address]} already")


def _check_listener(config: Config, listener: Listener, path: KeyPath, findings: Findings) -> None:
    check_door(config, listener, path, findings)
    _check_role(config, listener, path, findings)
    check_inbound(config, listener, path, findings)
    if listener.tls != "none" and config.tls is None and findings.sound(("tls",), (*path, "tls")):
        message = f'"{listener.tls}" needs a [tls] section with certificate and key'
        findings.error((*path, "tls"), message)
    if not listener.allow_open_relay and findings.sound((*path, "allow_open_relay")):
        _check_open_relay(listener, path, findings)
    may_relay = listener.relay_networks or listener.relay_certificates or not listener.listen.host
    if listener.role == "relay" and not may_relay and findings.sound((*path, "relay_networks")):
        findings.warn(path, f'listener "{listener.name}" has no relay_networks, so it refuses every recipient')
    if findings.sound((*path, "bare_newline"), (*path, "repair_networks")):
        if listener.bare_newline == "repair" and not listener.repair_networks:
            message = '"repair" is for named legacy clients only: name their networks in repair_networks'
            findings.error((*path, "bare_newline"), message)
        if listener.bare_newline == "refuse" and listener.repair_networks:
            findings.error((*path, "repair_networks"), 'has no effect unless bare_newline = "repair"')
    _check_tenancy(config, listener, path, findings)
    if listener.priority_profile is not None and not _PROFILE.fullmatch(listener.priority_profile):
        message = f'"{listener.priority_profile}" is not a profile such as "MIXER": letters, digits, "-", at most 32'
        findings.error((*path, "priority_profile"), message)
    if listener.limits is not None and findings.sound((*path, "limits")):
        _check_message_limits(listener.limits, config.limits, path, findings)


def _check_tenants(config: Config, findings: Findings) -> None:
    """Names, and whether a tenant can have mail at all."""
    names: dict[str, int] = {}
    chosen = {listener.tenant for listener in config.listener}
    if config.sendmail is not None:
        chosen.add(config.sendmail.tenant)
    networks: dict[Network, str] = {}
    for index, tenant in enumerate(config.tenant):
        path = findings.element(("tenant",), index)
        if not _NAME.fullmatch(tenant.name):
            message = f'"{tenant.name}" is not a name: letters, digits, ".", "_" and "-", at most 64'
            findings.error((*path, "name"), message)
        if names.setdefault(tenant.name, index) != index:
            findings.error((*path, "name"), f'another tenant is named "{tenant.name}" too')
        if not tenant.networks and tenant.name not in chosen and findings.sound((*path, "networks"), ("listener",)):
            findings.warn(path, f'no mail is of tenant "{tenant.name}": it has no networks, and no listener names it')
        for number, network in enumerate(tenant.networks):
            if networks.setdefault(network, tenant.name) != tenant.name:
                where = findings.element((*path, "networks"), number)
                findings.warn(where, f'{network} is of tenant "{networks[network]}" already, and the first match wins')


def _check_tenancy(config: Config, listener: Listener, path: KeyPath, findings: Findings) -> None:
    """The listener's tenant exists, and every class that mail can have here is one that it may have."""
    names = [tenant.name for tenant in config.tenant]
    if listener.tenant is not None and listener.tenant not in names and findings.whole(("tenant",)):
        findings.error((*path, "tenant"), f'there is no tenant "{listener.tenant}"', nearest(listener.tenant, names))
    keys = ("durability", "durability_floor", "durability_ceiling")
    if not findings.sound(("queue", "durability"), *((*path, key) for key in keys)):
        return
    classes = config.classes_of(listener, None)
    if not classes.ordered:
        written = next((key for key in reversed(keys) if getattr(listener, key) is not None), "durability")
        findings.error((*path, written), _disorder(classes))
        return
    for index, tenant in enumerate(config.tenant):
        where = findings.element(("tenant",), index)
        reached = tenant.networks or listener.tenant == tenant.name
        if not reached or not findings.sound(*((*where, key) for key in keys)):
            continue
        classes = config.classes_of(listener, tenant)
        if not classes.ordered:
            written = next((key for key in reversed(keys) if getattr(tenant, key) is not None), "name")
            findings.error((*where, written), f'on listener "{listener.name}": {_disorder(classes)}')


def _disorder(classes: Classes) -> str:
    return (
        f"the class {classes.own} does not stand between the strongest one allowed, {classes.ceiling}, and the "
        f"weakest, {classes.floor}"
    )


def _check_role(config: Config, listener: Listener, path: KeyPath, findings: Findings) -> None:
    check_log_ins(config, listener, path, findings)


def _check_open_relay(listener: Listener, path: KeyPath, findings: Findings) -> None:
    for version in (4, 6):
        networks = [network for network in listener.relay_networks if network.version == version]
        if covers_everything(networks):
            message = (
                f"every IPv{version} address in the world may relay: an open relay is used for spam within hours; name "
                "your own networks, or write allow_open_relay = true"
            )
            findings.error((*path, "relay_networks"), message)


def _check_limits(config: Config, findings: Findings) -> None:
    limits = config.limits
    if findings.sound(("limits",)):
        _check_message_limits(limits, None, (), findings)
        if limits.connections_per_client > limits.connections:
            message = f"{limits.connections_per_client} for one client is more than the node's {limits.connections}"
            findings.warn(("limits", "connections_per_client"), message)


def _check_message_limits(limits: Limits, inherited: Limits | None, path: KeyPath, findings: Findings) -> None:
    """What is only taken from the node's limits has been said there."""
    recipients, message_size_octets = limits.recipients, limits.message_size_octets
    if recipients < LEAST_RECIPIENTS and (inherited is None or recipients != inherited.recipients):
        message = f"{recipients} are fewer than the {LEAST_RECIPIENTS} a client may count on (RFC 5321 §4.5.3.1.8)"
        findings.warn((*path, "limits", "recipients"), message)
    if message_size_octets < LEAST_MESSAGE_OCTETS and (
        inherited is None or message_size_octets != inherited.message_size_octets
    ):
        message = (
            f"{format_size(message_size_octets)} is less than the {format_size(LEAST_MESSAGE_OCTETS)} a client may "
            "count on (RFC 5321 §4.5.3.1.7)"
        )
        findings.warn((*path, "limits", "message_size"), message)


def _check_memory_marks(config: Config, findings: Findings) -> None:
    queue = config.queue
    sound = findings.sound(("queue", "memory_soft_mark"), ("queue", "memory_hard_mark"))
    if sound and queue.memory_soft_mark >= queue.memory_hard_mark:
        message = f"{queue.memory_soft_mark:g} is not below the hard mark, {queue.memory_hard_mark:g}"
        findings.error(("queue", "memory_soft_mark"), message)


def _check_dns(config: Config, findings: Findings) -> None:
    """The AD bit is one bit of a datagram: who can answer in a server's place can set it, or leave it out."""
    if config.dns.dnssec != "trust-ad" or not findings.sound(("dns", "servers"), ("dns", "dnssec")):
        return
    for number, server in enumerate(config.dns.servers):
        if not ip_address(server.host).is_loopback:
            message = (
                f'{server} is not on this machine, and dns.dnssec = "trust-ad" believes whatever comes from there: the '
                "way to it must be safe"
            )
            findings.warn(findings.element(("dns", "servers"), number), message)


def _check_retry(retry: Retry, path: KeyPath, findings: Findings) -> None:
    if not findings.sound(path):
        return
    if retry.first_s > retry.longest_s:
        message = (
            f"{format_duration(retry.first_s)} is longer than the longest interval, {format_duration(retry.longest_s)}"
        )
        findings.error((*path, "first"), message)
    if retry.first_s >= retry.expire_s:
        message = f"mail that expires after {format_duration(retry.expire_s)} would never be tried again"
        findings.error((*path, "expire"), message)
    if retry.warn_after_s >= retry.expire_s:
        message = f"mail expires after {format_duration(retry.expire_s)}, before anyone is warned"
        findings.warn((*path, "warn_after"), message)


def _check_routes(config: Config, findings: Findings) -> None:
    names: dict[str, int] = {}
    for index, route in enumerate(config.route):
        path = findings.element(("route",), index)
        check_route(config, route, path, findings)
        if route.retry is not None:
            _check_retry(route.retry, (*path, "retry"), findings)
        if route.name is not None:
            if not _NAME.fullmatch(route.name):
                message = f'"{route.name}" is not a name: letters, digits, ".", "_" and "-", at most 64'
                findings.error((*path, "name"), message)
            if names.setdefault(route.name, index) != index:
                findings.error((*path, "name"), f'another route is named "{route.name}" too')
    check_shadows(config, findings)


def _check_notification(config: Config, findings: Findings) -> None:
    path: KeyPath = ("notification", "templates")
    wordings, problems = read_wordings(config.notification.templates if findings.sound(path) else None)
    for problem in problems:
        findings.error(path, problem)
    path = ("notification", "languages")
    if not findings.sound(path):
        return
    if not config.notification.languages:
        findings.error(path, "needs at least one language")
    for language in config.notification.languages:
        if language not in wordings and not problems:
            known = sorted(wordings)
            findings.error(
                path, f'there are no texts in "{language}", only in {", ".join(known)}', nearest(language, known)
            )


def check_nothing_leaves(config: Config, findings: Findings) -> None:
    """The sandbox's promise: its mail stays on this machine, and only this machine reaches it."""
    if not config.admin.listen.is_loopback and findings.sound(("admin", "listen")):
        findings.error(("admin", "listen"), f"{config.admin.listen} is not a loopback address, and this is a sandbox")
    for index, listener in enumerate(config.listener):
        path = (*findings.element(("listener",), index), "listen")
        if not listener.listen.is_loopback and findings.sound(path):
            findings.error(path, f"{listener.listen} is not a loopback address, and this is a sandbox")
    for index, route in enumerate(config.route):
        path = (*findings.element(("route",), index), "next_hop")
        if findings.sound(path):
            for number, hop in enumerate(route.hops):
                check_stays(config, hop.to, path if len(route.hops) == 1 else (*path, number), findings)
    if _all_written_patterns_are_known(config, findings) and not any(
        pattern.kind == "any" for route in config.route for pattern in route.recipients if not route.conditional
    ):
        message = (
            'a sandbox needs a route for "*" without other conditions: without one the last resort is by MX, and mail '
            "would leave the machine"
        )
        findings.error(("route",), message)


def _all_written_patterns_are_known(config: Config, findings: Findings) -> bool:
    paths = [findings.element(("route",), index) for index in range(len(config.route))]
    return findings.whole(("route",)) and all(findings.sound((*path, "recipients")) for path in paths)
