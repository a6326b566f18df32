/* The journal on disk. All integers are little-endian; a build for a big-endian machine is refused.
 *
 * A segment file is one block of 4,096 octets and then records, back to back. The block begins with a SegmentHeader and a
 * RECORD_LEDGER; at each further 512 octets there may be another SegmentHeader with the same serial and a higher
 * oldest_serial, written later. A file is used again
 * after all its messages are done: the header then carries a higher serial, and every record names the serial of
 * the segment that it was written for, so that what is left of an older life is not mistaken for a record of this one.
 *
 * A record is RecordHeader, the rest of its meta part, and (in `accepted` only) mail data up to `length`.
 * `meta_crc` covers the meta part from the field `meta_length` on; AcceptedMeta.data_crc covers the mail data. So
 * recovery can check and index a record without reading its mail data.
 */
#ifndef ANGARIUM_RECORD_FORMAT_H
#define ANGARIUM_RECORD_FORMAT_H
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the journal's format is little-endian"
#endif

#define ANGARIUM_SEGMENT_MAGIC 0x31534e41u /* "ANS1" */
#define ANGARIUM_RECORD_MAGIC 0x31524e41u  /* "ANR1" */
#define ANGARIUM_BLOCK 4096

typedef struct __attribute__((packed)) {
    uint32_t magic;
    uint32_t crc;           /* of everything behind it in this struct */
    uint32_t version;
    uint32_t shard;
    uint64_t serial;        /* order of the segments of one shard */
    uint64_t oldest_serial; /* when this header was written, no older segment held anything alive */
    uint64_t size;          /* octets of the file */
    uint64_t created_us;
} SegmentHeader;

typedef struct __attribute__((packed)) {
    uint32_t magic;
    uint32_t meta_crc;
    uint32_t meta_length; /* octets of the meta part, this header included */
    uint32_t length;      /* octets of the whole record */
    uint64_t serial;      /* of the segment it belongs to */
    uint64_t id;          /* the message it speaks of */
    uint8_t type;
    uint8_t version;
    uint16_t flags; /* see below */
} RecordHeader;

/* flags of `accepted`: 0 for a message that is new */
#define ANGARIUM_RECORD_FROM_MEMORY 1u /* it was accepted in class memory, and counted then */
#define ANGARIUM_RECORD_MOVED 2u       /* copied from an older segment, with a MovedMeta at the end of the meta part; also of
                                        * `outcome`: a copy for those who ask what was, it changes nothing */

/* flags of `done`: how it ended for the recipients of whom no record has said so before (1 delivered, 2 bounced, 3
 * expired, 4 + reason dropped), and how many they are. When they ended in several ways or are more than the field holds,
 * flags are 0 and the body is pairs of u16: how, how many. NEVER: the message was not acknowledged and must not come back. */
#define ANGARIUM_DONE_HOW 15u
#define ANGARIUM_DONE_NEVER 15u
#define ANGARIUM_DONE_COUNT_SHIFT 4
#define ANGARIUM_DONE_MOST 4095u

#define ANGARIUM_DROP_REASONS 3

/* RECORD_LEDGER, right behind the SegmentHeader (the two are within one sector) and wherever class memory needs one: totals of
 * recipients when it was appended. */
typedef struct __attribute__((packed)) {
    uint64_t accepted;
    uint64_t delivered;
    uint64_t bounced;
    uint64_t expired;
    uint64_t dropped[ANGARIUM_DROP_REASONS];
    uint64_t in_memory; /* of the accepted: in class memory only */
} LedgerMeta;

typedef struct __attribute__((packed)) {
    uint64_t received_us; /* unix time in microseconds */
    uint64_t hold_until;  /* unix seconds, 0: none (RFC 4865) */
    uint32_t data_crc;
    uint16_t recipients;
    uint8_t durability;
    uint8_t body;         /* BodyType of command.pxd */
    uint8_t flags;        /* MESSAGE_* of record.pxd */
    uint8_t ret;          /* ReturnContent */
    int8_t priority;
    uint8_t trace_fields; /* how many fields at the top of the mail data are ours */
    /* then, each with a u16 length in front: reverse_path, envid, listener, client, greeting name, log-in, tenant;
     * then per recipient: u16 length, forward_path, u8 notify, u16 length, orcpt;
     * then, where flags say MESSAGE_POOL, u16 length and the name of the source pool that the message goes by. It stands
     * behind the recipients, where who does not know of it does not look. */
} AcceptedMeta;

/* What had become of a message when its record was copied: one state per recipient (RecipientState, and 128 when the journal has
 * said that it is over), then this, at the very end of the meta part. */
typedef struct __attribute__((packed)) {
    uint64_t next_attempt_us;
    uint32_t outcome_serial; /* the copy of its last outcome record */
    uint32_t outcome_offset;
    uint16_t outcome_units; /* octets of its outcome records, in units of 64 */
    uint16_t attempts;
    uint8_t held;
    uint8_t marks; /* MessageMark */
} MovedMeta;

typedef struct __attribute__((packed)) {
    uint64_t attempted_us;    /* when that attempt (or this part of it) ended */
    uint64_t next_attempt_us; /* 0: none yet, other deliveries of the attempt go on */
    uint32_t previous_serial; /* the message's outcome record before this one: its segment, 0: there is none … */
    uint32_t previous_offset; /* … and where it begins there */
    uint16_t attempts;        /* attempts that are over */
    uint16_t attempt;         /* the one that this record speaks of, counted from 1 */
    uint16_t entries;
    uint16_t delivered; /* recipients for whom it ends with this record, which says so for the first time: … */
    uint16_t failed;    /* … what the ledger counts, whatever has become of the message's own record */
    uint16_t expired;
    uint16_t next_hop_length;
    uint16_t host_length;
    /* then next_hop and host (name[address]:port; empty: none was reached), and per entry: u16 recipient index, u8 state,
     * u16 reply code, u16 length, text (enhanced status in front); then, where the mail left by a source of the
     * configuration, u8 length and its name, u8 length and its pool's. Readers that do not know of them stop before */
} OutcomeMeta;
#endif
