"""What a client may send, and the exact reply to what it may not: RFC examples and lines of real clients."""

import re

import pytest

from angarium._core import command
from angarium._core.command import BodyType, Notify, Offer, ReturnContent, Verb

LONG_LABEL = b"a" * 63
# 254 octets: with its brackets the longest path there may be
LONGEST = b"x" * 127 + b"@" + b".".join([LONG_LABEL, b"b" * 59, b"co"])

VERBS = [
    (b"HELO mail.example.org", Verb.VERB_HELO),
    (b"ehlo mail.example.org", Verb.VERB_EHLO),
    (b"LhLo mail.example.org", Verb.VERB_LHLO),
    (b"MAIL FROM:<>", Verb.VERB_MAIL),
    (b"RCPT TO:<a@example.org>", Verb.VERB_RCPT),
    (b"DATA", Verb.VERB_DATA),
    (b"data   ", Verb.VERB_DATA),
    (b"BDAT 1", Verb.VERB_BDAT),
    (b"RSET", Verb.VERB_RSET),
    (b"NOOP", Verb.VERB_NOOP),
    (b"QUIT", Verb.VERB_QUIT),
    (b"VRFY postmaster", Verb.VERB_VRFY),
    (b"EXPN staff", Verb.VERB_EXPN),
    (b"HELP", Verb.VERB_HELP),
    (b"StartTLS", Verb.VERB_STARTTLS),
    (b"AUTH PLAIN", Verb.VERB_AUTH),
    (b"xclient ADDR=192.0.2.1", Verb.VERB_XCLIENT),
]

# line, mailbox, domain
MAILBOXES = [
    # RFC 5321, appendix D and §4.1.1
    (b"MAIL FROM:<Smith@bar.com>", b"Smith@bar.com", b"bar.com"),
    (b"RCPT TO:<Jones@foo.com>", b"Jones@foo.com", b"foo.com"),
    (b"RCPT TO:<@hosta.int,@jkl.org:userc@d.bar.org>", b"userc@d.bar.org", b"d.bar.org"),
    (b"MAIL FROM:<@one.example:a@two.example>", b"a@two.example", b"two.example"),
    (b"MAIL FROM:<>", b"", b""),
    (b"RCPT TO:<Postmaster>", b"Postmaster", b""),
    (b"RCPT TO:<POSTMASTER>", b"POSTMASTER", b""),
    (b"RCPT TO:<Postmaster@example.org>", b"Postmaster@example.org", b"example.org"),
    # tolerated
    (b"mail from: <a@example.org>", b"a@example.org", b"example.org"),
    (b"RCPT   TO:   <a@example.org>   ", b"a@example.org", b"example.org"),
    (b"RCPT TO:a@example.org", b"a@example.org", b"example.org"),
    (b"RCPT TO: a@example.org NOTIFY=NEVER", b"a@example.org", b"example.org"),
    (b"RCPT TO:postmaster", b"postmaster", b""),
    (b"RCPT TO:<.a..b.@docomo.example>", b".a..b.@docomo.example", b"docomo.example"),
    (b"RCPT TO:<.@example.org>", b".@example.org", b"example.org"),
    (b"RCPT TO:<a@example.org.>", b"a@example.org", b"example.org"),
    (b"RCPT TO:a@example.org. NOTIFY=NEVER", b"a@example.org", b"example.org"),
    (b"RCPT TO:<a@_spf.my_host.example>", b"a@_spf.my_host.example", b"_spf.my_host.example"),
    (b"RCPT TO:<" + b"x" * 65 + b"@example.org>", b"x" * 65 + b"@example.org", b"example.org"),
    # local parts
    (b"MAIL FROM:<bounce-1=user=example.com+x/y!z%q@list.example>", None, b"list.example"),
    (b"MAIL FROM:<!#$%&'*+-/=?^_`{|}~@example.org>", b"!#$%&'*+-/=?^_`{|}~@example.org", b"example.org"),
    (b'RCPT TO:<"Joe Smith"@example.org>', b'"Joe Smith"@example.org', b"example.org"),
    (b'RCPT TO:<"a@b>c"@example.org>', b'"a@b>c"@example.org', b"example.org"),
    (b'RCPT TO:<"a\\"b\\\\"@example.org>', b'"a\\"b\\\\"@example.org', b"example.org"),
    (b'RCPT TO:"a b"@example.org', b'"a b"@example.org', b"example.org"),
    (b'RCPT TO:<""@example.org>', b'""@example.org', b"example.org"),
    # domains
    (b"RCPT TO:<a@localhost>", b"a@localhost", b"localhost"),
    (b"RCPT TO:<a@xn--mller-kva.example>", b"a@xn--mller-kva.example", b"xn--mller-kva.example"),
    (b"RCPT TO:<a@1.2.3.4>", b"a@1.2.3.4", b"1.2.3.4"),
    (b"RCPT TO:<a@" + LONG_LABEL + b".org>", b"a@" + LONG_LABEL + b".org", LONG_LABEL + b".org"),
    (b"RCPT TO:<" + LONGEST + b">", LONGEST, LONGEST.partition(b"@")[2]),
    # address literals
    (b"RCPT TO:<a@[127.0.0.1]>", b"a@[127.0.0.1]", b"[127.0.0.1]"),
    (b"RCPT TO:<a@[255.255.255.255]>", b"a@[255.255.255.255]", b"[255.255.255.255]"),
    (b"RCPT TO:<a@[IPv6:::1]>", b"a@[IPv6:::1]", b"[IPv6:::1]"),
    (
        b"RCPT TO:<a@[ipv6:2001:db8::ff00:42:8329]>",
        b"a@[ipv6:2001:db8::ff00:42:8329]",
        b"[ipv6:2001:db8::ff00:42:8329]",
    ),
    (b"RCPT TO:<a@[IPv6:1:2:3:4:5:6:7:8]>", b"a@[IPv6:1:2:3:4:5:6:7:8]", b"[IPv6:1:2:3:4:5:6:7:8]"),
    (b"RCPT TO:<a@[IPv6:::ffff:192.0.2.1]>", b"a@[IPv6:::ffff:192.0.2.1]", b"[IPv6:::ffff:192.0.2.1]"),
    (b"RCPT TO:<a@[x400:c=us;a=x]>", b"a@[x400:c=us;a=x]", b"[x400:c=us;a=x]"),
]

