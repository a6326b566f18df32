"""What scanners send to find out whether a server relays for strangers, and end-of-data sequences that smuggle mail.

Each trick is what stands behind `RCPT TO:`; the mail would go to EVIL, a domain that is nobody's here. OURS is a domain
that a listener of the role inbound takes mail to, HOSTNAME the relay's own name, 192.0.2.25 and 2001:db8::25 its
addresses.
"""

from __future__ import annotations

OURS = "ours.example"
EVIL = "evil.test"
HOSTNAME = "relay.example.org"

_TRICKS: dict[str, tuple[str, ...]] = {
    "percent hack": (
        "<victim%evil.test@ours.example>",
        "<victim%evil.test%ours.example@ours.example>",
        "<victim%evil.test@relay.example.org>",
        "<victim%evil.test@[192.0.2.25]>",
        "<victim%evil.test@[IPv6:2001:db8::25]>",
        "<victim%evil.test@localhost>",
        "<victim%evil.test@127.0.0.1>",
        "<victim%evil.test>",
        "<victim%evil.test@>",
        '<"victim%evil.test"@ours.example>',
        '<"victim\\%evil.test"@ours.example>',
        "<victim%40evil.test@ours.example>",
        "<victim@evil.test%ours.example>",
    ),
    "bang path": (
        "<evil.test!victim>",
        "<evil.test!victim@ours.example>",
        "<ours.example!evil.test!victim>",
        "<ours.example!evil.test!victim@ours.example>",
        "<evil.test!victim@relay.example.org>",
        "<evil.test!victim%ours.example@ours.example>",
        '<"evil.test!victim"@ours.example>',
        "<victim@evil.test!ours.example>",
        '<"evil::victim"@ours.example>',
    ),
    "source route": (
        "<@ours.example:victim@evil.test>",
        "<@relay.example.org:victim@evil.test>",
        "<@ours.example,@relay.example.org:victim@evil.test>",
        "<@[192.0.2.25]:victim@evil.test>",
        "<@localhost:victim@evil.test>",
        "<@ours.example:victim%evil.test@ours.example>",
        "<@ours.example:evil.test!victim@ours.example>",
        "<@:victim@evil.test>",
        "<ours.example:victim@evil.test>",
        "<@ours.example:@evil.test:victim@evil.test>",
        '<"@ours.example:victim@evil.test"@ours.example>',
    ),
    "quoted": (
        '<"victim@evil.test"@ours.example>',
        '<"victim@evil.test">',
        '<"victim@evil.test"@[192.0.2.25]>',
        '<"victim@evil.test"@relay.example.org>',
        '<"victim\\@evil.test"@ours.example>',
        '<"victim"@evil.test>',
        '<""victim@evil.test"@ours.example>',
        '<"victim"@"evil.test"@ours.example>',
        "<'victim@evil.test'@ours.example>",
        '"victim@evil.test"',
    ),
    "nested": (
        "<victim@evil.test@ours.example>",
        "<victim@ours.example@evil.test>",
        "<victim@@evil.test>",
        "<victim@evil.test@[192.0.2.25]>",
        "<victim@evil.test@>",
        "<victim\\@evil.test@ours.example>",
        "<victim\\@evil.test>",
        "<victim@evil.test(@ours.example)>",
        "<victim(comment)@evil.test>",
        "<<victim@evil.test>>",
        "<x@ours.example><victim@evil.test>",
        "<x@ours.example> <victim@evil.test>",
        "<victim@evil.test> <x@ours.example>",
        "<x@ours.example>,<victim@evil.test>",
        "<x@ours.example,victim@evil.test>",
        "ours <victim@evil.test>",
        "victim@evil.test",
    ),
    "domain": (
        "<victim@evil.test>",
        "<VICTIM@EVIL.TEST>",
        "<victim@evil.test.>",
        "<victim@evil.test..>",
        "<victim@.evil.test>",
        "<victim@ours.example.evil.test>",
        "<victim@evil.test.ours.example.>",
        "<victim@notours.example>",
        "<victim@example>",
        "<victim@.>",
        "<victim@evil.test> NOTIFY=NEVER ORCPT=rfc822;x@ours.example",
        "<postmaster@evil.test>",
        "<>",
        "<@evil.test>",
        "<victim>",
    ),
    "literal": (
        "<victim@[203.0.113.9]>",
        "<victim@[192.0.2.25]>",
        "<victim@192.0.2.25>",
        "<victim@[127.0.0.1]>",
        "<victim@[3221225985]>",
        "<victim@0xC0000219>",
        "<victim@#3221225985>",
        "<victim@[0192.0.2.25]>",
        "<victim@[192.0.2.25]evil.test>",
        "<victim@[IPv6:2001:db8::9]>",
        "<victim@[IPv6:2001:db8::25]>",
        "<victim@[IPv6:2001:DB8:0:0:0:0:0:25]>",
        "<victim@[IPv6:::ffff:192.0.2.25]>",
        "<victim@[IPv6:::1]>",
        "<victim@[2001:db8::25]>",
        "<victim@[x-ip:203.0.113.9]>",
    ),
    "encoded": (
        "<=?utf-8?q?victim=40evil.test?=@ours.example>",
        "<=?utf-8?b?dmljdGltQGV2aWwudGVzdA==?=@ours.example>",
        "<=?x?q?victim=40evil.test=3e=00?=x@ours.example>",
        "<victim&#64;evil.test@ours.example>",
        "<victim＠evil.test@ours.example>",
        "<victim﹫evil.test@ours.example>",
        "<victim％evil.test@ours.example>",
        "<evil.test！victim@ours.example>",
        "<victim@ｅｖｉｌ.test>",
        "<victim@оurs.example>",  # its first letter is Cyrillic
        "<victim@evil。test>",
    ),
    "octets": (
        "<victim@evil.test\0@ours.example>",
        "<victim@ours.example\0.evil.test>",
        "<victim@evil.test\0>",
        '<"victim@evil.test\0"@ours.example>',
        "<victim@evil.test\r@ours.example>",
        "<victim@evil.test\t@ours.example>",
        "<victim@ours.example\x0b.evil.test>",
        "<x@ours.example\nRCPT TO:<victim@evil.test>",
        "<victim@evil.test\x7f@ours.example>",
        "<victim@" + "evil.test." * 40 + ">",
        "<" + "victim%evil.test" * 30 + "@ours.example>",
    ),
}
TRICKS: tuple[tuple[str, str], ...] = tuple((kind, trick) for kind, tricks in _TRICKS.items() for trick in tricks)

