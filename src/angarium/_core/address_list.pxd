"""The addresses of a From or Sender field (RFC 5322 §3.4)."""


# The mailboxes in p[:n], the value of an address field: tuples as parse_addresses gives them; None when it cannot
# be read.
cdef list read_addresses(const char *p, size_t n)
