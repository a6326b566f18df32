/* Every reply of the command parser: static lines, CRLF included, in tables indexed by what is wrong.
 *
 * A reply names the fault behind the enhanced status of RFC 3463: 5.1.7 and 5.1.3 for the address of MAIL and RCPT, 5.5.4
 * for arguments and parameters, 5.5.2 for the line as such, 5.6.7 for SMTPUTF8 (RFC 6531 section 3.5).
 */
#ifndef ANGARIUM_COMMAND_REPLIES_H
#define ANGARIUM_COMMAND_REPLIES_H
#include <stddef.h>

#define ADDRESS(code, of_sender, of_recipient, fault)           \
    { code " " of_sender " Sender address: " fault "\r\n",     \
      code " " of_recipient " Recipient address: " fault "\r\n" }
#define PATH(code, fault) ADDRESS(code, "5.1.7", "5.1.3", fault)

enum {
    PATH_FINE, PATH_MISSING, PATH_NULL, PATH_UNCLOSED, PATH_ROUTE, PATH_LOCAL_EMPTY, PATH_LOCAL_OCTET,
    PATH_QUOTE_OPEN, PATH_QUOTE_OCTET, PATH_QUOTE_END, PATH_UNQUALIFIED, PATH_DOMAIN_EMPTY, PATH_DOMAIN_OCTET,
    PATH_DOMAIN_LONG, PATH_LABEL_EMPTY, PATH_LABEL_HYPHEN, PATH_LABEL_LONG, PATH_LITERAL, PATH_LONG,
    PATH_NOT_ASCII, PATH_NOT_UTF8, PATH_SPACE, PATH_FAULTS
};
static const char *const path_replies[PATH_FAULTS][2] = {
    [PATH_MISSING]      = PATH("501", "missing"),
    [PATH_NULL]         = { NULL, "501 5.1.3 Recipient address: <> is for senders only\r\n" },
    [PATH_UNCLOSED]     = PATH("501", "closing > is missing"),
    [PATH_ROUTE]        = PATH("501", "source route is malformed"),
    [PATH_LOCAL_EMPTY]  = PATH("501", "local part is empty"),
    [PATH_LOCAL_OCTET]  = PATH("501", "octet in local part needs quoting"),
    [PATH_QUOTE_OPEN]   = PATH("501", "quoted local part is not closed"),
    [PATH_QUOTE_OCTET]  = PATH("501", "backslash needs an ASCII octet behind it"),
    [PATH_QUOTE_END]    = PATH("501", "only @ may follow a quoted local part"),
    [PATH_UNQUALIFIED]  = PATH("553", "domain is missing"),
    [PATH_DOMAIN_EMPTY] = PATH("501", "domain is empty"),
    [PATH_DOMAIN_OCTET] = PATH("501", "octet not allowed in domain"),
    [PATH_DOMAIN_LONG]  = PATH("501", "domain is longer than 255 octets"),
    [PATH_LABEL_EMPTY]  = PATH("501", "domain has an empty label"),
    [PATH_LABEL_HYPHEN] = PATH("501", "domain label begins or ends with a hyphen"),
    [PATH_LABEL_LONG]   = PATH("501", "domain label is longer than 63 octets"),
    [PATH_LITERAL]      = PATH("501", "address literal is not valid"),
    [PATH_LONG]         = PATH("501", "longer than 256 octets"),
    [PATH_NOT_ASCII]    = ADDRESS("553", "5.6.7", "5.6.7", "non-ASCII octets need SMTPUTF8"),
    [PATH_NOT_UTF8]     = PATH("501", "not well-formed UTF-8"),
    [PATH_SPACE]        = ADDRESS("501", "5.5.4", "5.5.4", "only a space may follow it"),
};

#undef ADDRESS
#undef PATH

enum {
    KEY_UNKNOWN, KEY_SIZE, KEY_BODY, KEY_SMTPUTF8, KEY_REQUIRETLS, KEY_RET, KEY_ENVID, KEY_AUTH, KEY_MT_PRIORITY,
    KEY_HOLDFOR, KEY_HOLDUNTIL, KEY_NOTIFY, KEY_ORCPT, KEYS
};
enum { WRONG_VALUE, WRONG_TWICE, WRONG_NOT_OFFERED, WRONGS };
#define KEYWORD(name, value)                          \
    { "501 5.5.4 " name " " value "\r\n",            \
      "501 5.5.4 " name " is given twice\r\n",       \
      "555 5.5.4 " name " is not offered here\r\n" }
