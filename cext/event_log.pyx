"""The event log: JSON Lines, one event per reception, attempt, delivery, deferral, bounce, rejection.

Job: compose the lines that every message causes without building Python objects, gather them, and append them to the
file in whole lines (log_file.h: several processes write one file). `flush` is called a few times a second and at the
end. It also sees when the file has another name, or none, since it was rotated: what was gathered goes to the old one,
then the name is opened again. While a file is open, a shared lock (flock) on it says so to whoever wants to know
whether it is finished.

Fails: a file that cannot be written costs events, never mail: they are counted in `dropped` and OUTCOME_EVENTS_DROPPED,
and the event `events_lost` says so when there is room again. Bounds: MOST_GATHERED octets wait for that. The lock
of the file is waited for only when half of it is used, and then for a millisecond.
"""

import fcntl
import json
import os
import time

from angarium._core.timeline import CAUSE_NAMES as _CAUSE_NAMES

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, errno
from libc.math cimport floor
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memmove, strlen
from posix.unistd cimport close as c_close, usleep
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from angarium._core.counters cimport Counters, Slot, slot_add
from angarium._core.octets cimport put_decimal
from angarium._core.record cimport (
    DURABILITY_ASYNC,
    DURABILITY_FSYNC,
    MESSAGE_BULK,
    MESSAGE_OVER_QUOTA,
    MESSAGE_UNUSUAL,
    TEXT_CLIENT,
    TEXT_GREETING,
    TEXT_LISTENER,
    TEXT_LOGIN,
    TEXT_REVERSE_PATH,
    TEXT_TENANT,
    MailBuffer,
    Message,
    Recipient,
    Text,
    id_text,
)
from angarium._core.reply cimport Reply
from angarium._core.timeline cimport CAUSES, Waits

cdef extern from *:
    """
    #define angarium_each UINT64_C(0x0101010101010101)
    """
    const uint64_t EACH "angarium_each"

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct tm:
        int tm_sec, tm_min, tm_hour, tm_mday, tm_mon, tm_year
    tm *gmtime_r(const time_t *when, tm *result)
    size_t strftime(char *out, size_t room, const char *format, const tm *when)

cdef extern from "log_file.h" nogil:
    size_t log_file_append(int fd, const char *octets, size_t n)
    bint log_file_is(int fd, const char *path)

cdef enum:
    WRITE_AT = 1 << 16           # octets gathered before they are written
    MOST_GATHERED = 1 << 20      # octets kept while the file cannot be written
    LONGEST_TEXT = 1000          # octets of one string value
    PATIENT_FROM = 1 << 19       # octets gathered from which on a file that others write is worth PATIENCE tries
    PATIENCE = 10                # 100 us apart
    MOST_REFUSED = 100           # recipients that are named of a message that was refused
    OPEN_TRIES = 10              # of a file that is rotated while it is opened
    LAST_TRIES = 200             # of the last write, 1 ms apart, while others write

cdef double TOLD_WAIT_S = 0.005  # what has waited less says nothing of it
cdef double LEAST_SHARE_S = 0.0001
cdef tuple _CAUSES = tuple([b'"%s":' % name.encode() for name in _CAUSE_NAMES])

_ESCAPER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


cdef inline uint64_t marked(uint64_t word) noexcept nogil:
    """Eight octets at once: a high bit is set where there is one that is no printable ASCII, a quote or a backslash.

    (Borrows and carries go upwards from such an octet only, so there is none where no bit is set.)
    """
    cdef uint64_t quote = word ^ (34 * EACH)
    cdef uint64_t backslash = word ^ (92 * EACH)
    return (
        ((word - 32 * EACH) & ~word) | word | (word + EACH)
        | ((quote - EACH) & ~quote) | ((backslash - EACH) & ~backslash)
    ) & (128 * EACH)


cdef inline bint is_plain(const char *octets, size_t n) noexcept nogil:
    """Whether octets can stand in a JSON string as they are."""
    cdef uint64_t word, found = 0
    cdef size_t i = 0
    cdef uint8_t c
    while i + 8 <= n:
        memcpy(&word, octets + i, 8)
        found |= marked(word)
        i += 8
    if i < n and n >= 8:
        memcpy(&word, octets + n - 8, 8)
        found |= marked(word)
        i = n
    while i < n:
        c = <uint8_t>octets[i]
        if c < 32 or c > 126 or c == 34 or c == 92:
            return False
        i += 1
    return found == 0


