"""Which command may come when."""


cdef enum:                       # where the dialogue stands
    DIALOGUE_NEW                 # no EHLO yet
    DIALOGUE_READY               # EHLO done, no transaction
    DIALOGUE_MAIL                # MAIL accepted, no recipient yet
    DIALOGUE_RCPT                # at least one recipient
    DIALOGUE_BDAT                # at least one chunk
    DIALOGUE_SPOILT              # a chunk was refused: only RSET, a new greeting or QUIT help
    DIALOGUE_COUNT


# NULL when the verb may come now, else the reply that refuses it
cdef const char *out_of_order(int dialogue, int verb, bint lmtp) noexcept nogil
