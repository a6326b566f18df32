/* State of a mail data scan, as the Cython modules share it (mail_data.pxd says what each field means). */
#ifndef ANGARIUM_MAIL_DATA_SCAN_H
#define ANGARIUM_MAIL_DATA_SCAN_H

#include <stdint.h>

/* What the octets taken so far leave open. Zero is the start of mail data, which is the start of a line. */
enum {
    MAIL_DATA_LINE_START = 0, /* at the start of mail data, or behind CRLF */
    MAIL_DATA_LINE,           /* within a line */
    MAIL_DATA_CR,             /* behind a CR that has been produced and may become CRLF */
    MAIL_DATA_DOT,            /* behind a "." that began a line and has not been produced */
    MAIL_DATA_DOT_CR,         /* behind such a "." and a CR; neither has been produced */
    MAIL_DATA_ENDED           /* behind CRLF.CRLF */
};

typedef struct {
    uint8_t state;
    int bare_cr;
    int bare_lf;
    int eight_bit;
    int nul;
    uint32_t line_length;
    uint32_t longest_line;
    uint64_t octets;
} MailDataScan;

#endif