# parameters behind MAIL FROM:<a@example.org>, what they say
MAIL_PARAMETERS = [
    (b"SIZE=0", {"size": 0}),
    (b"size=500000", {"size": 500000}),
    (b"SIZE=00000000000000000012", {"size": 12}),
    (b"SIZE=18446744073709551615", {"size": 2**64 - 1}),
    (b"SIZE=18446744073709551616", {"size": 2**64 - 1}),
    (b"SIZE=99999999999999999999", {"size": 2**64 - 1}),
    (b"BODY=7BIT", {"body": BodyType.BODY_7BIT}),
    (b"BODY=8bitmime", {"body": BodyType.BODY_8BITMIME}),
    (b"body=BinaryMIME", {"body": BodyType.BODY_BINARYMIME}),
    (b"SMTPUTF8", {"smtputf8": True}),
    (b"REQUIRETLS", {"requiretls": True}),
    (b"RET=FULL", {"ret": ReturnContent.RET_FULL}),
    (b"RET=hdrs", {"ret": ReturnContent.RET_HDRS}),
    (b"ENVID=QQ314159", {"envid": b"QQ314159"}),  # RFC 3461 §10
    (b"ENVID=a+20b+2B+3D", {"envid": b"a+20b+2B+3D"}),
    (b"ENVID=" + b"e" * 100, {"envid": b"e" * 100}),
    (b"AUTH=<>", {"auth": b"<>"}),
    (b"AUTH=e+3Dmc2@example.com", {"auth": b"e+3Dmc2@example.com"}),  # RFC 4954 §5
    (b"AUTH=+C3+A4@example.com", {"auth": b"+C3+A4@example.com"}),
    (b"MT-PRIORITY=-9", {"priority": -9}),
    (b"MT-PRIORITY=0", {"priority": 0}),
    (b"mt-priority=9", {"priority": 9}),
    (b"HOLDFOR=1", {"hold_for": 1}),
    (b"HOLDFOR=999999999", {"hold_for": 999999999}),
    (b"HOLDUNTIL=1970-01-01T00:00:00Z", {"hold_until": 0}),
    (b"HOLDUNTIL=2038-01-19T03:14:08Z", {"hold_until": 2**31}),
    (b"HOLDUNTIL=2024-02-29t12:00:00.25z", {"hold_until": 1709208000}),
    (b"HOLDUNTIL=2000-02-29T23:59:59+01:30", {"hold_until": 951863399}),
    (b"HOLDUNTIL=1969-12-31T23:00:00-01:00", {"hold_until": 0}),
    (b"HOLDUNTIL=2016-12-31T23:59:60Z", {"hold_until": 1483228800}),  # a leap second
    (b"HOLDUNTIL=9999-12-31T23:59:59Z", {"hold_until": 253402300799}),
    (
        b"  SIZE=1   BODY=8BITMIME  SMTPUTF8 RET=HDRS ENVID=x  ",
        {
            "size": 1,
            "body": BodyType.BODY_8BITMIME,
            "smtputf8": True,
            "ret": ReturnContent.RET_HDRS,
            "envid": b"x",
        },
    ),
]

RCPT_PARAMETERS = [
    (b"NOTIFY=NEVER", {"notify": Notify.NOTIFY_NEVER}),
    (b"notify=success", {"notify": Notify.NOTIFY_SUCCESS}),
    (b"NOTIFY=SUCCESS,FAILURE,DELAY", {"notify": 2 + 4 + 8}),
    (b"NOTIFY=DELAY,DELAY", {"notify": Notify.NOTIFY_DELAY}),
    (b"ORCPT=rfc822;Bob@Example.COM", {"orcpt": b"rfc822;Bob@Example.COM"}),
    (b"ORCPT=rfc822;a+2Bb@example.org NOTIFY=FAILURE", {"orcpt": b"rfc822;a+2Bb@example.org", "notify": 4}),
    (b"ORCPT=rfc822;" + b"x" * 493, {"orcpt": b"rfc822;" + b"x" * 493}),
    (b"ORCPT=rfc822;", {"orcpt": b"rfc822;"}),
    (b"ORCPT=utf-8;\\x{E4}@example.org", {"orcpt": b"utf-8;\\x{E4}@example.org"}),
]

