"""The load bench: a store-and-forward relay between a generator and a sink on one machine.

    smtp-source ──► 127.0.0.1:2525 relay ──► 127.0.0.1:2526 smtp-sink

Generator and sink are Postfix's own, in C, and the same for every relay. `direct` leaves the relay out: what then
remains is the floor that generator and sink themselves set. Nothing but the standard library is imported, and nothing
leaves the loopback.

    accounting  CPU and memory of all processes of one relay, finished ones included; what the rest of the machine did
    machine     the machine, its file system and the versions, as they go into the result
    stage       being alone and undisturbed, the head of a result, writing it down
    spool       where the queues live: a journaled ext4 of the bench's own, or a plain directory
    traffic     generator and sink
    relays      one class per relay: start, stop, queue length, purge
    trial       one measured run
    series      the matrix of scenarios, relays alternating
    soak        a million messages, memory watched
    figures     medians, spreads, ratios, targets
    report      Markdown from the JSON result
"""