static const char *const keyword_replies[KEYS][WRONGS] = {
    [KEY_SIZE]        = KEYWORD("SIZE", "needs 1 to 20 digits"),
    [KEY_BODY]        = KEYWORD("BODY", "needs 7BIT, 8BITMIME or BINARYMIME"),
    [KEY_SMTPUTF8]    = KEYWORD("SMTPUTF8", "takes no value"),
    [KEY_REQUIRETLS]  = KEYWORD("REQUIRETLS", "takes no value"),
    [KEY_RET]         = KEYWORD("RET", "needs FULL or HDRS"),
    [KEY_ENVID]       = KEYWORD("ENVID", "needs xtext of 1 to 100 octets that stands for printable ASCII"),
    [KEY_AUTH]        = KEYWORD("AUTH", "needs <> or xtext without control characters"),
    [KEY_MT_PRIORITY] = KEYWORD("MT-PRIORITY", "needs a number from -9 to 9"),
    [KEY_HOLDFOR]     = KEYWORD("HOLDFOR", "needs 1 to 9 digits, the first not 0"),
    [KEY_HOLDUNTIL]   = KEYWORD("HOLDUNTIL", "needs a date and time of RFC 3339, from 1970 on"),
    [KEY_NOTIFY]      = KEYWORD("NOTIFY", "needs NEVER or a list of SUCCESS, FAILURE, DELAY"),
    [KEY_ORCPT]       = KEYWORD("ORCPT", "needs type;xtext of up to 500 octets that stands for printable ASCII"),
};
#undef KEYWORD

enum {
    SAY_CONTROL, SAY_UNKNOWN_VERB, SAY_MAIL_SYNTAX, SAY_RCPT_SYNTAX, SAY_MALFORMED, SAY_MAIL_UNKNOWN,
    SAY_RCPT_UNKNOWN, SAY_BINARYMIME, SAY_HOLD_TWICE, SAY_BDAT_SYNTAX, SAY_BDAT_SIZE, SAY_NAME_MISSING,
    SAY_NAME_SPACE, SAY_NAME_ASCII, SAY_NAME_LONG, SAY_NO_ARGUMENT, SAY_NEEDS_ARGUMENT, SAY_NOT_UTF8, SAYINGS
};
static const char *const replies[SAYINGS] = {
    [SAY_CONTROL]        = "501 5.5.2 Control character in command line\r\n",
    [SAY_UNKNOWN_VERB]   = "500 5.5.2 Command not recognized\r\n",
    [SAY_MAIL_SYNTAX]    = "501 5.5.4 Syntax: MAIL FROM:<address> [parameters]\r\n",
    [SAY_RCPT_SYNTAX]    = "501 5.5.4 Syntax: RCPT TO:<address> [parameters]\r\n",
    [SAY_MALFORMED]      = "501 5.5.4 Malformed parameter\r\n",
    [SAY_MAIL_UNKNOWN]   = "555 5.5.4 MAIL parameter not recognized\r\n",
    [SAY_RCPT_UNKNOWN]   = "555 5.5.4 RCPT parameter not recognized\r\n",
    [SAY_BINARYMIME]     = "555 5.5.4 BODY=BINARYMIME is not offered here\r\n",
    [SAY_HOLD_TWICE]     = "501 5.5.4 HOLDFOR and HOLDUNTIL exclude each other\r\n",
    [SAY_BDAT_SYNTAX]    = "501 5.5.4 Syntax: BDAT size [LAST]\r\n",
    [SAY_BDAT_SIZE]      = "501 5.5.4 BDAT size is over 9223372036854775807\r\n",
    [SAY_NAME_MISSING]   = "501 5.5.4 Host name or address literal is missing\r\n",
    [SAY_NAME_SPACE]     = "501 5.5.4 Host name: space is not allowed\r\n",
    [SAY_NAME_ASCII]     = "501 5.5.4 Host name: non-ASCII octets are not allowed\r\n",
    [SAY_NAME_LONG]      = "501 5.5.4 Host name is longer than 255 octets\r\n",
    [SAY_NO_ARGUMENT]    = "501 5.5.4 This command takes no argument\r\n",
    [SAY_NEEDS_ARGUMENT] = "501 5.5.4 This command needs an argument\r\n",
    [SAY_NOT_UTF8]       = "501 5.5.2 Argument is not well-formed UTF-8\r\n",
};
#endif
