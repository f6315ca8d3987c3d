"""Every key of ours in Redis, by account.

An account's keys share the hash tag ``{account}``, hence one cluster slot. Scripts get the root and derive
the numbered keys from it; lua/_cells.lua explains segments, lua/_lanes.lua lanes, flows and batches.

    schema              string    the layout of all these keys, a number
    intake              stream    triggers that wait to be accepted (the outside contract)
    nonce:<id>          string    an append that was made: its fingerprint if it has one, and its entries
    dead                stream    triggers that could not be understood, with their reason
    accepting           hash      entry id -> next piece of a trigger that is larger than a chunk
    tried               hash      entry id -> how often it was begun after its reader was gone
    next                hash      the last numbers given: delivery, group, batch, job
    gid:<p><digest>     string    the number of the group (priority, content)
    group:<gid>         hash      a group: content, priority, live deliveries; its lanes, since when rows wait
                                  and how many are stale; which campaigns' rows sleep, and until when at most
    lane:<gid>:<c,c>    list      rows that wait for the same campaigns of the same group
    flow:<p>:<c,c>      list      groups with rows in that lane
    ready:<p>           zset      flows that have groups, by fair turn;  turns (hash): where each stands
    seg:<k>…            3 keys    1024 deliveries: cells, rows, counts;  segments (zset): by last change
    batch:<b>           hash      a batch that is claimed or on the wire;  flight (zset): by end of lease
    said:<b>            string    the vendor's words about a batch
    due, due:<ms>       zset,list rows that sleep until then;  expiry, expiry:<ms>: deliveries that end then
    dedupe              hash      dedupe key -> the delivery that holds it, until when
    lapse, lapse:<ms>   zset,list dedupe keys whose window ends in the minute before
    ix:<day>:<bucket>   string    hashes of recipients and ids -> deliveries;  days (zset): which there are
    split:<p>           list      parts of refused batches;  job:<j> (hash): calls made for one, its budget
    splitting           zset      batches in flight that are such parts, by end of lease
    door                hash      permits that may be used, and until when none may
    parked, probes      hash      campaigns (or * for the account) that are not called, and who tries them
    bad                 zset      recipients that CleverTap called invalid, by when that is forgotten
    pace                hash      what keeps a pace (calls, recipients, a campaign) -> when its bucket is full
    guards              hash      <campaign>:…: recipients by hour and day, the run of its canary, allowances
    nap                 string    until when somebody naps who then looks again at what waits for a moment
    calls               hash      campaign -> calls that it had a part in
    counts              hash      <campaign>:<status letter> -> deliveries kept in Redis
    live                string    deliveries under way, over all campaigns: what the backlog's bound looks at
    send:<name>         hash      a recurring send: decided up to when, paused;  slots:<name> (list): waiting
    firing:<name>       hash      the firing of a slot that is under way;  firings (zset): by end of lease
    staged:<name>       list      what a firing has still to append;  faulty:<name> (list): bad lines
    fired:<name>        list      what became of the last slots
    permits, acceptors  zset      leases
    swept               string    when a sweep last ran, epoch ms
    paused              set       campaigns that are not sent, or * for all
    held                hash      triggers that are not sent (t:<entry>, p:<producer's id>) -> since when
    freeing             hash      what is held or cancelled no longer: the sweep lets the rest go
    cancels             hash      cancels that are not complete (also c:<campaign>, *) -> what they cover
"""

from __future__ import annotations

#: Prefix of everything that Volley writes to Redis besides Celery's own broker lists.
PREFIX = "volley:"


def root(account: str) -> str:
    """The account's prefix: ``volley:{default}:``."""
    return f"{PREFIX}{{{account}}}:"


def intake(account: str) -> str:
    """The intake stream of an account, a contract with producers."""
    return f"{root(account)}intake"
