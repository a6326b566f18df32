"""What all sessions of one listener have in common: what the configuration says of it, composed once.

Job: the limits, the functions that policy is asked by, and the greeting and the EHLO lines as octets. Sessions read the
fields; nothing is looked up for a command. What the policies have said of a client is remembered by its address, and of
one who has proved who he is by that too.

When the configuration changes, a profile gets a `successor`, and its sessions go over to it (`Reception.follow`).

Bounds: MOST_CLIENTS of each kind are remembered; one more, and all are asked about anew. Fails never by itself: what a
policy raises goes to who asked.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from angarium._core.client_terms cimport ClientTerms
from angarium._core.command cimport (
    OFFER_8BITMIME,
    OFFER_AUTH,
    OFFER_DSN,
    OFFER_FUTURERELEASE,
    OFFER_PRIORITY,
    OFFER_REQUIRETLS,
    OFFER_SIZE,
    OFFER_SMTPUTF8,
)
from angarium._core.counters cimport Counters
from angarium._core.recipient_policy cimport RecipientPolicy
from angarium._core.record cimport DURABILITY_FSYNC

cdef enum:
    MOST_CLIENTS = 65536         # addresses whose policy is remembered


cdef class ListenerProfile:
    def __init__(self, *, bytes hostname, bytes name, client_policy, int durability=DURABILITY_FSYNC,
                 uint64_t message_octets=50 << 20, uint64_t header_octets=256000, uint32_t recipients=1000,
                 uint32_t command_octets=2048, uint32_t errors=20, uint32_t commands_per_second=1000,
                 uint32_t hops=100, uint32_t transactions=0, uint64_t connections=10000,
                 uint32_t connections_per_client=1000,
                 double idle_timeout_s=300, double data_timeout_s=3600, bint authentication_required=False,
                 authentication=None, tuple mechanisms=(), start_tls=None, uint64_t future_release_s=0,
                 bytes priorities=None, identity_policy=None, client_certificate=None, xclient=None,
                 RecipientPolicy recipient_policy=None, bint lmtp=False):
        self.hostname = hostname
        self.name = name
        self.client_policy = client_policy
        self.durability = durability
        self.message_octets = message_octets
        self.header_octets = header_octets
        self.recipients = min(recipients, 65535)
        self.command_octets = command_octets
        self.errors = errors
        self.commands_per_second = commands_per_second
        self.hops = hops
        self.transactions = transactions
        self.connections = connections
        self.connections_per_client = connections_per_client
        self.idle_timeout_s = idle_timeout_s
        self.data_timeout_s = data_timeout_s
        self.authentication_required = authentication_required
        self.authentication = authentication
        self.mechanisms = mechanisms
        self.start_tls = start_tls
        self.future_release_s = future_release_s
        self.priorities = priorities
        self.identity_policy = identity_policy
        self.client_certificate = client_certificate
        self.xclient = xclient
        self.recipient_policy = recipient_policy
        self.lmtp = lmtp
        self._row = -1
        self._clients = {}
        self._identities = {}
        self._greeting = b"220 " + hostname + (b" LMTP Angarium\r\n" if lmtp else b" ESMTP Angarium\r\n")
        limits = b"RCPTMAX=%d" % self.recipients
        if transactions:
            limits += b" MAILMAX=%d" % transactions
        lines = [b"PIPELINING", b"SIZE %d" % message_octets, b"8BITMIME", b"SMTPUTF8", b"CHUNKING", b"DSN",
                 b"ENHANCEDSTATUSCODES"]
        offers = OFFER_SIZE | OFFER_8BITMIME | OFFER_SMTPUTF8 | OFFER_DSN
        if priorities is not None:
            lines.append((b"MT-PRIORITY " + priorities).rstrip())
            offers |= OFFER_PRIORITY
        if future_release_s:
            offers |= OFFER_FUTURERELEASE        # its line has a time in it: _do_greeting writes it
        lines.append(b"LIMITS " + limits)
        # EXTERNAL is for those alone who have shown a certificate (RFC 4422 appendix A)
        offered = [one for one in mechanisms if one != b"EXTERNAL"]
        auth = [b"AUTH " + b" ".join(offered)] if offered else []
        # credentials never travel in plaintext: AUTH is offered under TLS only (RFC 4954 §4, RFC 8314)
        self._ehlo_plain = self._ehlo_lines(lines + ([b"STARTTLS"] if start_tls is not None else []))
        self._ehlo_tls = self._ehlo_lines(lines + [b"REQUIRETLS"] + auth)    # under TLS only (RFC 8689 §3)
        self._ehlo_certified = None
        if b"EXTERNAL" in mechanisms:
            self._ehlo_certified = self._ehlo_lines(lines + [b"REQUIRETLS", b"AUTH " + b" ".join(mechanisms)])
        self._offers_plain = offers
        self._offers_tls = offers | OFFER_REQUIRETLS | (OFFER_AUTH if mechanisms else 0)

    @staticmethod
    def _ehlo_lines(list lines):
        last = lines.pop()
        return b"".join([b"250-" + line + b"\r\n" for line in lines]) + b"250 " + last + b"\r\n"

    cdef uint16_t _find_row(self, Counters counters) noexcept:
        """Look up the row: names have theirs before the first connection comes."""
        self._row = counters.listener_row(PyBytes_AS_STRING(self.name), PyBytes_GET_SIZE(self.name))
        return <uint16_t>self._row

    def forget_clients(self):
        """Ask client_policy and identity_policy again for everybody."""
        self._clients.clear()
        self._identities.clear()

    def policy_of(self, address: str) -> ClientTerms:
        """What client_policy says of an address; remembered."""
        known = self._clients.get(address)
        if known is None:
            known = self.client_policy(address)
            if isinstance(known, tuple):
                known = ClientTerms(may_relay=known[0], bare_newlines=known[1], durability=self.durability)
            if len(self._clients) >= MOST_CLIENTS:
                self._clients.clear()
            self._clients[address] = known
        return known

    def terms_of(self, str address, str log_in, certificate) -> ClientTerms:
        """What the policies say of a client who has proved who it is; remembered. Without a proof: policy_of."""
        if self.identity_policy is None or (not log_in and certificate is None):
            return self.policy_of(address)
        key = (address, log_in, certificate)
        known = self._identities.get(key)
        if known is None:
            known = self.identity_policy(address, log_in, certificate)
            if len(self._identities) >= MOST_CLIENTS:
                self._identities.clear()
            self._identities[key] = known
        return known