def open_log(str path):
    """A descriptor of the log at this path, open for appending, marked as held by one who writes; OSError.

    Between the opening and the mark the file may have been rotated: then the name leads to another.
    """
    cdef bytes name = os.fsencode(path)
    for attempt in range(OPEN_TRIES):
        flags = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            fd = os.open(path, flags | os.O_RDWR, 0o640)
        except PermissionError:
            fd = os.open(path, flags | os.O_WRONLY, 0o640)  # it may be written, not read: no half line is noticed
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if log_file_is(fd, name):
                return fd
        except OSError:
            if attempt == OPEN_TRIES - 1:
                return fd  # a file system without locks, or somebody's own lock: the log goes on
        os.close(fd)
    raise OSError(f"{path} is renamed again and again")


cdef class EventLog:
    def __init__(self, path, Counters counters):
        self._counters = counters
        self._fd = -1
        self.path = path
        self.reopen()

    def __dealloc__(self):
        if self._fd >= 0:
            c_close(self._fd)
        free(self._octets)

    def reopen(self):
        """Open the file by its name again (it was rotated, or it is the first time); OSError when that fails."""
        if self.path is None:
            return
        fd = open_log(self.path)
        if self._fd >= 0:
            self._write()
            os.close(self._fd)
        self._fd = fd
        self._name = os.fsencode(self.path)

    def move(self, path, int fd):
        """Go on in another file: `fd`, of `open_log` and ours from now on; path None, fd -1: no log is kept.

        What was gathered goes to the old one.
        """
        self.close()
        self.path = path
        self._name = None if path is None else os.fsencode(path)
        self._fd = fd

    def close(self):
        """Write what there is and close the file; what cannot be written is lost, and counted."""
        self._write()
        for _ in range(LAST_TRIES):
            if not self._length or not self._busy:
                break
            time.sleep(0.001)
            self._write()
        if self._length:
            self._drop()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    cdef bint enabled(self) noexcept:
        return self._fd >= 0

    def flush(self):
        """Append the gathered lines to the file, and follow it when it was rotated."""
        if self._fd < 0:
            return
        self._write()
        if self._name is not None and not log_file_is(self._fd, PyBytes_AS_STRING(self._name)):
            try:
                fd = open_log(self.path)
            except OSError:
                return  # the folder is gone, or may not be written: lines go on to the old file, and it is tried again
            os.close(self._fd)
            self._fd = fd
            self._write()

    cdef int _write(self) except -1:
        cdef size_t done
        if self._fd < 0 or self._length == 0:
            return 0
        done = log_file_append(self._fd, self._octets, self._length)
        self._busy = done == 0 and errno == EAGAIN
        if self._busy and self._length > PATIENT_FROM:
            # whoever has it is off the processor, for a write takes microseconds: let it come on, for a millisecond
            for _ in range(PATIENCE):
                usleep(100)
                done = log_file_append(self._fd, self._octets, self._length)
                self._busy = done == 0 and errno == EAGAIN
                if not self._busy:
                    break
        self.failing = done < self._length and not self._busy
        if done < self._length:
            if done:
                memmove(self._octets, self._octets + done, self._length - done)
                self._length -= done
            if self._length > MOST_GATHERED:
                self._drop()
            return 0
        self._length = 0
        if self.dropped > self._said:
            self._say_lost()
        return 0

    cdef int _say_lost(self) except -1:
        """There is room again: how many events are missing."""
        cdef uint64_t lost = self.dropped - self._said
        self._said = self.dropped
        self._begin("events_lost")
        self._put(b',"events":', 10)
        self._decimal(lost)
        return self._end()

    def _drop(self):
        """Give up what was gathered. If the first of it was written in part, its line ends here and spoils no other."""
        cdef size_t i, lines = 0
        cdef bint torn = self._length < 9 or memcmp(self._octets, b'{"time":"', 9) != 0
        for i in range(self._length):
            lines += self._octets[i] == 10
        if self._octets[0] == 10:            # the end of a line that counts as written, or was counted before
            lines -= 1
        self.dropped += lines
        slot_add(self._counters.slots, Slot.OUTCOME_EVENTS_DROPPED, lines)
        self._length = 0
        if torn:
            self._put(b"\n", 1)

    cdef int _room(self, size_t n) except -1:
        cdef char *moved
        cdef size_t capacity
        if self._length + n > self._capacity:
            capacity = (self._length + n) * 2
            if capacity < 2 * WRITE_AT:
                capacity = 2 * WRITE_AT
            moved = <char *>realloc(self._octets, capacity)
            if moved == NULL:
                raise MemoryError
            self._octets = moved
            self._capacity = capacity
        return 0

    cdef int _put(self, const char *octets, size_t n) except -1:
        self._room(n)
        memcpy(self._octets + self._length, octets, n)
        self._length += n
        return 0

    cdef int _json(self, const char *octets, size_t n) except -1:
        """A JSON string; octets that are no UTF-8 are shown as U+FFFD."""
        cdef bytes escaped
        if n > LONGEST_TEXT:
            n = LONGEST_TEXT
        if is_plain(octets, n):
            self._room(n + 2)
            self._octets[self._length] = 34
            memcpy(self._octets + self._length + 1, octets, n)
            self._octets[self._length + n + 1] = 34
            self._length += n + 2
            return 0
        text = PyBytes_FromStringAndSize(octets, n).decode("utf-8", "replace")
        escaped = _ESCAPER.encode(text).encode("utf-8")
        return self._put(PyBytes_AS_STRING(escaped), PyBytes_GET_SIZE(escaped))

    cdef int _decimal(self, uint64_t value) except -1:
        self._room(20)
        self._length += put_decimal(self._octets + self._length, value)
        return 0

    cdef int _seconds(self, double value) except -1:
        """Seconds with six decimals."""
        cdef uint64_t us, whole
        cdef int i
        if value < 0:
            value = 0
        us = <uint64_t>floor(value * 1e6 + 0.5)
        whole = us // 1000000
        us = us % 1000000
        self._decimal(whole)
        self._room(7)
        self._octets[self._length] = 46
        for i in range(6, 0, -1):
            self._octets[self._length + i] = <char>(48 + us % 10)
            us //= 10
        self._length += 7
        return 0

    cdef int _begin(self, const char *event) except -1:
        cdef timespec now
        cdef tm parts
        cdef time_t second
        cdef uint64_t us
        cdef int i
        clock_gettime(CLOCK_REALTIME, &now)
        second = now.tv_sec
        if <uint64_t>second != self._second:
            self._second = second
            gmtime_r(&second, &parts)
            strftime(self._stamp, 20, "%Y-%m-%dT%H:%M:%S", &parts)
        self._room(80)
        memcpy(self._octets + self._length, b'{"time":"', 9)
        memcpy(self._octets + self._length + 9, self._stamp, 19)
        self._length += 28
        us = now.tv_nsec // 1000
        self._octets[self._length] = 46
        for i in range(6, 0, -1):
            self._octets[self._length + i] = <char>(48 + us % 10)
            us //= 10
        self._length += 7
        memcpy(self._octets + self._length, b'Z","event":"', 12)
        self._length += 12
        self._put(event, strlen(event))
        return self._put(b'"', 1)

    cdef int _end(self) except -1:
        self._put(b"}\n", 2)
        slot_add(self._counters.slots, Slot.OUTCOME_EVENTS, 1)
        if self._length >= WRITE_AT:
            self.flush()
        return 0

    cdef int accepted(self, Message message, MailBuffer buffer, const char *protocol, double seconds,
                      bytes granted, bytes done) except -1:
        """A message was answered 250. `seconds`: from the end of the mail data until then.

        `granted`, `done`: what policy has to say of it, as members of the object; None: nothing.
        """
        cdef char id[13]
        cdef Text text
        cdef Recipient recipient
        cdef size_t position
        cdef int i
        if self._fd < 0:
            return 0
        self._begin("reception")
        self._put(b',"id":"', 7)
        id_text(message.id, id)
        self._put(id, 13)
        self._put(b'","reverse_path":', 17)
        text = buffer.text(TEXT_REVERSE_PATH)
        self._json(text.octets, text.length)
        self._put(b',"recipients":[', 15)
        position = buffer.first_recipient()
        for i in range(message.recipients):
            position = buffer.recipient_at(position, &recipient)
            if i:
                self._put(b",", 1)
            self._json(recipient.forward_path.octets, recipient.forward_path.length)
        self._put(b'],"octets":', 11)
        self._decimal(buffer.end - buffer.data_begin)
        self._put(b',"client":', 10)
        text = buffer.text(TEXT_CLIENT)
        self._json(text.octets, text.length)
        self._put(b',"greeting":', 12)
        text = buffer.text(TEXT_GREETING)
        self._json(text.octets, text.length)
        self._put(b',"listener":', 12)
        text = buffer.text(TEXT_LISTENER)
        self._json(text.octets, text.length)
        text = buffer.text(TEXT_LOGIN)
        if text.length:
            self._put(b',"login":', 9)
            self._json(text.octets, text.length)
        text = buffer.text(TEXT_TENANT)
        self._put(b',"tenant":', 10)
        self._json(text.octets, text.length)
        self._put(b',"protocol":"', 13)
        self._put(protocol, strlen(protocol))
        self._put(b'"', 1)
        self._durability(message)
        if message.flags & MESSAGE_BULK:
            self._put(b',"traffic":"bulk"', 17)
        if buffer.meta().priority < 0:
            self._put(b',"priority":-', 13)
            self._decimal(-buffer.meta().priority)
        elif buffer.meta().priority > 0:
            self._put(b',"priority":', 12)
            self._decimal(buffer.meta().priority)
        if buffer.meta().hold_until:
            self._hold(buffer.meta().hold_until)
        if message.flags & MESSAGE_UNUSUAL:
            self._put(b',"held":"unusual"', 17)
        elif message.flags & MESSAGE_OVER_QUOTA:
            self._put(b',"held":"quota"', 15)
        if granted is not None:
            self._put(PyBytes_AS_STRING(granted), PyBytes_GET_SIZE(granted))
        if done is not None:
            self._put(PyBytes_AS_STRING(done), PyBytes_GET_SIZE(done))
        self._put(b',"commit_s":', 12)
        self._seconds(seconds)
        return self._end()

    cdef int _hold(self, uint64_t until) except -1:
        """The release that the client asked for, or its limit allows, as a time of RFC 3339."""
        cdef char stamp[40]
        cdef tm parts
        cdef time_t second = until
        cdef size_t n
        gmtime_r(&second, &parts)
        n = strftime(stamp, 40, "%Y-%m-%dT%H:%M:%SZ", &parts)
        self._put(b',"hold_until":"', 15)
        self._put(stamp, n)
        return self._put(b'"', 1)

    cdef int _durability(self, Message message) except -1:
        if message.durability == DURABILITY_FSYNC:
            self._put(b',"durability":"fsync"', 21)
        elif message.durability == DURABILITY_ASYNC:
            self._put(b',"durability":"async"', 21)
        else:
            self._put(b',"durability":"memory"', 22)
        return 0

    cdef int attempt(self, const char *event, Message message, MailBuffer buffer, int recipient,
                     bytes next_hop, bytes site, bytes source, bytes pool,
                     Reply *reply, bytes text, double attempt_s, bytes tls, Waits *waits) except -1:
        """What one attempt came to for one recipient. `event`: delivery, deferral, bounce or in_doubt.

        `tls` is the connection's, as JSON; None: it had none, or there was no connection. `waits`: before the attempt.
        """
        cdef char id[13]
        cdef Text value
        cdef Recipient who
        cdef size_t position
        cdef timespec now
        cdef int _i
        if self._fd < 0:
            return 0
        self._begin(event)
        self._put(b',"id":"', 7)
        id_text(message.id, id)
        self._put(id, 13)
        self._put(b'","reverse_path":', 17)
        value = buffer.text(TEXT_REVERSE_PATH)
        self._json(value.octets, value.length)
        position = buffer.first_recipient()
        for _i in range(recipient + 1):
            position = buffer.recipient_at(position, &who)
        self._put(b',"recipient":', 13)
        self._json(who.forward_path.octets, who.forward_path.length)
        self._put(b',"next_hop":', 12)
        self._json(PyBytes_AS_STRING(next_hop), PyBytes_GET_SIZE(next_hop))
        self._put(b',"site":', 8)
        self._json(PyBytes_AS_STRING(site), PyBytes_GET_SIZE(site))
        self._put(b',"source":', 10)
        self._json(PyBytes_AS_STRING(source), PyBytes_GET_SIZE(source))
        if pool is not None:
            self._put(b',"pool":', 8)
            self._json(PyBytes_AS_STRING(pool), PyBytes_GET_SIZE(pool))
        value = buffer.text(TEXT_TENANT)
        self._put(b',"tenant":', 10)
        self._json(value.octets, value.length)
        self._put(b',"reply":{"code":', 17)
        self._decimal(reply.code)
        self._put(b',"enhanced":', 12)
        if reply.enhanced_class:
            self._put(b'"', 1)
            self._decimal(reply.enhanced_class)
            self._put(b".", 1)
            self._decimal(reply.enhanced_subject)
            self._put(b".", 1)
            self._decimal(reply.enhanced_detail)
            self._put(b'"', 1)
        else:
            self._put(b"null", 4)
        self._put(b',"text":', 8)
        self._json(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        self._put(b'},"class":"', 11)
        if event[0] == c'b':
            self._put(b'failed"', 7)
        elif event[0] == c'i':
            self._put(b'in_doubt"', 9)
        elif event[2] == c'f':
            self._put(b'deferred"', 9)
        else:
            self._put(b'delivered"', 10)
        self._durability(message)
        self._put(b',"attempts":', 12)
        self._decimal(message.attempts + 1)
        clock_gettime(CLOCK_REALTIME, &now)
        self._put(b',"age_s":', 9)
        self._seconds(now.tv_sec + now.tv_nsec * 1e-9 - message.received_us * 1e-6)
        self._put(b',"attempt_s":', 13)
        self._seconds(attempt_s)
        if waits.total >= TOLD_WAIT_S:
            self._waited(waits)
        if tls is not None:
            self._put(b',"tls":', 7)
            self._put(PyBytes_AS_STRING(tls), PyBytes_GET_SIZE(tls))
        return self._end()

    cdef int _waited(self, Waits *waits) except -1:
        """How long, by cause."""
        cdef int cause
        cdef bytes name
        cdef bint several = False
        self._put(b',"waited":{', 11)
        for cause in range(CAUSES):
            if waits.seconds[cause] < LEAST_SHARE_S:
                continue
            name = <bytes>_CAUSES[cause]
            if several:
                self._put(b",", 1)
            several = True
            self._put(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            self._seconds(waits.seconds[cause])
        return self._put(b"}", 1)

    cdef int rejected(self, Text client, Text greeting, Text listener, Text login, Text tenant, Text permission,
                      Text reverse_path, Text recipient, const char *recipients, uint32_t recipient_count,
                      const char *reply) except -1:
        """A command or a message was refused. `reply` is the whole reply line.

        `recipients`: of a message that was refused as a whole, as its record would have them; of these the first
        MOST_REFUSED are named.
        """
        cdef size_t n = strlen(reply)
        cdef uint16_t length
        cdef uint32_t i
        if self._fd < 0:
            return 0
        self._begin("rejection")
        self._put(b',"client":', 10)
        self._json(client.octets, client.length)
        self._put(b',"greeting":', 12)
        self._json(greeting.octets, greeting.length)
        self._put(b',"listener":', 12)
        self._json(listener.octets, listener.length)
        if login.length:
            self._put(b',"login":', 9)
            self._json(login.octets, login.length)
        self._put(b',"tenant":', 10)
        self._json(tenant.octets, tenant.length)
        if permission.length:
            self._put(b',"permission":', 14)
            self._json(permission.octets, permission.length)
        self._put(b',"reverse_path":', 16)
        self._json(reverse_path.octets, reverse_path.length)
        self._put(b',"recipient":', 13)
        self._json(recipient.octets, recipient.length)
        for i in range(min(recipient_count, <uint32_t>MOST_REFUSED)):
            memcpy(&length, recipients, 2)
            if i == 0:
                self._put(b',"recipients":[', 15)
            else:
                self._put(b",", 1)
            self._json(recipients + 2, length)
            recipients += 2 + length + 1     # NOTIFY
            memcpy(&length, recipients, 2)
            recipients += 2 + length         # ORCPT
        if recipient_count:
            self._put(b"]", 1)
        self._put(b',"reply":{"code":', 17)
        self._put(reply, 3)
        self._put(b',"enhanced":', 12)
        if n > 10 and reply[5] == 46:
            self._json(reply + 4, 5)
            reply += 10
            n -= 10
        else:
            self._put(b"null", 4)
            reply += 4
            n -= 4
        self._put(b',"text":', 8)
        self._json(reply, n - 2)
        self._put(b"}", 1)
        return self._end()

    def event(self, str event, dict fields):
        """Any other event: fields stand behind time and event. TypeError, ValueError: they are no JSON values."""
        cdef bytes line, name
        if self._fd < 0:
            return
        name = event.encode("ascii")
        line = _ESCAPER.encode(fields).encode("utf-8", "replace")  # before anything is put: it may raise
        self._begin(name)
        if fields:
            self._put(b",", 1)
            self._put(PyBytes_AS_STRING(line) + 1, PyBytes_GET_SIZE(line) - 2)
        self._end()