# line, reply; offers are all but BINARYMIME where a line needs that
REFUSED = [
    # verbs and octets
    (b"", b"500 5.5.2 Command not recognized"),
    (b"FOO", b"500 5.5.2 Command not recognized"),
    (b" MAIL FROM:<>", b"500 5.5.2 Command not recognized"),
    (b"MAILFROM:<>", b"500 5.5.2 Command not recognized"),
    (b"STARTTLSX", b"500 5.5.2 Command not recognized"),
    (b"GET / HTTP/1.1", b"500 5.5.2 Command not recognized"),
    (b"\x16\x03\x01\x02", b"501 5.5.2 Control character in command line"),
    (b"MAIL FROM:<a\0b@example.org>", b"501 5.5.2 Control character in command line"),
    (b"MAIL FROM:<a@example.org>\r", b"501 5.5.2 Control character in command line"),
    (b"RCPT TO:<a@example.org>\nDATA", b"501 5.5.2 Control character in command line"),
    (b"RCPT\tTO:<a@example.org>", b"501 5.5.2 Control character in command line"),
    (b"RCPT TO:<\x7f@example.org>", b"501 5.5.2 Control character in command line"),
    (b"EHLO a\0", b"501 5.5.2 Control character in command line"),
    (b"BDAT 1\0", b"501 5.5.2 Control character in command line"),
    (b"DATA \0", b"501 5.5.2 Control character in command line"),
    (b"NOOP \x1b[2J", b"501 5.5.2 Control character in command line"),
    (b"DATA now", b"501 5.5.4 This command takes no argument"),
    (b"RSET x", b"501 5.5.4 This command takes no argument"),
    (b"QUIT x", b"501 5.5.4 This command takes no argument"),
    (b"STARTTLS x", b"501 5.5.4 This command takes no argument"),
    (b"VRFY", b"501 5.5.4 This command needs an argument"),
    (b"EXPN  ", b"501 5.5.4 This command needs an argument"),
    (b"AUTH", b"501 5.5.4 This command needs an argument"),
    (b"VRFY \xff", b"501 5.5.2 Argument is not well-formed UTF-8"),
    # the shape of MAIL and RCPT
    (b"MAIL", b"501 5.5.4 Syntax: MAIL FROM:<address> [parameters]"),
    (b"MAIL TO:<a@example.org>", b"501 5.5.4 Syntax: MAIL FROM:<address> [parameters]"),
    (b"MAIL FROM <a@example.org>", b"501 5.5.4 Syntax: MAIL FROM:<address> [parameters]"),
    (b"RCPT", b"501 5.5.4 Syntax: RCPT TO:<address> [parameters]"),
    (b"RCPT FROM:<a@example.org>", b"501 5.5.4 Syntax: RCPT TO:<address> [parameters]"),
    (b"MAIL FROM:", b"501 5.1.7 Sender address: missing"),
    (b"RCPT TO:  ", b"501 5.1.3 Recipient address: missing"),
    (b"RCPT TO:<>", b"501 5.1.3 Recipient address: <> is for senders only"),
    (b"MAIL FROM:<", b"501 5.1.7 Sender address: closing > is missing"),
    (b"MAIL FROM:<a@example.org", b"501 5.1.7 Sender address: closing > is missing"),
    (b"RCPT TO:<a@example.org NOTIFY=NEVER", b"501 5.1.3 Recipient address: closing > is missing"),
    (b"RCPT TO:<a@[127.0.0.1]", b"501 5.1.3 Recipient address: closing > is missing"),
    (b"MAIL FROM:<a@example.org>SIZE=1", b"501 5.5.4 Sender address: only a space may follow it"),
    (b"MAIL FROM:<>SIZE=1", b"501 5.5.4 Sender address: only a space may follow it"),
    (b"RCPT TO:<a@example.org>,<b@example.org>", b"501 5.5.4 Recipient address: only a space may follow it"),
    # source routes
    (b"MAIL FROM:<@a.example>", b"501 5.1.7 Sender address: local part is empty"),
    (b"MAIL FROM:<@a.example", b"501 5.1.7 Sender address: source route is malformed"),
    (b"MAIL FROM:<@a.example,b.example:c@d.example>", b"501 5.1.7 Sender address: source route is malformed"),
    (b"RCPT TO:<@a.example,>", b"501 5.1.3 Recipient address: source route is malformed"),
    (b"RCPT TO:<@a..example:b@c.example>", b"501 5.1.3 Recipient address: source route is malformed"),
    (b"RCPT TO:<@\xc3\xa4.example:b@c.example>", b"501 5.1.3 Recipient address: source route is malformed"),
    (b"RCPT TO:<@a.example:>", b"501 5.1.3 Recipient address: local part is empty"),
    # local parts
    (b"RCPT TO:@example.org", b"501 5.1.3 Recipient address: local part is empty"),
    (b"MAIL FROM:<a b@example.org>", b"501 5.1.7 Sender address: octet in local part needs quoting"),
    (b"RCPT TO:<a(b)@example.org>", b"501 5.1.3 Recipient address: octet in local part needs quoting"),
    (b"RCPT TO:<a,b@example.org>", b"501 5.1.3 Recipient address: octet in local part needs quoting"),
    (b"RCPT TO:< a@example.org>", b"501 5.1.3 Recipient address: octet in local part needs quoting"),
    (b'RCPT TO:<a"b"@example.org>', b"501 5.1.3 Recipient address: octet in local part needs quoting"),
    (b'MAIL FROM:<"a@example.org>', b"501 5.1.7 Sender address: quoted local part is not closed"),
    (b'RCPT TO:<"a\\', b"501 5.1.3 Recipient address: quoted local part is not closed"),
    (b'RCPT TO:<"a\\"@example.org>', b"501 5.1.3 Recipient address: quoted local part is not closed"),
    (b'MAIL FROM:<"a"b@example.org>', b"501 5.1.7 Sender address: only @ may follow a quoted local part"),
    (b'RCPT TO:<"a".b@example.org>', b"501 5.1.3 Recipient address: only @ may follow a quoted local part"),
    (b'MAIL FROM:<"\\\xc3\xa4"@example.org>', b"501 5.1.7 Sender address: backslash needs an ASCII octet behind it"),
    (b'RCPT TO:<"\\\xc3\xa4"@example.org>', b"501 5.1.3 Recipient address: backslash needs an ASCII octet behind it"),
    (b"MAIL FROM:<root>", b"553 5.1.7 Sender address: domain is missing"),
    (b"MAIL FROM:<postmaster>", b"553 5.1.7 Sender address: domain is missing"),
    (b"MAIL FROM:John Doe <a@example.org>", b"553 5.1.7 Sender address: domain is missing"),
    (b"RCPT TO:<root>", b"553 5.1.3 Recipient address: domain is missing"),
    (b'RCPT TO:<"postmaster">', b"553 5.1.3 Recipient address: domain is missing"),
    # domains
    (b"MAIL FROM:<a@>", b"501 5.1.7 Sender address: domain is empty"),
    (b"RCPT TO:<a@>", b"501 5.1.3 Recipient address: domain is empty"),
    (b"RCPT TO:a@", b"501 5.1.3 Recipient address: domain is empty"),
    (b"MAIL FROM:<a@exa mple.org>", b"501 5.1.7 Sender address: closing > is missing"),
    (b"MAIL FROM:<a@b@c>", b"501 5.1.7 Sender address: octet not allowed in domain"),
    (b"RCPT TO:<a@b!c>", b"501 5.1.3 Recipient address: octet not allowed in domain"),
    (b"RCPT TO:a@example.org>", b"501 5.1.3 Recipient address: octet not allowed in domain"),
    (b"RCPT TO:<a@[1.2.3.4]x>", b"501 5.1.3 Recipient address: octet not allowed in domain"),
    (b"MAIL FROM:<a@.example.org>", b"501 5.1.7 Sender address: domain has an empty label"),
    (b"RCPT TO:<a@example..org>", b"501 5.1.3 Recipient address: domain has an empty label"),
    (b"RCPT TO:<a@example.org..>", b"501 5.1.3 Recipient address: domain has an empty label"),
    (b"RCPT TO:<a@.>", b"501 5.1.3 Recipient address: domain has an empty label"),
    (b"MAIL FROM:<a@-b.org>", b"501 5.1.7 Sender address: domain label begins or ends with a hyphen"),
    (b"RCPT TO:<a@b-.org>", b"501 5.1.3 Recipient address: domain label begins or ends with a hyphen"),
    (b"MAIL FROM:<a@" + LONG_LABEL + b"a.org>", b"501 5.1.7 Sender address: domain label is longer than 63 octets"),
    (b"RCPT TO:<a@" + LONG_LABEL + b"a.org>", b"501 5.1.3 Recipient address: domain label is longer than 63 octets"),
    (b"MAIL FROM:<a@" + b"b." * 127 + b"co>", b"501 5.1.7 Sender address: domain is longer than 255 octets"),
    (b"RCPT TO:<a@" + b"b." * 127 + b"co>", b"501 5.1.3 Recipient address: domain is longer than 255 octets"),
    (b"MAIL FROM:<x" + LONGEST + b">", b"501 5.1.7 Sender address: longer than 256 octets"),
    (b"RCPT TO:x" + LONGEST, b"501 5.1.3 Recipient address: longer than 256 octets"),
    # address literals
    (b"MAIL FROM:<a@[127.0.0.1>", b"501 5.1.7 Sender address: address literal is not valid"),
    *(
        (b"RCPT TO:<a@[" + literal + b"]>", b"501 5.1.3 Recipient address: address literal is not valid")
        for literal in (
            b"",
            b"127.0.0",
            b"127.0.0.1.1",
            b"127.0.0.256",
            b"127.0.0.01",
            b"127.0.0.1 ",
            b"example.org",
            b"IPv6:",
            b"IPv6:1:2:3:4:5:6:7",
            b"IPv6:1:2:3:4:5:6:7:8:9",
            b"IPv6:1::2::3",
            b"IPv6:12345::",
            b"IPv6:::1.2.3",
            b"IPv6:fe80::1%eth0",
            b"IPv6:" + b"0" * 80,
            b"2001:db8::1 ",
            b"tag:",
            b":x",
            b"tag-:x",
            b"t_g:x",
            b"tag:\\x",
        )
    ),
    # non-ASCII
    (b"MAIL FROM:<\xc3\xa4@example.org>", b"553 5.6.7 Sender address: non-ASCII octets need SMTPUTF8"),
    (b"MAIL FROM:<a@\xc3\xa4.example> SIZE=1", b"553 5.6.7 Sender address: non-ASCII octets need SMTPUTF8"),
    (b"RCPT TO:<\xc3\xa4@example.org>", b"553 5.6.7 Recipient address: non-ASCII octets need SMTPUTF8"),
    (b'RCPT TO:<"\xe4"@example.org>', b"553 5.6.7 Recipient address: non-ASCII octets need SMTPUTF8"),
    (b"MAIL FROM:<\xe4@example.org> SMTPUTF8", b"501 5.1.7 Sender address: not well-formed UTF-8"),
    # parameters
    (b"MAIL FROM:<a@example.org> =", b"501 5.5.4 Malformed parameter"),
    (b"MAIL FROM:<a@example.org> -SIZE=1", b"501 5.5.4 Malformed parameter"),
    (b"MAIL FROM:<a@example.org> SI_ZE=1", b"501 5.5.4 Malformed parameter"),
    (b"RCPT TO:<a@example.org> ;", b"501 5.5.4 Malformed parameter"),
    (b"MAIL FROM:<a@example.org> X-FOO=1", b"555 5.5.4 MAIL parameter not recognized"),
    (b"MAIL FROM:<a@example.org> NOTIFY=NEVER", b"555 5.5.4 MAIL parameter not recognized"),
    (b"MAIL FROM:<a@example.org> SIZ", b"555 5.5.4 MAIL parameter not recognized"),
    (b"RCPT TO:<a@example.org> SIZE=1", b"555 5.5.4 RCPT parameter not recognized"),
    (b"MAIL FROM:<a@example.org> SIZE=1 size=1", b"501 5.5.4 SIZE is given twice"),
    (b"MAIL FROM:<a@example.org> BODY=7BIT BODY=7BIT", b"501 5.5.4 BODY is given twice"),
    (b"MAIL FROM:<a@example.org> SMTPUTF8 SMTPUTF8", b"501 5.5.4 SMTPUTF8 is given twice"),
    (b"MAIL FROM:<a@example.org> REQUIRETLS REQUIRETLS", b"501 5.5.4 REQUIRETLS is given twice"),
    (b"MAIL FROM:<a@example.org> RET=FULL RET=HDRS", b"501 5.5.4 RET is given twice"),
    (b"MAIL FROM:<a@example.org> ENVID=a ENVID=a", b"501 5.5.4 ENVID is given twice"),
    (b"MAIL FROM:<a@example.org> AUTH=<> AUTH=<>", b"501 5.5.4 AUTH is given twice"),
    (b"MAIL FROM:<a@example.org> MT-PRIORITY=1 MT-PRIORITY=1", b"501 5.5.4 MT-PRIORITY is given twice"),
    (b"MAIL FROM:<a@example.org> HOLDFOR=1 HOLDFOR=1", b"501 5.5.4 HOLDFOR is given twice"),
    (
        b"MAIL FROM:<a@example.org> HOLDUNTIL=2030-01-01T00:00:00Z HOLDUNTIL=2030-01-01T00:00:00Z",
        b"501 5.5.4 HOLDUNTIL is given twice",
    ),
    (
        b"MAIL FROM:<a@example.org> HOLDUNTIL=2030-01-01T00:00:00Z HOLDFOR=1",
        b"501 5.5.4 HOLDFOR and HOLDUNTIL exclude each other",
    ),
    (b"RCPT TO:<a@example.org> NOTIFY=DELAY NOTIFY=DELAY", b"501 5.5.4 NOTIFY is given twice"),
    (b"RCPT TO:<a@example.org> ORCPT=rfc822;a ORCPT=rfc822;a", b"501 5.5.4 ORCPT is given twice"),
    *(
        (b"MAIL FROM:<a@example.org> " + parameter, b"501 5.5.4 " + reply)
        for reply, parameters in {
            b"SIZE needs 1 to 20 digits": [b"SIZE", b"SIZE=", b"SIZE=-1", b"SIZE=1k", b"SIZE=" + b"1" * 21],
            b"BODY needs 7BIT, 8BITMIME or BINARYMIME": [b"BODY", b"BODY=", b"BODY=8BIT", b"BODY=8BITMIMEX"],
            b"SMTPUTF8 takes no value": [b"SMTPUTF8=", b"SMTPUTF8=1"],
            b"REQUIRETLS takes no value": [b"REQUIRETLS=YES"],
            b"RET needs FULL or HDRS": [b"RET", b"RET=HEADERS", b"RET=BODY"],
            b"ENVID needs xtext of 1 to 100 octets that stands for printable ASCII": [
                b"ENVID",
                b"ENVID=",
                b"ENVID=" + b"e" * 101,
                b"ENVID=a=b",
                b"ENVID=a+b",
                b"ENVID=a+4",
                b"ENVID=a+4a",
                b"ENVID=a+0D+0ASubject:",
                b"ENVID=+7F",
                b"ENVID=+80",
                b"ENVID=\xc3\xa4",
            ],
            b"AUTH needs <> or xtext without control characters": [b"AUTH", b"AUTH=", b"AUTH=a=b", b"AUTH=+00"],
            b"MT-PRIORITY needs a number from -9 to 9": [
                b"MT-PRIORITY",
                b"MT-PRIORITY=",
                b"MT-PRIORITY=10",
                b"MT-PRIORITY=-10",
                b"MT-PRIORITY=+1",
                b"MT-PRIORITY=-0",
                b"MT-PRIORITY=-",
            ],
            b"HOLDFOR needs 1 to 9 digits, the first not 0": [
                b"HOLDFOR",
                b"HOLDFOR=0",
                b"HOLDFOR=01",
                b"HOLDFOR=-1",
                b"HOLDFOR=1000000000",
            ],
            b"HOLDUNTIL needs a date and time of RFC 3339, from 1970 on": [
                b"HOLDUNTIL",
                b"HOLDUNTIL=2030-01-01",
                b"HOLDUNTIL=2030-01-01T00:00:00",
                b"HOLDUNTIL=2030-02-29T00:00:00Z",
                b"HOLDUNTIL=2100-02-29T00:00:00Z",
                b"HOLDUNTIL=2030-04-31T00:00:00Z",
                b"HOLDUNTIL=2030-13-01T00:00:00Z",
                b"HOLDUNTIL=2030-00-01T00:00:00Z",
                b"HOLDUNTIL=2030-01-01T24:00:00Z",
                b"HOLDUNTIL=2030-01-01T00:60:00Z",
                b"HOLDUNTIL=2030-01-01T00:00:61Z",
                b"HOLDUNTIL=2030-01-01T00:00:00.Z",
                b"HOLDUNTIL=2030-01-01T00:00:00.5",
                b"HOLDUNTIL=2030-01-01T00:00:00+0100",
                b"HOLDUNTIL=2030-01-01T00:00:00+24:00",
                b"HOLDUNTIL=1969-12-31T23:59:59Z",
                b"HOLDUNTIL=1970-01-01T00:00:00+00:01",
                b"HOLDUNTIL=0000-01-01T00:00:00Z",
            ],
        }.items()
        for parameter in parameters
    ),
    *(
        (b"RCPT TO:<a@example.org> " + parameter, b"501 5.5.4 " + reply)
        for reply, parameters in {
            b"NOTIFY needs NEVER or a list of SUCCESS, FAILURE, DELAY": [
                b"NOTIFY",
                b"NOTIFY=",
                b"NOTIFY=NEVER,DELAY",
                b"NOTIFY=DELAY,NEVER",
                b"NOTIFY=DELAY,",
                b"NOTIFY=,DELAY",
                b"NOTIFY=ALWAYS",
            ],
            b"ORCPT needs type;xtext of up to 500 octets that stands for printable ASCII": [
                b"ORCPT",
                b"ORCPT=",
                b"ORCPT=a@example.org",
                b"ORCPT=;a@example.org",
                b"ORCPT=rfc(822);a",
                b"ORCPT=rfc822;a=b",
                b"ORCPT=rfc822;a+0Ab",
                b"ORCPT=rfc822;\xc3\xa4",
                b"ORCPT=utf-8;\xc3\xa4",
                b"ORCPT=rfc822;" + b"x" * 494,
            ],
        }.items()
        for parameter in parameters
    ),
    # BDAT
    (b"BDAT", b"501 5.5.4 Syntax: BDAT size [LAST]"),
    (b"BDAT LAST", b"501 5.5.4 Syntax: BDAT size [LAST]"),
    (b"BDAT -1", b"501 5.5.4 Syntax: BDAT size [LAST]"),
    (b"BDAT 0x10", b"501 5.5.4 Syntax: BDAT size [LAST]"),
    (b"BDAT 10LAST", b"501 5.5.4 Syntax: BDAT size [LAST]"),
    (b"BDAT 10 FIRST", b"501 5.5.4 Syntax: BDAT size [LAST]"),
    (b"BDAT 10 LAST x", b"501 5.5.4 Syntax: BDAT size [LAST]"),
    (b"BDAT 9223372036854775808", b"501 5.5.4 BDAT size is over 9223372036854775807"),
    (b"BDAT " + b"9" * 40 + b" LAST", b"501 5.5.4 BDAT size is over 9223372036854775807"),
    # greetings
    (b"EHLO", b"501 5.5.4 Host name or address literal is missing"),
    (b"HELO   ", b"501 5.5.4 Host name or address literal is missing"),
    (b"EHLO my host", b"501 5.5.4 Host name: space is not allowed"),
    (b"EHLO m\xc3\xa4il.example", b"501 5.5.4 Host name: non-ASCII octets are not allowed"),
    (b"EHLO " + b"x" * 256, b"501 5.5.4 Host name is longer than 255 octets"),
]

