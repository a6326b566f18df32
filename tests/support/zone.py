"""A DNS of its own for a test: a signed root and zones below it in a real nsd, behind a real validating unbound.

    with SignedDns() as dns:
        dns.zone("secure.test", "@ 60 IN MX 10 mx\nmx 60 IN A 127.0.0.2")
        dns.zone("plain.test", "@ 60 IN MX 10 mx.secure.test.", trust="insecure")
        dns.publish()
        ... {"dns": {"servers": [dns.server], "dnssec": "trust-ad"}}

unbound trusts the root's key alone, so what it says of a zone goes the whole way of RFC 4035: a `secure` zone has a DS
record in the root and gets the AD bit, an `insecure` one has a signed proof that there is no DS record, and `bogus` and
`expired` ones are answered SERVFAIL (the root has the DS of another key; the signatures are over). Keys are made anew
for each SignedDns. Zones are master-file text; they may be changed and published again at any time, and the resolver
then starts with an empty cache. `tlsa` makes a TLSA record of a certificate.

Both programs listen on ports of 127.0.0.1 and end with the test. Those that are missing make the test skip
(.ci/install-peers).
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256, sha512
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dns.dnssec
import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.zone
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.clients import PATIENCE_S
from tests.support.peers import require
from tests.support.ports import free_port

if TYPE_CHECKING:
    from dns.rdtypes.ANY.DNSKEY import DNSKEY

Trust = Literal["secure", "insecure", "bogus", "expired"]

ZONE_KEY_AND_SEP = 257  # RFC 4034 §2.1.1: one key signs everything
HOUR_S = 3600
APEX = "@ 3600 IN SOA ns hostmaster 1 7200 900 1209600 60\n@ 3600 IN NS ns\nns 60 IN A 127.0.0.1\n"
LOOK_S = 0.02


@dataclass
class Key:
    """A key pair of one zone."""

    private: ec.EllipticCurvePrivateKey
    public: DNSKEY

    @classmethod
    def make(cls) -> Key:
        private = ec.generate_private_key(ec.SECP256R1())
        public = dns.dnssec.make_dnskey(
            private.public_key(), dns.dnssec.Algorithm.ECDSAP256SHA256, flags=ZONE_KEY_AND_SEP
        )
        return cls(private, public)

    def ds(self, name: str) -> str:
        """The rdata of the DS record that names this key."""
        return dns.dnssec.make_ds(dns.name.from_text(name), self.public, "SHA256").to_text()


@dataclass
class Zone:
    """One zone below the root."""

    name: str
    text: str
    trust: Trust
    key: Key


def tlsa(
    certificate: bytes, *, usage: Literal[0, 1, 2, 3] = 3, selector: Literal[0, 1] = 1, matching: Literal[0, 1, 2] = 1
) -> str:
    """The rdata of a TLSA record (RFC 6698 §2.1) for a PEM certificate."""
    parsed = x509.load_pem_x509_certificate(certificate)
    octets = (
        parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if selector
        else parsed.public_bytes(Encoding.DER)
    )
    digest = (lambda whole: whole, lambda whole: sha256(whole).digest(), lambda whole: sha512(whole).digest())
    return f"{usage} {selector} {matching} {digest[matching](octets).hex()}"


class SignedDns:
    """nsd and unbound. `server` is the resolver, as `dns.servers` wants it; `authority` is nsd."""

    def __init__(self) -> None:
        self._nsd = require("nsd")
        self._unbound = require("unbound")
        self.port = free_port()
        self.authority_port = free_port()
        self._root_key = Key.make()
        self._zones: dict[str, Zone] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self._keep: tempfile.TemporaryDirectory[str] | None = None

    @property
    def server(self) -> str:
        """The validating resolver, for `dns.servers`."""
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        """The validating resolver, for a Resolver."""
        return ("127.0.0.1", self.port)

    @property
    def authority(self) -> tuple[str, int]:
        """The server behind it, which says everything and validates nothing."""
        return ("127.0.0.1", self.authority_port)

    def zone(self, name: str, text: str, *, trust: Trust = "secure") -> None:
        """From the next publish() on: master-file text, names relative to the zone; SOA and NS are added."""
        known = self._zones.get(name)
        self._zones[name] = Zone(name, text, trust, known.key if known else Key.make())

    def publish(self) -> None:
        """Sign and serve what was declared. Returns when the resolver answers."""
        self._stop()
        assert self._keep is not None, "use it as a context manager"
        folder = Path(self._keep.name)
        self._write_zones(folder)
        self._write_configuration(folder)
        log = (folder / "log").open("ab")
        with log:
            for command in (
                [self._nsd, "-d", "-c", str(folder / "nsd.conf")],
                [self._unbound, "-d", "-c", str(folder / "unbound.conf")],
            ):
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                self._running.append(process)
        self._wait_until_it_answers(folder)

    def __enter__(self) -> SignedDns:
        # not in pytest's own folders: either program may have become another user
        self._keep = tempfile.TemporaryDirectory(prefix="angarium-dns-")
        try:
            self.publish()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        if self._keep is not None:
            self._keep.cleanup()
            self._keep = None

    def stop_authority(self) -> None:
        """End nsd: the resolver answers from its cache only, and SERVFAIL for the rest."""
        process = self._running.pop(0)
        process.terminate()
        process.wait(PATIENCE_S)

    # ------------------------------------------------------------------ zones

    def _write_zones(self, folder: Path) -> None:
        delegations = [
            "@ 3600 IN SOA ns. hostmaster. 1 7200 900 1209600 60",
            "@ 3600 IN NS ns.",
            "ns. 60 IN A 127.0.0.1",
        ]
        for zone in self._zones.values():
            delegations.append(f"{zone.name}. 60 IN NS ns.{zone.name}.")
            delegations.append(f"ns.{zone.name}. 60 IN A 127.0.0.1")
            if zone.trust != "insecure":
                believed = Key.make() if zone.trust == "bogus" else zone.key
                delegations.append(f"{zone.name}. 60 IN DS {believed.ds(zone.name)}")
            text = f"{APEX}{zone.text}\n"
            key = None if zone.trust == "insecure" else zone.key
            _write_zone(folder / f"{zone.name}.zone", zone.name, text, key, over=zone.trust == "expired")
        _write_zone(folder / "root.zone", ".", "\n".join(delegations) + "\n", self._root_key)

    def _write_configuration(self, folder: Path) -> None:
        files = {"": "root.zone"} | {name: f"{name}.zone" for name in self._zones}
        (folder / "nsd.conf").write_text(
            f"""\
