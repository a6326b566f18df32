"""Which command may come when (RFC 5321 §4.1.4): a table of the places in a dialogue and the verbs.

Input: where the dialogue stands, and the verb. Output: NULL, or the whole reply that refuses the command. The first
command of LMTP is LHLO (RFC 2033 §4.1), and there is no BDAT behind DATA, nor DATA behind BDAT (RFC 3030 §2).
"""

from libc.stdint cimport uint8_t

from angarium._core.command cimport (
    VERB_AUTH,
    VERB_BDAT,
    VERB_COUNT,
    VERB_DATA,
    VERB_MAIL,
    VERB_RCPT,
    VERB_STARTTLS,
    VERB_XCLIENT,
)

cdef enum:                       # what VERB_TABLE says
    ALLOW
    NEED_GREETING
    NEED_MAIL
    NEED_RCPT
    NESTED_MAIL
    IN_CHUNKS
    SPOILT
    NOT_NOW

cdef const char *SEQUENCE_REPLIES[8]
SEQUENCE_REPLIES[ALLOW] = NULL
SEQUENCE_REPLIES[NEED_GREETING] = b"503 5.5.1 Send EHLO first\r\n"
SEQUENCE_REPLIES[NEED_MAIL] = b"503 5.5.1 Send MAIL first\r\n"
SEQUENCE_REPLIES[NEED_RCPT] = b"503 5.5.1 No valid recipient\r\n"
SEQUENCE_REPLIES[NESTED_MAIL] = b"503 5.5.1 A mail transaction is under way; send RSET to begin another\r\n"
SEQUENCE_REPLIES[IN_CHUNKS] = b"503 5.5.1 Mail data has begun with BDAT; go on with BDAT or send RSET\r\n"
SEQUENCE_REPLIES[SPOILT] = b"503 5.5.1 This transaction was refused; send RSET\r\n"
SEQUENCE_REPLIES[NOT_NOW] = b"503 5.5.1 Not within a mail transaction\r\n"
cdef const char *R_LHLO_FIRST = b"503 5.5.1 Send LHLO first\r\n"

# VERB_TABLE[dialogue][verb]
cdef uint8_t VERB_TABLE[6][17]


cdef void fill_verb_table() noexcept:
    cdef int dialogue, verb
    for dialogue in range(DIALOGUE_COUNT):
        for verb in range(VERB_COUNT):
            VERB_TABLE[dialogue][verb] = ALLOW
    for verb in (<int>VERB_MAIL, <int>VERB_RCPT, <int>VERB_DATA, <int>VERB_BDAT, <int>VERB_AUTH, <int>VERB_STARTTLS):
        VERB_TABLE[DIALOGUE_NEW][verb] = NEED_GREETING
    for verb in (<int>VERB_RCPT, <int>VERB_DATA, <int>VERB_BDAT):
        VERB_TABLE[DIALOGUE_READY][verb] = NEED_MAIL
    for verb in (<int>VERB_DATA, <int>VERB_BDAT):
        VERB_TABLE[DIALOGUE_MAIL][verb] = NEED_RCPT
    for dialogue in (<int>DIALOGUE_MAIL, <int>DIALOGUE_RCPT, <int>DIALOGUE_BDAT, <int>DIALOGUE_SPOILT):
        VERB_TABLE[dialogue][<int>VERB_MAIL] = NESTED_MAIL
        VERB_TABLE[dialogue][<int>VERB_AUTH] = NOT_NOW
        VERB_TABLE[dialogue][<int>VERB_STARTTLS] = NOT_NOW
        VERB_TABLE[dialogue][<int>VERB_XCLIENT] = NOT_NOW
    for verb in (<int>VERB_MAIL, <int>VERB_RCPT, <int>VERB_DATA):
        VERB_TABLE[DIALOGUE_BDAT][verb] = IN_CHUNKS
        VERB_TABLE[DIALOGUE_SPOILT][verb] = SPOILT
    VERB_TABLE[DIALOGUE_SPOILT][<int>VERB_BDAT] = SPOILT


fill_verb_table()


cdef const char *out_of_order(int dialogue, int verb, bint lmtp) noexcept nogil:
    cdef uint8_t verdict = VERB_TABLE[dialogue][verb]
    if lmtp and verdict == NEED_GREETING:
        return R_LHLO_FIRST
    return SEQUENCE_REPLIES[verdict]