# line, what is offered, whether MAIL had SMTPUTF8, reply
REFUSED_HERE = [
    (b"MAIL FROM:<a@example.org> SIZE=1", ~Offer.SIZE, False, b"555 5.5.4 SIZE is not offered here"),
    (
        b"MAIL FROM:<a@example.org> BODY=7BIT",
        ~(Offer.EIGHTBITMIME | Offer.BINARYMIME),
        False,
        b"555 5.5.4 BODY is not offered here",
    ),
    (
        b"MAIL FROM:<a@example.org> BODY=BINARYMIME",
        ~Offer.BINARYMIME,
        False,
        b"555 5.5.4 BODY=BINARYMIME is not offered here",
    ),
    (b"MAIL FROM:<\xc3\xa4@example.org> SMTPUTF8", ~Offer.SMTPUTF8, False, b"555 5.5.4 SMTPUTF8 is not offered here"),
    (b"MAIL FROM:<a@example.org> REQUIRETLS", ~Offer.REQUIRETLS, False, b"555 5.5.4 REQUIRETLS is not offered here"),
    (b"MAIL FROM:<a@example.org> RET=FULL", ~Offer.DSN, False, b"555 5.5.4 RET is not offered here"),
    (b"MAIL FROM:<a@example.org> ENVID=x", ~Offer.DSN, False, b"555 5.5.4 ENVID is not offered here"),
    (b"MAIL FROM:<a@example.org> AUTH=<>", ~Offer.AUTH, False, b"555 5.5.4 AUTH is not offered here"),
    (b"MAIL FROM:<a@example.org> MT-PRIORITY=1", ~Offer.PRIORITY, False, b"555 5.5.4 MT-PRIORITY is not offered here"),
    (b"MAIL FROM:<a@example.org> HOLDFOR=1", ~Offer.FUTURERELEASE, False, b"555 5.5.4 HOLDFOR is not offered here"),
    (b"MAIL FROM:<a@example.org> HOLDUNTIL=x", ~Offer.FUTURERELEASE, False, b"555 5.5.4 HOLDUNTIL is not offered here"),
    (b"RCPT TO:<a@example.org> NOTIFY=NEVER", ~Offer.DSN, False, b"555 5.5.4 NOTIFY is not offered here"),
    (b"RCPT TO:<a@example.org> ORCPT=rfc822;a", ~Offer.DSN, False, b"555 5.5.4 ORCPT is not offered here"),
    (b"RCPT TO:<\xe4@example.org>", ~Offer(0), True, b"501 5.1.3 Recipient address: not well-formed UTF-8"),
    (
        b"RCPT TO:<\xc3\xa4@example.org>",
        ~Offer.SMTPUTF8,
        True,
        b"553 5.6.7 Recipient address: non-ASCII octets need SMTPUTF8",
    ),
    (
        b"RCPT TO:<a@example.org> ORCPT=utf-8;\xe4",
        ~Offer(0),
        True,
        b"501 5.5.4 ORCPT needs type;xtext of up to 500 octets that stands for printable ASCII",
    ),
    (
        b"RCPT TO:<a@example.org> ORCPT=rfc822;\xc3\xa4",
        ~Offer(0),
        True,
        b"501 5.5.4 ORCPT needs type;xtext of up to 500 octets that stands for printable ASCII",
    ),
]

