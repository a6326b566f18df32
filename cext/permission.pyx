"""What one client may send, and what is done to its mail: asked by its session at MAIL, at RCPT and at the end of data.

Job: bind a client to its addresses, keep its limits, and tidy what it hands in as a message submission agent should
(RFC 6409 §6, §8). policy.permission makes one for each client that a [[permission]] or a submission listener concerns;
a session of any other client has none, and asks nothing.

The binding (RFC 6409 §6.1): a reverse path that is not allowed is refused at MAIL. At the end of data exactly one From
field is wanted, and every address in it must be allowed; so must those of a Sender field. What cannot be read, stands
there twice, or stands behind a line that is no header field is refused, since the next program may read it otherwise.
Where `rewrite_from` is given, a foreign reverse path and a foreign From are replaced instead, and the field as it came
goes on as X-Original-From.

The tidying, with `fix_up`: Bcc and Resent-Bcc are taken out (RFC 5322 §3.6.3); an address in From without a domain
gets that of the reverse path, or the relay's name (RFC 6409 §4.2); Date and Message-ID are added where they are
missing (§8.2, §8.3), and From, of the reverse path or of the client's identity. Mail data that begins with its body
gets the empty line that divides it from what is added. Octets over 127 in the header section need SMTPUTF8 (RFC 6531
§3.2) and are refused without it. `legacy` lets those pass, and puts the empty line in front of a first line that is no
field.

All is decided from one walk over the header section (`HeaderFacts`). Fields are added in front of what is there; only
to cut a field, or to put a domain in, are others moved.

Bounds: REMEMBERED verdicts on reverse paths, and as many values of From, then they are forgotten. An address field
that is longer than LONGEST_FIELD octets is not remembered.

Fails: what policy's functions raise, OSError of the quota's file.
"""

import json

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset, strlen

from angarium._core.address_list cimport read_addresses
from angarium._core.counters cimport Slot
from angarium._core.header cimport HeaderFacts, cut_fields, walk_header
from angarium._core.quota cimport QUOTA_HOUR_REACHED, QUOTA_OK, Quota
from angarium._core.record cimport MailBuffer, id_text

cdef enum:
    REMEMBERED = 256
    LONGEST_FIELD = 512

cdef const char *R_NOT_YOUR_PATH = b"550 5.7.1 You may not send from this address: it is none of yours\r\n"
cdef const char *R_NOT_YOUR_FROM = b"550 5.7.1 You may not send with this From: an address in it is none of yours\r\n"
cdef const char *R_NOT_YOUR_SENDER = \
    b"550 5.7.1 You may not send with this Sender: an address in it is none of yours\r\n"
cdef const char *R_NO_FROM = b"550 5.7.1 The message has no From field, and it must be from an address of yours\r\n"
cdef const char *R_SEVERAL_FROM = b"550 5.7.1 The message has several From or Sender fields (RFC 5322 section 3.6)\r\n"
cdef const char *R_UNREADABLE_FROM = b"550 5.7.1 The From or Sender field cannot be read (RFC 5322 section 3.4)\r\n"
cdef const char *R_NO_FIELD = b"550 5.7.1 A line of the header section is no field (RFC 5322 section 2.2)\r\n"
cdef const char *R_EIGHT_BIT = b"554 5.6.0 The header section has 8-bit octets without SMTPUTF8 (RFC 6531)\r\n"


