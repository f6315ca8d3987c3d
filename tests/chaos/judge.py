"""The judge: what the producer's book, the outcomes and the API's own ledger say of each delivery.

Nothing may be lost, doubled or over the limit, but for what README.md excludes:

- `unknown`: a request that may have been sent and got no answer. There may be as many such batches as calls
  could be on the wire when a process was killed or frozen, a server was away, or a connection failed.
- A crash of the server's machine under `appendfsync everysec` takes back up to a second. What was confirmed
  in that second may be gone, even the record of a send; what was sent in it may be sent again, since its mark
  and its settlement are forgotten. Permits of that second are forgotten too: until the leases of then have
  ended, a call may be over the limit. Under `always` nothing of this is excused.
- A call whose connection failed before its answer: Volley has no request in flight there any more, and the
  API may still work on it. While it does, the next call may find the API's limit reached.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field

from tests.chaos.load import Book, Pair
from tests.chaos.plan import DEADLINE_SECONDS, LEASE_SECONDS
from tests.chaos.stage import LATENCY_MS, Loss
from worker.clevertap.sandbox import RequestRecord, Sandbox, Verdict
from worker.core.model import Status
from worker.store import Store
from worker.store.outcomes import Filter, Outcome

#: Seconds that the API works on a call at most, and a little more for a machine that is busy.
WORKING_SECONDS = LATENCY_MS[1] / 1000 + 0.5
#: Statuses that say that the message is out, or may be.
OUT = frozenset({Status.ACCEPTED, Status.UNKNOWN})
PERMITS = 3


@dataclass(frozen=True, slots=True)
class Judgement:
    """The figures of a run. What is not ``excused`` breaks a promise."""

    deliveries: int  #: confirmed by the server when they were appended
    accepted: int
    unknown: int
    unknown_batches: int
    unknown_batches_at_most: int  #: calls that could be on the wire when something was killed or cut
    set_apart: int  #: rejected or dead, since workers were killed over and over just with them
    calls: int
    lost: int
    doubled: int
    over_limit: int
    unfinished: int
    otherwise: int  #: ended in a way that nothing of this run explains, or sent and not said to be
    excused_lost: int  #: gone with the last second of a crash under everysec
    excused_doubled: int  #: sent again after such a crash
    excused_over_limit: int  #: in the time of the leases that such a crash made forgotten
    cut_off_over_limit: int  #: while the API still worked on calls whose connections had failed
    examples: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        broken = self.lost + self.doubled + self.over_limit + self.unfinished + self.otherwise
        return not broken and self.unknown_batches <= self.unknown_batches_at_most

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "holds": self.holds}


def judge(
    book: Book,
    store: Store,
    sandbox: Sandbox,
    losses: list[Loss],
    *,
    abandoned: list[float],
    kills: list[float],
    outages: int,
) -> Judgement:
    """Compares everything. ``abandoned``: when calls were cut off; ``kills``: when processes died or froze.

    Both in epoch seconds; ``outages`` counts the times that Redis could not be reached.
    """
    requests = sandbox.ledger.requests()
    outcomes: defaultdict[Pair, list[Outcome]] = defaultdict(list)
    for outcome in store.outcomes.select(Filter()):
        if outcome.status is not Status.DUPLICATE:
            outcomes[str(outcome.campaign), outcome.recipient.value].append(outcome)
    sent = {(pair.campaign, pair.recipient): pair.count for pair in sandbox.ledger.pairs()}
    dead = store.status().dead_letters

    counts: Counter[str] = Counter()
    examples: list[str] = []
    for pair in {*book.confirmed, *outcomes, *sent}:
        found, times = outcomes[pair], sent.get(pair, 0)
        word = _word(found, times)
        if word in {"lost", "doubled", "otherwise"} and _excused(pair, book, losses, requests):
            word = f"excused_{'lost' if word == 'lost' else 'doubled'}"
        counts[word] += 1
        if word in {"lost", "doubled", "otherwise", "unfinished"} and len(examples) < 20:
            said = (
                ", ".join(f"{each.status}/{each.reason.label}/b{each.batch}" for each in found) or "nothing"
            )
            examples.append(f"{word}: {pair}: outcomes say {said}; accepted by the API {times} times")
    # Dead letters can only be triggers that workers died over: kept, shown, and put back by an operator.
    counts["set_apart"] += min(dead, counts["lost"])
    counts["lost"] -= min(dead, counts["lost"])

    over = [each for each in requests if each.verdict is Verdict.OVER_LIMIT]
    forgotten = [each for each in over if _permits_forgotten(each, losses)]
    cut_off = [each for each in over if each not in forgotten and _behind_a_cut(each, abandoned, kills)]
    wrong = [each for each in over if each not in forgotten and each not in cut_off]
    examples += [f"over the limit at {each.received_at_ms}" for each in wrong][:5]
    unknown = [each for found in outcomes.values() for each in found if each.status is Status.UNKNOWN]
    at_most = len(abandoned) + PERMITS * (len(kills) + outages + len(losses))
    return Judgement(
        deliveries=len(book.confirmed),
        accepted=sum(each.status is Status.ACCEPTED for found in outcomes.values() for each in found),
        unknown=len(unknown),
        unknown_batches=len({each.batch for each in unknown}),
        unknown_batches_at_most=at_most,
        set_apart=counts["set_apart"],
        calls=len(requests),
        lost=counts["lost"],
        doubled=counts["doubled"],
        over_limit=len(wrong),
        unfinished=counts["unfinished"],
        otherwise=counts["otherwise"],
        excused_lost=counts["excused_lost"],
        excused_doubled=counts["excused_doubled"],
        excused_over_limit=len(forgotten),
        cut_off_over_limit=len(cut_off),
        examples=examples,
    )


def _word(found: list[Outcome], times: int) -> str:
    """What has become of a pair of which ``found`` says the one thing and the ledger the other."""
    if not found:
        return "lost" if not times else "otherwise"
    if times > 1:
        return "doubled"
    if len(found) > 1:
        return "otherwise"
    (outcome,) = found
    match outcome.status:
        case Status.ACCEPTED:
            return "well" if times == 1 else "lost"
        case Status.UNKNOWN:
            return "well"
        case Status.SCHEDULED | Status.PENDING | Status.IN_FLIGHT | Status.RETRYING:
            return "unfinished"
        case Status.REJECTED if outcome.reason.label == "poison" and not times:
            return "set_apart"
        case _:
            return "otherwise"


def _excused(pair: Pair, book: Book, losses: list[Loss], requests: list[RequestRecord]) -> bool:
    """Whether a crash under everysec has taken the append, or the mark or settlement of an accepted call."""
    confirmed = book.confirmed.get(pair)
    if confirmed is not None and any(loss.since <= confirmed <= loss.until for loss in losses):
        return True
    first = next((each for each in requests if _accepts(each, pair)), None)
    return first is not None and any(
        loss.since <= first.received_at_ms / 1000 <= loss.until + DEADLINE_SECONDS for loss in losses
    )


def _accepts(record: RequestRecord, pair: Pair) -> bool:
    return pair[0] in record.accepted_campaigns and pair[1] in record.recipients.get("email", ())


def _permits_forgotten(record: RequestRecord, losses: list[Loss]) -> bool:
    at = record.received_at_ms / 1000
    return any(loss.since <= at <= loss.until + LEASE_SECONDS for loss in losses)


def _behind_a_cut(record: RequestRecord, abandoned: list[float], kills: list[float]) -> bool:
    at = record.received_at_ms / 1000
    # The permits of a process that was killed are held until their leases end: that excuses nothing.
    cut_off = [each for each in abandoned if not any(0 <= each - kill < 0.2 for kill in kills)]
    return any(each <= at <= each + WORKING_SECONDS for each in cut_off)
