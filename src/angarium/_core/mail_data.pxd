"""Mail data: end-of-data scan and transparency (RFC 5321 §4.5.2) in one pass, and its inverse for the way out."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "mail_data_scan.h" nogil:
    ctypedef struct MailDataScan:
        # Zero-filled is the state at the start of mail data (that is: at the start of a line).
        uint8_t state            # MAIL_DATA_… of mail_data_scan.h
        bint bare_cr             # seen a CR that no LF follows
        bint bare_lf             # seen a LF that no CR precedes
        bint eight_bit           # seen an octet over 127
        bint nul                 # seen NUL
        uint32_t line_length     # octets of the line so far, without CRLF, a CR that may become one, a dropped dot
        uint32_t longest_line    # the line so far included; only CRLF ends a line. Both stop at 2^32 - 1
        uint64_t octets          # produced so far


# Copies mail data from src[:n] to dst (room for n + 4 octets), dots unstuffed, and returns 1 when CRLF.CRLF was met
# (the CRLF in front of the dot belongs to the mail data, the terminator does not), else 0. *consumed: octets of src
# taken (all of them unless 1 is returned); *produced: octets written to dst. dst may be NULL: then nothing is copied (a
# refused message being drained) but everything is counted. src and dst do not overlap; dst[*produced:n + 4] may hold
# rubbish afterwards.
# Once 1 was returned, further calls take nothing and return 1 until the scan is zero-filled.
cdef bint scan_mail_data(MailDataScan *scan, const char *src, size_t n, char *dst,
                         size_t *consumed, size_t *produced) noexcept nogil

# The same facts about octets that need no unstuffing (a BDAT chunk): no copy, no terminator.
cdef void scan_chunk(MailDataScan *scan, const char *src, size_t n) noexcept nogil

# The last octet was a CR: at the end of BDAT data (BDAT LAST) no LF can follow any more, so that CR is bare.
cdef bint mail_data_ends_in_bare_cr(const MailDataScan *scan) noexcept nogil

# Dot-stuffing for DATA of src[:n], which is whole mail data (src[0] begins a line). Returns how many octets
# stuff_mail_data would add (0: send as it is); stuff_mail_data writes n + that many octets to dst and returns their
# number. src and dst do not overlap. Neither adds a CRLF at the end nor the terminator.
cdef size_t count_stuffing(const char *src, size_t n) noexcept nogil
cdef size_t stuff_mail_data(const char *src, size_t n, char *dst) noexcept nogil
