"""The queue bench: what a relay does with mail that cannot go.

A real node (`angarium serve`, its own configuration and spool), next hops on the loopback that take everything, answer
4xx, are slow, or are not there, and nothing but SMTP, the admin API, the metrics and the command line between the bench
and the relay. Machine, disk, accounting, generator and sink are those of `bench.load`.

    stand        ports, result folder, sizes: what every scenario works with
    node         one relay with routes of its own, its metrics, memory, start-up time
    program      a module of this package in a process of its own
    flood        a generator for many recipient domains
    probe        the longest NOOP reply, the latency of a trickle of mail
    depth        a million deferred messages: memory, accept rate, retry pass, recovery, drain
    dead_hop     accept while the next hop is down, then drain, beside Postfix
    head_of_line a pile for one slow domain, and mail to others
    space        octets on disk beside octets alive, under a mix of short- and long-lived mail
    ten_million  what ten million cost, with a clock that is only a number
    recovery     one shard of a million messages opened without a relay, with side files and without
    judge        the goals, and whether a result meets them
    report       Markdown from the JSON result
"""