# Addresses at ours that look odd and are no trick: role inbound takes them, for exactly this recipient.
HARMLESS: tuple[tuple[str, str], ...] = (
    ("<x@ours.example>", "x@ours.example"),
    ("<x@OURS.Example.>", "x@OURS.Example"),
    ("<@evil.test:x@ours.example>", "x@ours.example"),
    ("<bounce+victim=evil.test@ours.example>", "bounce+victim=evil.test@ours.example"),
    ("<o'brien#1/x=y@ours.example>", "o'brien#1/x=y@ours.example"),
    ('<"x y"@ours.example>', '"x y"@ours.example'),
    ("x@ours.example", "x@ours.example"),
    ("<böte@ours.example>", "böte@ours.example"),
    ("<x@ｏｕｒｓ.example>", "x@ｏｕｒｓ.example"),  # compares equal, RFC 5895
)

# What a careless host may take for the end of the mail data (CVE-2023-51764, -51765, -51766 and relatives). A host that
# keeps to RFC 5321 §2.3.8 takes none of them for it.
ENDS: tuple[bytes, ...] = (
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r.\n",
    b"\n.\r",
    b"\r\n.\r",
    b"\r\r\n.\r\r\n",
    b"\r\n.\r\r\n",
    b"\n\n.\r\n",
    b"\n\n.\n\n",
    b"\r\n\n.\n",
    b"\r\n\n.\r\n",
    b"\r\n\r.\r\n",
    b"\n\r.\n\r",
    b"\r\n.\0\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\r\0\n",
    b"\r\0\n.\r\0\n",
    b"\n.\0\n",
    b"\r\n. \r\n",
    b"\r\n.\t\r\n",
    b"\r\n .\r\n",
    b"\r\n..\r\n",
    b"\r\n.\x08\r\n",
    b"\r\n.\x0b\r\n",
    b"\r\n.\x0c\r\n",
    b"\r\n.\x1a\r\n",
    b"\x0b.\x0b",
    b"\x0c.\x0c",
    b"\x1e.\x1e",
    b"\r\n.\x85\r\n",
    b"\x85.\x85",
    b"\xc2\x85.\xc2\x85",
    b"\r\n.\xe2\x80\xa8\r\n",
    b"\xe2\x80\xa8.\xe2\x80\xa8",
    b"\xe2\x80\xa9.\xe2\x80\xa9",
    b"\xc0\x8d\xc0\x8a.\xc0\x8d\xc0\x8a",
    b"\xff\r\n.\n",
)
# In a chunk (RFC 3030) nothing ends the mail data, so there the true one is a trick as well.
CHUNK_ENDS = (*ENDS, b"\r\n.\r\n")
SMUGGLED = b"MAIL FROM:<evil@client.example>\r\nRCPT TO:<smuggled@%s>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled\r\n"


def smuggling(end: bytes, mark: bytes, domain: bytes) -> bytes:
    """Mail data with a second transaction behind what may look like its end."""
    return b"Subject: %s\r\n\r\nbody" % mark + end + SMUGGLED % domain