MALFORMED_UTF8 = [
    b"\x80",
    b"\xbf",
    b"\xc0\xaf",  # overlong
    b"\xc1\xbf",
    b"\xe0\x80\xaf",
    b"\xe0\x9f\xbf",
    b"\xf0\x80\x80\xaf",
    b"\xf0\x8f\xbf\xbf",
    b"\xed\xa0\x80",  # surrogates
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",  # over U+10FFFF
    b"\xf5\x80\x80\x80",
    b"\xff",
    b"\xc3",  # cut off
    b"\xe2\x82",
    b"\xf0\x9f\x98",
    b"\xc3(",
]


def accepted(line: bytes, *, offers: int = 511, smtputf8: bool = False) -> command.Command:
    result = command.parse_command(line, offers=offers, smtputf8=smtputf8)
    assert isinstance(result, command.Command), result
    return result


def refused(line: bytes, *, offers: int = 511, smtputf8: bool = False) -> command.Rejection:
    result = command.parse_command(line, offers=offers, smtputf8=smtputf8)
    assert isinstance(result, command.Rejection), result
    return result


@pytest.mark.parametrize(("line", "verb"), VERBS)
def test_verb_is_recognised_in_any_case(line: bytes, verb: Verb) -> None:
    assert accepted(line).verb is verb
    word, space, rest = line.partition(b" ")
    assert accepted(word.swapcase() + space + rest).verb is verb