server:
    ip-address: 127.0.0.1@{self.authority_port}
    username: ""
    chroot: ""
    zonesdir: "{folder}"
    database: ""
    zonelistfile: "{folder}/zone.list"
    xfrdfile: "{folder}/xfrd.state"
    xfrdir: "{folder}"
    pidfile: ""
    server-count: 1
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
remote-control:
    control-enable: no
"""
            + "".join(f'zone:\n    name: "{name}."\n    zonefile: "{file}"\n' for name, file in files.items())
        )
        (folder / "unbound.conf").write_text(
            f"""\
server:
    interface: 127.0.0.1@{self.port}
    access-control: 127.0.0.0/8 allow
    username: ""
    chroot: ""
    directory: "{folder}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    verbosity: 1
    val-log-level: 2
    num-threads: 1
    module-config: "validator iterator"
    trust-anchor: ". IN DS {self._root_key.ds(".")}"
    do-not-query-localhost: no
    do-ip6: no
    qname-minimisation: no
    prefetch: no
    local-zone: "test." nodefault
    local-zone: "invalid." nodefault
remote-control:
    control-enable: no
"""
            + "".join(
                f'stub-zone:\n    name: "{name}."\n    stub-addr: 127.0.0.1@{self.authority_port}\n' for name in files
            )
        )

    # ------------------------------------------------------------------ processes

    def _wait_until_it_answers(self, folder: Path) -> None:
        until = time.monotonic() + PATIENCE_S
        query = dns.message.make_query(".", dns.rdatatype.SOA)
        while True:
            for process in self._running:
                if process.poll() is not None:
                    raise AssertionError(f"{process.args} ended:\n{(folder / 'log').read_text('utf-8', 'replace')}")
            try:
                answer = dns.query.udp(query, *self.address[:1], port=self.port, timeout=0.2)
            except (OSError, dns.exception.DNSException):
                answer = None
            if answer is not None and answer.answer:
                return
            if time.monotonic() > until:
                log = (folder / "log").read_text("utf-8", "replace")
                raise AssertionError(f"the resolver of the test does not answer: {answer}\n{log}")
            time.sleep(LOOK_S)

    def _stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def _write_zone(path: Path, name: str, text: str, key: Key | None, *, over: bool = False) -> None:
    zone = dns.zone.from_text(text, origin=dns.name.from_text(name), relativize=False)
    if key is not None:
        now = int(time.time())
        begin = now - (48 if over else 1) * HOUR_S  # the clocks of signer and validator are the same, their seconds not
        dns.dnssec.sign_zone(
            zone, keys=[(key.private, key.public)], inception=begin, expiration=begin + 24 * HOUR_S, dnskey_ttl=60
        )
    zone.to_file(str(path), relativize=False)
