"""The header section (RFC 5322 §2.2) walked once, and edits of it that leave the body where it is."""

from libc.stdint cimport uint32_t

from angarium._core.octets cimport Span


cdef struct HeaderFacts:
    size_t length            # octets of the header section, the empty line that ends it excluded
    size_t body              # where the body begins (== n when there is none)
    uint32_t fields
    uint32_t received        # trace fields "Received:", the hop count of RFC 5321 §6.3
    bint malformed           # a line that is no field came before the empty line; the body begins there
    bint has_date, has_message_id, has_from, has_sender, has_to, has_cc, has_bcc, has_resent_bcc
    uint32_t from_fields, sender_fields
    bint tls_required_no     # "TLS-Required: No", RFC 8689 §5
    uint32_t durability_fields   # "X-Angarium-Durability:", an instruction to this relay
    Span durability          # value of the first of them, trimmed
    Span message_id          # value, trimmed
    Span from_               # value of the first From field, trimmed, folds included
    Span sender              # value of the first Sender field, likewise
    Span subject             # value of the first Subject field, trimmed, folds included


cdef struct HeaderField:
    size_t start             # of the name
    size_t name_length
    size_t value             # behind the colon
    size_t end               # behind the line end of its last line (== n when the data ends without one)


cdef void walk_header(const char *data, size_t n, HeaderFacts *facts) noexcept nogil

# Takes every field of that name (in lower case) out of the header section at data[:n]. What stands in front of them is
# moved up: mail data begins at data + the number of octets that is returned.
cdef size_t cut_fields(char *data, size_t n, const char *name, size_t name_length) noexcept nogil

# Reads the field that begins at data[start], continuation lines included, and returns True; False when no field begins
# there (field->end is not set then).
cdef bint read_field(const char *data, size_t n, size_t start, HeaderField *field) noexcept nogil