@pytest.mark.parametrize(("line", "mailbox", "domain"), MAILBOXES)
def test_mailbox_and_domain_of_a_path(line: bytes, mailbox: bytes | None, domain: bytes) -> None:
    result = accepted(line)
    assert result.mailbox == (line[line.index(b"<") + 1 : -1] if mailbox is None else mailbox)
    assert result.domain == domain
    assert not result.internationalised


@pytest.mark.parametrize(("parameters", "expected"), MAIL_PARAMETERS)
def test_parameters_of_mail(parameters: bytes, expected: dict[str, object]) -> None:
    result = accepted(b"MAIL FROM:<a@example.org> " + parameters)
    assert result.mailbox == b"a@example.org"
    plain = accepted(b"MAIL FROM:<a@example.org>")
    for name in (
        "size",
        "body",
        "smtputf8",
        "requiretls",
        "ret",
        "envid",
        "auth",
        "priority",
        "hold_for",
        "hold_until",
    ):
        assert getattr(result, name) == expected.get(name, getattr(plain, name)), name


@pytest.mark.parametrize(("parameters", "expected"), RCPT_PARAMETERS)
def test_parameters_of_rcpt(parameters: bytes, expected: dict[str, object]) -> None:
    result = accepted(b"RCPT TO:<a@example.org> " + parameters)
    assert result.notify == expected.get("notify", 0)
    assert result.orcpt == expected.get("orcpt")


