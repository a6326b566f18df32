"""Counters, gauges and histograms of the whole node in one piece of shared memory.

To add one: a line in Slot under its kind and stage, and a line in a table of angarium.outcome.metrics. Slots number
themselves.
To add one by provider, tenant, listener or shard: a line at the end of its part of Slot with the number of the first
free slot; the next so many slots (ROWS_OF of its Dimension) are one for each row of the dimension.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from posix.time cimport clock_gettime, timespec

cdef extern from *:
    """
    #define angarium_load(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define angarium_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define angarium_add(p, n) ((void)__atomic_fetch_add((p), (n), __ATOMIC_RELAXED))
    /* A sequence lock with one writer: odd while it writes. Readers try again when the number has changed. */
    #define angarium_begin(p) (__atomic_store_n((p), (*(p) + 1) | 1, __ATOMIC_RELAXED), \
                               __atomic_thread_fence(__ATOMIC_RELEASE))
    #define angarium_end(p) __atomic_store_n((p), *(p) + 1, __ATOMIC_RELEASE)
    #define angarium_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define angarium_still(p, v) \
        (__atomic_thread_fence(__ATOMIC_ACQUIRE), __atomic_load_n((p), __ATOMIC_RELAXED) == (v))
    /* Upper bounds of the histograms' buckets, microseconds. 1-2-5 up to a second, then what people ask about. */
    static const uint64_t angarium_bounds[24] = {
        100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000,
        1000000, 2000000, 5000000, 10000000, 30000000, 60000000, 120000000, 300000000, 600000000,
        1800000000, 3600000000, 14400000000
    };
    /* By binary digits: how many bounds are below the least number that has so many. One or two more to look at. */
    static const uint8_t angarium_below[65] = {
        0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 14, 15, 16, 17, 18, 19, 19, 20, 21,
        22, 23, 23, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24,
        24, 24, 24, 24, 24, 24
    };
    static inline int angarium_bucket(uint64_t us) {
        int bucket = angarium_below[us ? 64 - __builtin_clzll(us) : 0];
        while (bucket < 24 && us > angarium_bounds[bucket])
            bucket++;
        return bucket;
    }
    """
    uint64_t load_u64 "angarium_load"(const uint64_t *p) noexcept nogil
    uint32_t load_u32 "angarium_load"(const uint32_t *p) noexcept nogil
    void store_u64 "angarium_store"(uint64_t *p, uint64_t value) noexcept nogil
    void store_u32 "angarium_store"(uint32_t *p, uint32_t value) noexcept nogil
    void add_u64 "angarium_add"(uint64_t *p, uint64_t n) noexcept nogil
    void begin_writing "angarium_begin"(uint32_t *p) noexcept nogil
    void end_writing "angarium_end"(uint32_t *p) noexcept nogil
    uint32_t begin_reading "angarium_acquire"(const uint32_t *p) noexcept nogil
    bint end_reading "angarium_still"(const uint32_t *p, uint32_t value) noexcept nogil
    const uint64_t *BOUNDS_US "angarium_bounds"
    int bucket_of "angarium_bucket"(uint64_t us) noexcept nogil

cdef extern from "<time.h>" nogil:
    int CLOCK_REALTIME_COARSE


cdef enum:
    SLOTS = 8192
    COUNTERS_BEGIN = 128         # below: gauges, which go back to zero when their worker starts again
    HISTOGRAMS_BEGIN = 512
    HISTOGRAM_SLOTS = 32         # of one histogram: a count per bucket (not cumulative), then the sum
    BUCKETS = 25                 # one per bound, and one above the last
    EXEMPLAR_HISTOGRAMS = 10     # so many of the first have room for an exemplar in each bucket
    ROW_GAUGES_BEGIN = 2048      # gauges again: a histogram of what is now, and gauges by row of a dimension
    ROW_COUNTERS_BEGIN = 4096    # counters by row of a dimension
    CLIENT_SLOTS = 8192          # of one worker's client table; a power of two
    CLIENT_WINDOW = 64           # slots in which a client may be, counted from the one its key hashes to


cpdef enum Dimension:            # a label whose values the configuration says; each value has a row
    DIMENSION_PROVIDER = 0       # row 0: other
    DIMENSION_TENANT             # row 0: mail of no tenant; 1 to TENANT_BUCKETS: by hash, those without a row
    DIMENSION_LISTENER           # row 0: other
    DIMENSION_SOURCE             # row 0: the address that the system chooses; 1: other
    DIMENSION_POOL               # row 0: mail of no source pool; 1: other
    DIMENSION_SHARD              # its number


cdef enum:
    DIMENSIONS = 6
    TENANT_BUCKETS = 16
    PROVIDER_ROWS = 64           # slots from one metric by provider to the next
    TENANT_ROWS = 256
    LISTENER_ROWS = 64
    SOURCE_ROWS = 128
    POOL_ROWS = 64
    SHARD_ROWS = 256
    NAMED_ROWS = 576             # of those that have names
    TOPS = 64                    # entries of a list of the largest
    TOP_LISTS = 2


cpdef enum Top:                  # lists of the largest, see top_k.pyx
    TOP_WAITING = 0              # destination domains by messages that wait
    TOP_DEFERRED                 # destination domains by recipients deferred lately


cpdef enum Slot:
    # ---- gauges: how much there is now ----
    # ingress
    INGRESS_CONNECTIONS = 0
    INGRESS_BANNED_ADDRESSES         # clients that failed to log in too often
    INGRESS_BANNED_LOG_INS
    # queue
    QUEUE_MESSAGES
    QUEUE_RECIPIENTS
    QUEUE_OCTETS                     # of the messages queued, wherever they are
    QUEUE_MEMORY_OCTETS              # of mail data held in memory
    QUEUE_JOURNAL_OCTETS             # of segments on disk
    QUEUE_LIVING_OCTETS              # of records that are needed
    QUEUE_SHARDS_FAILED              # closed for intake after a failed write or sync
    QUEUE_LEDGER_QUEUED              # recipients of whom the journal does not say that it is over
    QUEUE_LEDGER_DRIFT               # by how many the ledger and the queue differ
    QUEUE_MEMORY_STATE_BELOW         # 1 for the one state of a process's memory (MemoryState), in its order
    QUEUE_MEMORY_STATE_SOFT
    QUEUE_MEMORY_STATE_HARD
    QUEUE_MEMORY_STATE_REFUSING
    QUEUE_MEMORY_MARK_SOFT           # octets of the node; written by the first process only
    QUEUE_MEMORY_MARK_HARD
    QUEUE_MEMORY_MARK_BUDGET
    QUEUE_SHARDS_FULL                # that refused mail for want of room, and have not found any since
    # delivery
    DELIVERY_CONNECTIONS
    DELIVERY_READY                   # messages that may go now
    DELIVERY_SCHEDULED               # messages that wait for their time
    DELIVERY_MTA_STS_POLICIES        # policies of domains that are kept
    DELIVERY_TOKEN_LEFT              # seconds until the first of the access tokens expires
    # outcome
    OUTCOME_LOG_OCTETS               # of the event log's files
    OUTCOME_NOTIFICATIONS_WAITING    # notifications that no journal has taken yet
    # ingress
    INGRESS_CERTIFICATE_LEFT         # seconds until the first of the relay's own certificates ends; first process only
    INGRESS_DROP_WAITING             # files in the drop folder when it was last looked into
    # the node; written by its supervisor
    NODE_CONFIGURATION_TIME          # unix seconds: since when the configuration in force is
    NODE_RELOAD_REFUSED              # 1 when the last reload was refused
    NODE_RESTART_KEYS                # keys of the file that wait for a restart
    NODE_DRAINING                    # 1 while no mail is taken

    # ---- counters: they never go back ----
    # ingress: connections
    INGRESS_CONNECTIONS_TOTAL = 128
    INGRESS_REFUSED_NODE             # the node's limit
    INGRESS_REFUSED_CLIENT           # the client's limit
    INGRESS_CLIENT_TABLE_FULL        # connections counted under the key that all such clients share
    INGRESS_TLS_HANDSHAKES
    INGRESS_TLS_FAILURES
    INGRESS_AUTH_OK
    INGRESS_AUTH_FAILED
    INGRESS_AUTH_BANNED              # answered without a look at what was to be proved
    INGRESS_AUTH_UNAVAILABLE         # nobody could say whether it was right
    # ingress: the access process
    INGRESS_VERIFIED_ACCEPTED
    INGRESS_VERIFIED_REFUSED
    INGRESS_VERIFIED_UNAVAILABLE     # no back end could say, or no room in line
    INGRESS_VERIFIED_REMEMBERED      # answered from memory
    INGRESS_DELAYED_LOG_INS          # failures whose answer was held back
    INGRESS_BANS_ADDRESS             # that began
    INGRESS_BANS_LOG_IN
    INGRESS_BANS_LIFTED              # by an operator
    # ingress: commands and replies
    INGRESS_COMMANDS_TOTAL
    INGRESS_REPLIES_2XX
    INGRESS_REPLIES_3XX
    INGRESS_REPLIES_4XX
    INGRESS_REPLIES_5XX
    INGRESS_THROTTLED            # sessions made to wait for sending commands too fast
    INGRESS_PACED                # sessions made to wait for want of memory
    # ingress: messages answered 250, by durability class
    INGRESS_MESSAGES_FSYNC
    INGRESS_MESSAGES_ASYNC
    INGRESS_MESSAGES_MEMORY
    INGRESS_OCTETS                   # of mail data answered 250
    # ingress: what was rejected, by reason
    INGRESS_REJECTED_RELAY
    INGRESS_REJECTED_SIZE
    INGRESS_REJECTED_BARE_NEWLINE
    INGRESS_REJECTED_HOPS
    INGRESS_REJECTED_SYNTAX
    INGRESS_REJECTED_RECIPIENTS
    INGRESS_REJECTED_ERRORS
    INGRESS_REJECTED_IDLE
    INGRESS_REJECTED_STORAGE
    INGRESS_REJECTED_MEMORY_FULL
    INGRESS_REJECTED_UNKNOWN         # recipients that do not exist
    INGRESS_REJECTED_UNVERIFIED      # recipients of whom nobody could say
    # ingress: recipients verified, and the files and probes behind that
    INGRESS_CHECKED_KNOWN
    INGRESS_CHECKED_UNKNOWN
    INGRESS_CHECKED_DEFERRED
    INGRESS_CHECKED_UNCHECKED        # accepted, since nobody could say
    INGRESS_LISTS_READ
    INGRESS_LISTS_FAILED
    INGRESS_PROBES_KNOWN             # sessions up to RCPT with a mailbox host
    INGRESS_PROBES_UNKNOWN
    INGRESS_PROBES_FAILED
    INGRESS_PROBES_SPARED            # answered by what was known
    INGRESS_PROBES_STALE             # answered with what was right once
    INGRESS_REJECTED_SENDER          # a reverse path or a From that the client may not use
    INGRESS_REJECTED_QUOTA           # as many recipients as the sender may have within the time
    INGRESS_REJECTED_HEADER          # a header section that a submission may not have
    # ingress: permissions, messages
    INGRESS_FIXED_UP                 # whose header section was completed
    INGRESS_OVER_QUOTA               # that go when their sender's limit allows
    INGRESS_HELD_UNUSUAL             # held, because their sender sends unusually much
    INGRESS_UNUSUAL_SENDERS          # senders of whom that was found
    # ingress: files of the drop folder
    INGRESS_DROP_TAKEN               # queued, and removed
    INGRESS_DROP_REFUSED             # put aside
    INGRESS_DROP_RETURNED            # left for later: the relay could not take mail at that moment
    # queue: journal
    QUEUE_COMMITS_TOTAL              # groups of records written
    QUEUE_COMMIT_RECORDS             # records in those groups
    QUEUE_SYNCS_TOTAL                # fdatasync calls
    QUEUE_JOURNAL_WRITTEN_OCTETS  # handed to the kernel
    QUEUE_SEGMENTS_CREATED
    QUEUE_SEGMENTS_RECYCLED
    # queue: memory marks passed upwards, in the order of MemoryState
    QUEUE_MEMORY_ENTERED_SOFT
    QUEUE_MEMORY_ENTERED_HARD
    QUEUE_MEMORY_ENTERED_REFUSING
    QUEUE_COMPACTED_OCTETS           # of records copied out of old segments
    # queue: recovery and ends without delivery
    QUEUE_RECOVERED                  # messages found at start
    QUEUE_TORN_RECORDS
    QUEUE_DAMAGED_START              # damaged records found at start
    QUEUE_DAMAGED_READ               # … when their mail data was to be read
    # queue: what became of shards
    QUEUE_SHARD_FENCED               # a write or a sync failed
    QUEUE_SHARD_FULL                 # no room for another segment
    QUEUE_SHARD_HEALED               # of either
    QUEUE_IN_DOUBT_TOTAL
    QUEUE_EXPIRED
    # queue: the ledger, recipients; set, not added to, and kept in the journal
    QUEUE_LEDGER_ACCEPTED
    QUEUE_LEDGER_DELIVERED
    QUEUE_LEDGER_BOUNCED
    QUEUE_LEDGER_EXPIRED
    QUEUE_LEDGER_DELETED
    QUEUE_LEDGER_DAMAGED
    QUEUE_LEDGER_LOST_MEMORY
    # delivery: attempts and what they came to
    DELIVERY_ATTEMPTS
    DELIVERY_DELIVERED_RECIPIENTS
    DELIVERY_DEFERRED_RECIPIENTS
    DELIVERY_FAILED_RECIPIENTS
    DELIVERY_EXPIRED_RECIPIENTS
    DELIVERY_DELIVERED_MESSAGES
    DELIVERY_OCTETS                  # of mail data taken by next hops
    DELIVERY_DUPLICATES_POSSIBLE     # messages sent again after a transaction whose final reply was not seen
    # delivery: connections and names
    DELIVERY_CONNECTIONS_OPENED
    DELIVERY_CONNECTIONS_REUSED
    DELIVERY_CONNECTIONS_FAILED
    DELIVERY_NEXT_HOST               # deliveries that went on to another host after trouble with one
    DELIVERY_SOURCE_FAILURES         # connections that were not opened: their source could not be used for them
    DELIVERY_SOURCE_REPLACED         # ways that were found by another source of the pool than the one assigned
    DELIVERY_SOURCE_POOL_MISSING     # messages whose source pool the configuration does not have
    DELIVERY_TOKENS_GRANTED          # requests for access tokens
    DELIVERY_TOKENS_REFUSED
    DELIVERY_TOKENS_FAILED
    DELIVERY_DNS_QUERIES
    DELIVERY_DNS_CACHE_HITS
    DELIVERY_DNS_FAILURES
    DELIVERY_DNS_STALE               # questions answered with what was right once
    # delivery: connections by the TLS they have, and what was wrong with TLS where it was not as the policy asks
    DELIVERY_TLS_PLAINTEXT
    DELIVERY_TLS_ENCRYPTED           # whoever the host is
    DELIVERY_TLS_WEBPKI
    DELIVERY_TLS_DANE
    DELIVERY_TLS_FINGERPRINT
    DELIVERY_TLS_NOT_SUPPORTED
    DELIVERY_TLS_HOST_MISMATCH
    DELIVERY_TLS_EXPIRED
    DELIVERY_TLS_NOT_TRUSTED
    DELIVERY_TLS_VALIDATION          # the handshake itself, or a fingerprint
    DELIVERY_TLS_TLSA_INVALID
    DELIVERY_TLS_DNSSEC_INVALID
    DELIVERY_TLS_DANE_REQUIRED
    # outcome
    OUTCOME_EVENTS
    OUTCOME_EVENTS_DROPPED
    OUTCOME_LOG_ROTATIONS            # of the event log
    OUTCOME_LOG_COMPRESSED           # files
    OUTCOME_LOG_COMPRESS_FAILED
    OUTCOME_LOG_DELETED
    OUTCOME_DIALOGUES_DROPPED        # what was said in so many attempts
    # outcome: notifications to senders that are queued, by the worst that they tell
    OUTCOME_NOTIFICATIONS_FAILED
    OUTCOME_NOTIFICATIONS_DELAYED
    OUTCOME_NOTIFICATIONS_SUCCESS
    OUTCOME_NOTIFICATIONS_PUT_OFF    # no room to wait: it is tried again with the message
    OUTCOME_NOTIFICATIONS_DROPPED    # of success, and no room to wait
    OUTCOME_DOUBLE_BOUNCES           # notifications that could not be delivered
    # MTA-STS: policy files that were asked for
    DELIVERY_MTA_STS_FETCHED
    DELIVERY_MTA_STS_FAILED
    DELIVERY_MTA_STS_KEPT            # failed, and a policy that is kept goes on
    # outcome: reports of TLS results to domains
    OUTCOME_TLS_RESULTS              # of sessions, gathered
    OUTCOME_TLS_RESULTS_DROPPED      # without room
    OUTCOME_TLS_REPORTS_MAILED
    OUTCOME_TLS_REPORTS_POSTED
    OUTCOME_TLS_REPORTS_FAILED       # given up
    # processes
    WORKER_STARTS
    # ingress: what proxies and hosts in front say, and certificates
    INGRESS_PROXY_CLIENT             # headers that name a client
    INGRESS_PROXY_OWN                # headers that name none: the proxy's own connection
    INGRESS_PROXY_MALFORMED          # from here on: connections that were closed for want of a header
    INGRESS_PROXY_TOO_LONG
    INGRESS_PROXY_TIMEOUT
    INGRESS_PROXY_LOST               # closed by the proxy before its header was whole
    INGRESS_XCLIENT
    INGRESS_XCLIENT_REFUSED
    INGRESS_CERTIFICATES_LOADED      # read again after a change
    INGRESS_CERTIFICATES_REFUSED
    INGRESS_CERTIFICATE_RELAYS       # client certificates that relay_certificates names
    INGRESS_CERTIFICATE_OTHER
    NODE_RELOADS_APPLIED
    NODE_RELOADS_REFUSED
    NODE_HANGS_WORKER                # processes that did not answer, by kind; written by the supervisor
    NODE_HANGS_LOOKUP
    NODE_HANGS_ACCESS
    NODE_HANGS_EVENTS
    NODE_HANGS_ADMIN
    NODE_HANGS_SINK
    NODE_DEATHS_WORKER               # processes that ended by themselves, or were killed for hanging
    NODE_DEATHS_LOOKUP
    NODE_DEATHS_ACCESS
    NODE_DEATHS_EVENTS
    NODE_DEATHS_ADMIN
    NODE_DEATHS_SINK

    # delivery: replies of next hops to transactions, by their first digit
    DELIVERY_REPLIES_2XX
    DELIVERY_REPLIES_4XX
    DELIVERY_REPLIES_5XX
    DELIVERY_REPLIES_NONE            # there was none
    # queue: microseconds that messages waited, each charged to one cause
    QUEUE_WAITED_HELD                # by an operator or by policy
    QUEUE_WAITED_SUSPENDED           # domain, tenant, site or source
    QUEUE_WAITED_QUOTA               # its sender's limit
    QUEUE_WAITED_RELEASE             # the release that the client asked for (RFC 4865)
    QUEUE_WAITED_BACKOFF             # the time of its next attempt
    QUEUE_WAITED_DNS                 # the next hop's names cannot be had
    QUEUE_WAITED_CONNECTION          # no connection: the next hop cannot be reached, or one is being opened
    QUEUE_WAITED_CONCURRENCY         # as many connections as may be are busy
    QUEUE_WAITED_ROOM                # room in the ready queue, or its way is being found
    QUEUE_WAITED_DISK                # its mail data is being read

    # ---- histograms of time: 32 slots each; those with exemplars first ----
    INGRESS_ACCEPT_ENVELOPE = 512    # MAIL until the mail data begins
    INGRESS_ACCEPT_DATA = 544        # until its end
    INGRESS_COMMIT_LATENCY = 576     # end of the mail data until the 250 is written
    DELIVERY_LATENCY_FSYNC = 608     # message accepted until a recipient is delivered, by durability class
    DELIVERY_LATENCY_ASYNC = 640
    DELIVERY_LATENCY_MEMORY = 672
    DELIVERY_ATTEMPT_MAIL = 704      # each until its reply was read
    DELIVERY_ATTEMPT_RCPT = 736
    DELIVERY_ATTEMPT_DATA = 768
    DELIVERY_ATTEMPT_FINAL = 800     # the mail data, or what was left of it, and the reply to its end
    DELIVERY_ATTEMPT_DNS = 832       # the look-up of a domain's mail hosts
    DELIVERY_ATTEMPT_CONNECT = 864   # TCP
    DELIVERY_ATTEMPT_GREETING = 896
    DELIVERY_ATTEMPT_EHLO = 928
    DELIVERY_ATTEMPT_TLS = 960       # STARTTLS and its handshake
    DELIVERY_ATTEMPT_AUTH = 992
    QUEUE_WRITE_LATENCY = 1024       # one group written to a journal
    QUEUE_SYNC_LATENCY = 1056        # one fdatasync
    QUEUE_BATCH_RECORDS = 1088       # records of one group, in hundreds of microseconds
    LOOP_LAG = 1120                  # how late a worker's loop ran what was due

    # ---- gauges again ----
    QUEUE_AGE = 2048                 # a histogram of the age of what is queued now
    PROVIDER_WAITING = 2112          # messages that wait
    PROVIDER_OLDEST = 2176           # microseconds since the oldest of these was accepted
    TENANT_WAITING = 2304
    SHARD_JOURNAL = 2560             # octets
    SHARD_LIVING = 2816
    SHARD_CLOSED = 3072              # 1: takes no mail

    # ---- counters by row of a dimension ----
    PROVIDER_ATTEMPTS = 4096
    PROVIDER_DELIVERED = 4160        # recipients, and so the three that follow
    PROVIDER_DEFERRED = 4224
    PROVIDER_FAILED = 4288
    PROVIDER_EXPIRED = 4352
    PROVIDER_REPLIES_2XX = 4416
    PROVIDER_REPLIES_4XX = 4480
    PROVIDER_REPLIES_5XX = 4544
    PROVIDER_REPLIES_NONE = 4608
    PROVIDER_OPENED = 4672           # connections
    PROVIDER_UNREACHED = 4736        # connections that could not be had
    TENANT_ACCEPTED = 4864           # recipients, and so the four that follow
    TENANT_DELIVERED = 5120
    TENANT_DEFERRED = 5376
    TENANT_FAILED = 5632
    TENANT_EXPIRED = 5888
    LISTENER_CONNECTIONS = 6144
    LISTENER_TURNED_AWAY = 6208      # connections answered 421 at once
    LISTENER_ACCEPTED = 6272         # messages answered 250
    LISTENER_REFUSED = 6336          # commands and messages refused
    SOURCE_ATTEMPTS = 6400
    SOURCE_DELIVERED = 6528          # recipients, and so the two that follow
    SOURCE_DEFERRED = 6656
    SOURCE_FAILED = 6784
    SOURCE_REPLIES_2XX = 6912
    SOURCE_REPLIES_4XX = 7040
    SOURCE_REPLIES_5XX = 7168
    SOURCE_REPLIES_NONE = 7296
    SOURCE_OPENED = 7424             # connections
    SOURCE_UNREACHED = 7552          # connections that could not be had
    POOL_DELIVERED = 7680            # recipients, and so the two that follow
    POOL_DEFERRED = 7744
    POOL_FAILED = 7808


cdef struct SlabHeader:
    uint64_t magic
    uint32_t version
    uint32_t regions
    uint64_t region_octets
    uint64_t seed                # of the client tables' hash, so that no client can choose its slot


cdef struct ClientSlot:
    uint64_t key                 # 0: never used since the table was cleared
    uint32_t count               # 0: free
    uint32_t unused


cdef struct Exemplar:
    uint32_t sequence            # a sequence lock
    uint32_t unused
    uint64_t id                  # of the message, 0: there has been none
    uint64_t value_us
    uint64_t at_us               # unix time


cdef struct TopEntry:
    uint64_t count
    uint64_t error               # by how much count may be too large
    uint8_t length
    char name[255]


cdef struct TopList:
    uint32_t sequence            # a sequence lock
    uint32_t count
    TopEntry entries[64]         # TOPS


cdef struct LabelName:
    uint8_t length
    char text[71]


cdef struct LabelTable:          # written by the supervisor only; a row that has a name keeps it
    uint32_t used[6]             # rows of each dimension
    LabelName names[576]         # NAMED_ROWS


cdef struct LabelIndex:          # of the names of one dimension: open addressing
    uint32_t hashes[512]
    uint16_t rows[512]           # 0: free, else the row + 1


cdef struct Region:              # one process writes it, all may read it
    uint64_t slots[8192]         # SLOTS
    Exemplar exemplars[10][25]   # EXEMPLAR_HISTOGRAMS, BUCKETS
    TopList tops[2]              # TOP_LISTS
    uint32_t uncounted           # open connections that found no place in the table
    uint32_t unused[15]
    ClientSlot clients[8192]


# For hot loops that keep the pointer: no bounds check here, the slot is a constant of the Slot enumeration.
cdef inline void slot_add(uint64_t *slots, int slot, uint64_t n) noexcept nogil:
    add_u64(slots + slot, n)


cdef inline void slot_sub(uint64_t *slots, int slot, uint64_t n) noexcept nogil:
    add_u64(slots + slot, 0 - n)


cdef inline void slot_set(uint64_t *slots, int slot, uint64_t value) noexcept nogil:
    store_u64(slots + slot, value)


cdef inline void slot_observe(uint64_t *slots, int base, uint64_t microseconds) noexcept nogil:
    cdef int bucket = bucket_of(microseconds)
    add_u64(slots + base + bucket, 1)
    add_u64(slots + base + BUCKETS, microseconds)


# The same, and the message that it was: for the histograms that have room for it, and with one writer only.
cdef inline void observe_message(Region *region, int base, uint64_t microseconds, uint64_t id,
                                 uint64_t at_us) noexcept nogil:
    cdef int bucket = bucket_of(microseconds)
    cdef Exemplar *exemplar
    add_u64(region.slots + base + bucket, 1)
    add_u64(region.slots + base + BUCKETS, microseconds)
    exemplar = &region.exemplars[(base - HISTOGRAMS_BEGIN) // HISTOGRAM_SLOTS][bucket]
    begin_writing(&exemplar.sequence)
    store_u64(&exemplar.id, id)
    store_u64(&exemplar.value_us, microseconds)
    store_u64(&exemplar.at_us, at_us)
    end_writing(&exemplar.sequence)


cdef inline uint64_t about_now_us() noexcept nogil:
    # unix time of the last tick of the kernel: milliseconds are enough for an exemplar, and it costs a quarter
    cdef timespec t
    clock_gettime(CLOCK_REALTIME_COARSE, &t)
    return <uint64_t>t.tv_sec * 1000000 + <uint64_t>t.tv_nsec // 1000


# What counts as one client; client_key() in Python.
cdef inline uint64_t address_key(const unsigned char *packed, size_t n) noexcept nogil:
    # An IPv6 client owns a /64 at least, so that is what counts as one. Key 0 means "free", and is never returned.
    cdef uint64_t key = 0
    cdef size_t i
    cdef bint mapped = n == 16
    if n == 16:
        for i in range(10):
            mapped = mapped and packed[i] == 0
        if mapped and packed[10] == 0xFF and packed[11] == 0xFF:
            packed += 12
            n = 4
    if n == 4:
        for i in range(4):
            key = (key << 8) | packed[i]
        return (<uint64_t>1 << 32) | key
    if n == 16:
        for i in range(8):
            key = (key << 8) | packed[i]
        # bit 63 is set in no global unicast address; here it keeps IPv6 apart from the keys above, ::1 included
        return key | (<uint64_t>1 << 63)
    return 1


@cython.final
cdef class Slab:
    cdef readonly int fd         # -1 when closed
    cdef bint owns_fd            # made here, not attached
    cdef char *memory            # mapped until the last Counters over it is gone
    cdef size_t octets
    cdef SlabHeader *header
    cdef LabelTable *labels_table

    cdef Region *at(self, uint32_t i) noexcept nogil
    cpdef Counters region(self, Py_ssize_t i)


@cython.final
cdef class Counters:
    cdef Slab slab               # keeps the memory mapped
    cdef Region *own
    cdef uint64_t *slots         # own.slots: valid as long as this object
    cdef readonly Py_ssize_t index
    cdef LabelIndex _names[5]    # of the dimensions with names, as read last

    # The row of a name; of one that has none: that of all others.
    cdef uint16_t provider_row(self, const char *name, size_t n) noexcept nogil
    cdef uint16_t tenant_row(self, const char *name, size_t n) noexcept nogil
    cdef uint16_t listener_row(self, const char *name, size_t n) noexcept nogil
    cdef uint16_t source_row(self, const char *name, size_t n) noexcept nogil
    cdef uint16_t pool_row(self, const char *name, size_t n) noexcept nogil
    cpdef int observe_message(self, int base, uint64_t microseconds, uint64_t id) except -1 nogil
    # IndexError for a slot out of range. Any thread of the region's process may count.
    cpdef int add(self, int slot, uint64_t n) except -1 nogil
    cpdef int sub(self, int slot, uint64_t n) except -1 nogil
    cpdef int set(self, int slot, uint64_t value) except -1 nogil
    cpdef int observe(self, int base, uint64_t microseconds) except -1 nogil
    # Sum of one slot over all regions: what a limit of the whole node compares with.
    cpdef uint64_t node_total(self, int slot) except? 0xFFFFFFFFFFFFFFFF nogil
    # Connections of the client over the whole node, this one included. Only the loop's thread calls these two.
    cpdef uint32_t client_opened(self, uint64_t key) noexcept nogil
    cpdef void client_closed(self, uint64_t key) noexcept nogil