cdef class Permission:
    def __init__(self, *, bytes name=b"", bytes hostname=b"localhost", reverse_paths=None, from_addresses=None,
                 bint null_reverse_path=True, uint32_t recipients=0, uint64_t message_octets=0, Quota quota=None,
                 bint fix_up=False, bint hide_client=False, bint legacy=False, bytes rewrite_from=None,
                 bytes rewrite_path=None, bytes identity=None):
        self.name = name
        self.hostname = hostname
        self.reverse_paths = reverse_paths
        self.from_addresses = from_addresses
        self.null_reverse_path = null_reverse_path
        self.recipients = recipients
        self.message_octets = message_octets
        self.quota = quota
        self.fix_up = fix_up
        self.hide_client = hide_client
        self.legacy = legacy
        self.rewrite_from = rewrite_from
        self.rewrite_path = rewrite_path
        self.identity = identity
        self._paths = {}
        self._fields = {}
        self.told = b""
        if PyBytes_GET_SIZE(name):
            self.told = b',"permission":' + json.dumps(name.decode("utf-8", "replace")).encode("ascii")
        limits = {"octets": message_octets, "recipients": recipients}
        if quota is not None:
            limits |= {"per_hour": quota.per_hour, "per_day": quota.per_day}
        limits = {what: limit for what, limit in limits.items() if limit}
        if limits:
            self.told += b',"limits":' + json.dumps(limits, separators=(",", ":")).encode("ascii")
        if quota is not None:
            self._hour_reached = b" 4.7.1 The limit of %d recipients an hour is reached; try again later\r\n" % (
                quota.per_hour
            )
            self._day_reached = b" 4.7.1 The limit of %d recipients a day is reached; try again later\r\n" % (
                quota.per_day
            )

    # ------------------------------------------------------------------ MAIL and RCPT

    cdef bytes path_of(self, bytes reverse_path):
        if PyBytes_GET_SIZE(reverse_path) == 0:
            return reverse_path if self.null_reverse_path else None
        if self.reverse_paths is None:
            return reverse_path
        known = self._paths.get(reverse_path)
        if known is None:
            known = bool(self.reverse_paths(reverse_path))
            if len(self._paths) >= REMEMBERED:
                self._paths.clear()
            self._paths[reverse_path] = known
        if known:
            return reverse_path
        return self.rewrite_path

    cdef const char *refuse_mail(self, uint64_t now_s) except? NULL:
        cdef int verdict
        if self.quota is None:
            return NULL
        verdict = self.quota.look(1, now_s)
        if verdict == QUOTA_OK:
            return NULL
        # no recipient of it would be taken: a mailbox that is not available at the moment (RFC 5321 §4.2.2)
        self._reached = b"450" + (self._hour_reached if verdict == QUOTA_HOUR_REACHED else self._day_reached)
        return PyBytes_AS_STRING(self._reached)

    cdef const char *refuse_recipient(self, uint32_t n, uint64_t now_s) except? NULL:
        cdef int verdict
        if self.quota is None:
            return NULL
        verdict = self.quota.look(n, now_s)
        return NULL if verdict == QUOTA_OK else self.reply_of(verdict)

    cdef const char *reply_of(self, int verdict) noexcept:
        self._reached = b"452" + (self._hour_reached if verdict == QUOTA_HOUR_REACHED else self._day_reached)
        return PyBytes_AS_STRING(self._reached)

    cdef bytes used(self):
        cdef Quota quota = self.quota
        if quota is None or not (quota.per_hour or quota.per_day):
            return None
        if not quota.per_day:
            return b',"used":{"hour":%d}' % quota.hour_used
        if not quota.per_hour:
            return b',"used":{"day":%d}' % quota.day_used
        return b',"used":{"hour":%d,"day":%d}' % (quota.hour_used, quota.day_used)

    def unusual_text(self) -> bytes:
        """Why the last message that was found unusual was, for people."""
        cdef Quota quota = self.quota
        if quota.unusual_above and quota.arrived > quota.unusual_above:
            return b"%d recipients within an hour, more than %d" % (quota.arrived, quota.unusual_above)
        return b"%d recipients within an hour, more than %g times the usual hour" % (quota.arrived, quota.unusual_times)

    # ------------------------------------------------------------------ the end of data

    cdef const char *handle(self, MailBuffer buffer, HeaderFacts *facts, bytes reverse_path,
                            Handling *handling) except? NULL:
        cdef bytes domain
        cdef const char *refusal
        handling.changed = False
        handling.slot = Slot.INGRESS_REJECTED_HEADER
        if self.from_addresses is None and not self.fix_up:
            return NULL
        domain = reverse_path[reverse_path.rfind(b"@") + 1:] if b"@" in reverse_path else self.hostname
        if facts.malformed and facts.fields:
            if self.legacy:
                put_in(buffer, facts.length, b"\r\n")
                facts.malformed = False
                handling.changed = True
            elif self.from_addresses is not None:
                return R_NO_FIELD
        if handling.eight_bit and not handling.smtputf8 and self.fix_up and not self.legacy and (
            has_eight_bit(buffer.octets + buffer.data_begin, facts.length)
        ):
            return R_EIGHT_BIT
        refusal = self._judge(buffer, facts, domain, handling)
        if refusal != NULL or not self.fix_up:
            return refusal
        if facts.has_bcc:
            cut(buffer, facts, b"bcc", 3)
            handling.changed = True
        if facts.has_resent_bcc:
            cut(buffer, facts, b"resent-bcc", 10)
            handling.changed = True
        return add_missing(self, buffer, facts, reverse_path, handling)

    cdef const char *_judge(self, MailBuffer buffer, HeaderFacts *facts, bytes domain, Handling *handling) except? NULL:
        """What the addresses in From and Sender are answered with; domains that are missing are put in."""
        cdef const char *data = buffer.octets + buffer.data_begin
        cdef bint bound = self.from_addresses is not None
        cdef bytes value
        cdef list mailboxes
        if facts.from_fields > 1 or facts.sender_fields > 1:
            return self._not_allowed(buffer, facts, R_SEVERAL_FROM, handling) if bound else NULL
        if bound and facts.sender_fields:
            value = PyBytes_FromStringAndSize(data + facts.sender.start, facts.sender.length)
            mailboxes = read_addresses(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
            if mailboxes is None or not self.may_write(mailboxes, domain):
                return self._not_allowed(buffer, facts, R_UNREADABLE_FROM if mailboxes is None else R_NOT_YOUR_SENDER,
                                         handling)
        if not facts.from_fields:
            if bound and (self.rewrite_from is not None or not self.fix_up):
                return self._not_allowed(buffer, facts, R_NO_FROM, handling)
            return NULL                      # add_missing adds it, or refuses
        value = PyBytes_FromStringAndSize(data + facts.from_.start, facts.from_.length)
        if value in self._fields:
            return NULL
        mailboxes = read_addresses(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        if bound and (not mailboxes or not self.may_write(mailboxes, domain)):
            return self._not_allowed(buffer, facts, R_NOT_YOUR_FROM if mailboxes else R_UNREADABLE_FROM, handling)
        if self.fix_up and mailboxes and put_domains_in(buffer, facts, mailboxes, domain, bound):
            handling.changed = True
        elif PyBytes_GET_SIZE(value) <= LONGEST_FIELD:
            if len(self._fields) >= REMEMBERED:
                self._fields.clear()
            self._fields[value] = True
        return NULL

    cdef bint may_write(self, list mailboxes, bytes domain) except -1:
        """Whether each of the mailboxes is allowed, and there is one.

        One without a domain is in `domain` where that is to be put in, and nobody's elsewhere.
        """
        for local, at, _, _ in mailboxes:
            if not at:
                if not self.fix_up:
                    return False
                at = domain
            if not self.from_addresses(local, at):
                return False
        return bool(mailboxes)

    cdef const char *_not_allowed(self, MailBuffer buffer, HeaderFacts *facts, const char *reply,
                                  Handling *handling) except? NULL:
        """The reply, or NULL when the fields have been replaced by what is allowed."""
        cdef bytes added = b""
        cdef bytes value
        if self.rewrite_from is None:
            handling.slot = Slot.INGRESS_REJECTED_SENDER
            return reply
        if facts.from_.length:
            value = PyBytes_FromStringAndSize(buffer.octets + buffer.data_begin + facts.from_.start, facts.from_.length)
            added = b"X-Original-From: " + value + b"\r\n"
        if facts.from_fields:
            cut(buffer, facts, b"from", 4)
        if facts.sender_fields:
            cut(buffer, facts, b"sender", 6)
        add(buffer, facts, b"From: " + self.rewrite_from + b"\r\n" + added)
        facts.has_from = True
        facts.from_fields = 1
        handling.changed = True
        return NULL

    # ------------------------------------------------------------------ for tests and tools

    def tidied(self, bytes mail_data not None, bytes reverse_path=b"", *, bint smtputf8=False, uint64_t number=1):
        """What becomes of mail data: the octets, or the reply that refuses it."""
        cdef MailBuffer buffer = MailBuffer(len(mail_data))
        cdef HeaderFacts facts
        cdef Handling handling
        cdef const char *refusal
        cdef bytes date = b"Thu, 26 Nov 2026 00:00:00 +0000"
        memset(&handling, 0, sizeof(handling))
        handling.id = number
        handling.date = PyBytes_AS_STRING(date)
        handling.date_length = PyBytes_GET_SIZE(date)
        handling.smtputf8 = smtputf8
        handling.eight_bit = not mail_data.isascii()
        buffer.append(mail_data)
        walk_header(buffer.octets + buffer.data_begin, buffer.end - buffer.data_begin, &facts)
        refusal = self.handle(buffer, &facts, reverse_path, &handling)
        return buffer.mail_data() if refusal == NULL else refusal[:strlen(refusal) - 2].decode("ascii")


cdef bint has_eight_bit(const char *p, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if <unsigned char>p[i] & 128:
            return True
    return False


cdef int put_in(MailBuffer buffer, size_t at, bytes octets) except -1:
    """Put octets into the mail data, in front of its at-th."""
    cdef size_t n = PyBytes_GET_SIZE(octets)
    buffer.make_room_in_front(n)
    memmove(buffer.octets + buffer.begin - n, buffer.octets + buffer.begin, at)
    buffer.begin -= n
    buffer.data_begin = buffer.begin
    memcpy(buffer.octets + buffer.begin + at, PyBytes_AS_STRING(octets), n)
    return 0


cdef int cut(MailBuffer buffer, HeaderFacts *facts, const char *name, size_t length) except -1:
    """Take all fields of that name out, and walk anew: only what has such a field costs a second walk."""
    buffer.cut(cut_fields(buffer.octets + buffer.data_begin, buffer.end - buffer.data_begin, name, length))
    walk_header(buffer.octets + buffer.data_begin, buffer.end - buffer.data_begin, facts)
    return 0


cdef int add(MailBuffer buffer, HeaderFacts *facts, bytes fields) except -1:
    """Put fields in front; where the mail data begins with its body, the empty line behind them."""
    if facts.fields == 0 and facts.malformed:
        fields += b"\r\n"
        facts.malformed = False
    buffer.prepend(PyBytes_AS_STRING(fields), PyBytes_GET_SIZE(fields))
    facts.fields += 1
    facts.length += PyBytes_GET_SIZE(fields)
    return 0


cdef bint put_domains_in(MailBuffer buffer, HeaderFacts *facts, list mailboxes, bytes domain, bint all_) except -1:
    """Complete the addresses without a domain (unless all_: those that clearly are some). Whether there was one."""
    cdef bint changed = False
    cdef size_t start = facts.from_.start
    cdef bytes octets = b"@" + domain
    for _, at, end, angle in reversed(mailboxes):
        # a lone word beside other addresses is rather a name with a comma in it: `Mary, Smith <mary@example.org>`
        if at or not (all_ or angle or len(mailboxes) == 1):
            continue
        put_in(buffer, start + end, octets)
        facts.length += PyBytes_GET_SIZE(octets)
        changed = True
    if changed:
        walk_header(buffer.octets + buffer.data_begin, buffer.end - buffer.data_begin, facts)
    return changed


cdef const char *add_missing(Permission permission, MailBuffer buffer, HeaderFacts *facts, bytes reverse_path,
                             Handling *handling) except? NULL:
    """Date, Message-ID and From, where there is none."""
    cdef bytes added = b""
    cdef bytes author
    cdef char id[13]
    if not facts.has_date:
        added = b"Date: " + PyBytes_FromStringAndSize(handling.date, handling.date_length) + b"\r\n"
    if not facts.has_message_id:
        id_text(handling.id, id)
        added += b"Message-ID: <" + PyBytes_FromStringAndSize(id, 13) + b"@" + permission.hostname + b">\r\n"
    if not facts.has_from:
        author = permission.rewrite_from
        if author is None:
            author = reverse_path if PyBytes_GET_SIZE(reverse_path) else permission.identity
        if permission.from_addresses is not None and (
            author is None or permission.rewrite_from is None and not permission.may_write(
                read_addresses(PyBytes_AS_STRING(author), PyBytes_GET_SIZE(author)) or [], b"")
        ):
            handling.slot = Slot.INGRESS_REJECTED_SENDER
            return R_NO_FROM
        if author is not None:
            added += b"From: " + author + b"\r\n"
    if PyBytes_GET_SIZE(added):
        add(buffer, facts, added)
        handling.changed = True
    return NULL