def test_nothing_is_stated_by_a_bare_mail_command() -> None:
    result = accepted(b"MAIL FROM:<>")
    assert (result.size, result.envid, result.auth, result.priority) == (None, None, None, None)
    assert (result.hold_for, result.hold_until) == (None, None)
    assert result.body is BodyType.BODY_UNSTATED
    assert result.ret is ReturnContent.RET_UNSTATED


@pytest.mark.parametrize(("line", "reply"), REFUSED)
def test_refused_with_the_exact_reply(line: bytes, reply: bytes) -> None:
    assert refused(line).reply == reply + b"\r\n"


@pytest.mark.parametrize(("line", "offers", "smtputf8", "reply"), REFUSED_HERE)
def test_refused_because_of_what_this_session_offers(line: bytes, offers: Offer, smtputf8: bool, reply: bytes) -> None:
    assert refused(line, offers=offers, smtputf8=smtputf8).reply == reply + b"\r\n"


def test_8bitmime_body_is_taken_without_binarymime() -> None:
    result = accepted(b"MAIL FROM:<> BODY=8BITMIME", offers=Offer.EIGHTBITMIME)
    assert result.body is BodyType.BODY_8BITMIME


@pytest.mark.parametrize(
    "mailbox",
    [
        "ä@example.org",
        "a@bücher.example",
        "用户@例え.テスト",
        '"ä b"@example.org',
        "😀@example.org",
        "\u0800@x",
        "\ud7ff@x",
    ],
)
def test_internationalised_address_needs_smtputf8(mailbox: str) -> None:
    octets = mailbox.encode()
    mail = accepted(b"MAIL FROM:<" + octets + b"> SMTPUTF8")
    rcpt = accepted(b"RCPT TO:<" + octets + b">", smtputf8=True)
    assert mail.mailbox == rcpt.mailbox == octets
    assert mail.domain == rcpt.domain == octets.rpartition(b"@")[2]
    assert mail.internationalised
    assert rcpt.internationalised
    assert refused(b"MAIL FROM:<" + octets + b">").code == 553
    assert refused(b"RCPT TO:<" + octets + b">").enhanced_status == "5.6.7"


def test_label_of_many_octets_but_few_characters_is_taken() -> None:
    domain = ("漢" * 22 + ".example").encode()
    assert accepted(b"RCPT TO:<a@" + domain + b">", smtputf8=True).domain == domain


@pytest.mark.parametrize("octets", MALFORMED_UTF8)
def test_malformed_utf8_is_refused_anywhere_in_a_mailbox(octets: bytes) -> None:
    for mailbox in (
        octets + b"@example.org",
        b"x" + octets + b"y@example.org",
        b"a@" + octets,
        b"a@b" + octets + b".org",
    ):
        if b"(" in mailbox:
            continue
        assert refused(b"MAIL FROM:<" + mailbox + b"> SMTPUTF8").text == "Sender address: not well-formed UTF-8"
        assert refused(b"RCPT TO:<" + mailbox + b">", smtputf8=True).text == "Recipient address: not well-formed UTF-8"
    assert refused(b'RCPT TO:<"' + octets + b'"@example.org>', smtputf8=True).enhanced_status == "5.1.3"


def test_orcpt_may_be_utf8_under_smtputf8() -> None:
    orcpt = "UTF-8;ä@bücher.example".encode()
    assert accepted(b"RCPT TO:<a@example.org> ORCPT=" + orcpt, smtputf8=True).orcpt == orcpt


@pytest.mark.parametrize(
    ("line", "size", "last"),
    [
        (b"BDAT 0", 0, False),
        (b"BDAT 0 LAST", 0, True),
        (b"bdat  86  last ", 86, True),
        (b"BDAT 000001", 1, False),
        (b"BDAT 9223372036854775807", 2**63 - 1, False),
    ],
)
def test_chunk_size(line: bytes, size: int, last: bool) -> None:
    result = accepted(line)
    assert (result.size, result.last) == (size, last)


@pytest.mark.parametrize(
    "name",
    [b"mail.example.org", b"[192.0.2.1]", b"[IPv6:2001:db8::1]", b"DESKTOP_7X", b"localhost.", b"(none)", b"x" * 255],
)
def test_name_of_a_greeting(name: bytes) -> None:
    for verb in (b"EHLO ", b"helo   "):
        assert accepted(verb + name + b"  ").name == name


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"NOOP", b""),
        (b"NOOP  hello there ", b"hello there"),
        (b"HELP mail", b"mail"),
        (b"AUTH PLAIN AGEAYg==", b"PLAIN AGEAYg=="),
        ("VRFY ä SMTPUTF8".encode(), "ä SMTPUTF8".encode()),
    ],
)
def test_text_behind_a_verb(line: bytes, text: bytes) -> None:
    assert accepted(line).text == text


def test_every_reply_is_a_reply_line() -> None:
    for reply in command.REPLIES:
        match = re.fullmatch(rb"([245])[0-9]{2} ([245])\.[0-9]{1,3}\.[0-9]{1,3} [\x20-\x7e]+\r\n", reply)
        assert match is not None, reply
        assert match[1] == match[2], reply
        assert len(reply) <= 512, reply  # RFC 5321 §4.5.3.1.5
    assert len(set(command.REPLIES)) == len(command.REPLIES)


def test_every_reply_has_a_line_that_gets_it() -> None:
    seen = {reply + b"\r\n" for _, reply in REFUSED} | {reply + b"\r\n" for *_, reply in REFUSED_HERE}
    assert not set(command.REPLIES) - seen


def test_rejection_in_parts() -> None:
    rejection = refused(b"RCPT TO:<@example.org>")
    assert rejection.verb is Verb.VERB_RCPT
    assert rejection.code == 501
    assert rejection.enhanced_status == "5.1.3"
    assert rejection.text == "Recipient address: local part is empty"


def test_a_line_without_end_is_not_walked() -> None:
    with pytest.raises(ValueError, match="a command line of 1000001 octets"):
        command.parse_command(b"x" * 1_000_001)


def test_offers_are_those_of_the_session() -> None:
    assert sum(Offer) == 511


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"", b""),
        (b"a@example.org", b"a@example.org"),
        (b"e=mc2@example.com", b"e+3Dmc2@example.com"),
        (b"a+b c\r\n\x00\x7f\xe4", b"a+2Bb+20c+0D+0A+00+7F+E4"),
    ],
)
def test_xtext(octets: bytes, text: bytes) -> None:
    assert command.encode_xtext(octets) == text
    assert command.decode_xtext(text) == octets


def test_xtext_in_its_parts() -> None:
    assert command.split_xtext(b"a+2Bb") == [b"a", b"+2B", b"b"]


@pytest.mark.parametrize(
    ("text", "position"), [(b"a b", 1), (b"a=b", 1), (b"+", 0), (b"ab+4", 2), (b"+4g", 0), (b"+2b", 0), (b"\xe4", 0)]
)
def test_what_is_not_xtext_is_refused(text: bytes, position: int) -> None:
    with pytest.raises(ValueError, match=f"not xtext at octet {position}: "):
        command.decode_xtext(text)
