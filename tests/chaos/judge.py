"""The judge: what the producer's book, the outcomes and the API's own ledger say of each delivery.

Nothing may be lost, doubled or over the limit, but for what README.md excludes:

- `unknown`: a request that may have been sent and got no answer. Each such batch needs evidence of its own
  (tests/chaos/evidence.py), see `_excuse`; one without any breaks a promise, however many others there are.
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
from itertools import chain

import orjson

from tests.chaos.evidence import Cause, Evidence, Wired
from tests.chaos.load import Book, Pair
from tests.chaos.plan import DEADLINE_SECONDS, LEASE_SECONDS
from tests.chaos.proxy import Call
from tests.chaos.stage import LATENCY_MS, Loss
from worker.clevertap.sandbox import RequestRecord, Sandbox, Verdict
from worker.core.model import Status
from worker.store import Store
from worker.store.outcomes import Filter, Outcome

#: Seconds that the API works on a call at most, and a little more for a machine that is busy.
WORKING_SECONDS = LATENCY_MS[1] / 1000 + 0.5
#: Statuses that say that the message is out, or may be.
OUT = frozenset({Status.ACCEPTED, Status.UNKNOWN})
#: An answer that came so late may have been too late: the worker's deadline runs from before it connects.
LATE_SECONDS = DEADLINE_SECONDS - 0.5
#: A worker that lives begins its call so soon after the mark: in milliseconds if the machine is not busy.
BEGIN_SECONDS = 1.0
#: What was on its way when its process was stopped, a mark or a request, may arrive so much later.
STRAY_SECONDS = 0.5
#: A worker may give up its attempts to settle so long before its lease ends, or be so late once Redis is
#: back: the pause between two of them grows to a second.
GIVE_UP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """The figures of a run. What is not ``excused`` breaks a promise."""

    deliveries: int  #: confirmed by the server when they were appended
    accepted: int
    unknown: int
    unknown_batches: int
    unknown_batches_at_most: int  #: calls for which there is evidence that they may end unknown
    unexplained: int  #: unknown batches for which there is none
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
        return not broken and not self.unexplained

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "holds": self.holds}


def judge(book: Book, store: Store, sandbox: Sandbox, losses: list[Loss], evidence: Evidence) -> Judgement:
    """Compares everything."""
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
    cut_off = [each for each in over if each not in forgotten and _behind_a_cut(each, evidence)]
    wrong = [each for each in over if each not in forgotten and each not in cut_off]
    examples += [f"over the limit at {each.received_at_ms}" for each in wrong][:5]
    unknown = [each for found in outcomes.values() for each in found if each.status is Status.UNKNOWN]
    possible, unexplained = _judge_unknown(evidence, outcomes, unknown)
    examples += unexplained[:20]
    return Judgement(
        deliveries=len(book.confirmed),
        accepted=sum(each.status is Status.ACCEPTED for found in outcomes.values() for each in found),
        unknown=len(unknown),
        unknown_batches=len({each.batch for each in unknown}),
        unknown_batches_at_most=possible,
        unexplained=len(unexplained),
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


def _judge_unknown(
    evidence: Evidence, outcomes: dict[Pair, list[Outcome]], unknown: list[Outcome]
) -> tuple[int, list[str]]:
    """How many calls may have ended unknown, and a sentence for each batch that did without evidence.

    The number is that of the calls that got no whole answer in time, and of the batches that were on the wire
    when something struck just them. It is not exact in two ways. A batch that was settled just behind the
    look at a kill counts. And a crash that took numbers back gives them to others: of a batch from before it
    the harness may then find no call.
    """
    calls = _by_pair(evidence.calls)
    pairs = {each.delivery: pair for pair, found in outcomes.items() for each in found}
    possible: set[object] = {id(call) for call in chain(*calls.values()) if _unanswered(call, evidence)}
    for wired in evidence.wired:
        if excuse := _excuse(wired, pairs.get(wired.delivery), calls, evidence):
            possible.add(excuse)
    unexplained = []
    for number, outcome in {each.batch: each for each in unknown}.items():
        pair = str(outcome.campaign), outcome.recipient.value
        settled = outcome.updated_ms / 1000
        seen = [each for each in evidence.wired if each.number == number and each.since <= settled]
        # The newest mark of that number; one that no look has seen came and went between two of them.
        last = max((each.since for each in seen), default=None)
        before = max((look for look in evidence.looks if look <= settled), default=settled)
        found = [each for each in seen if each.since == last] or [
            Wired(number or 0, before, outcome.delivery, settled + 0.001)
        ]
        excuses = [excuse for each in found if (excuse := _excuse(each, pair, calls, evidence))]
        possible.update(excuses)
        if not excuses:
            spans = ", ".join(f"from {each.since:.3f} to {each.until:.3f}" for each in found)
            what = f"batch {number} ({outcome.reason.label}) of {pair}"
            unexplained.append(f"unknown without a cause: {what}, on the wire {spans}")
    return len(possible), unexplained


def _excuse(
    wired: Wired, pair: Pair | None, calls: dict[Pair, list[Call]], evidence: Evidence
) -> object | None:
    """What may have made a batch unknown, as a name for its call; None: nothing that anybody saw.

    - its call got no whole answer, or one about at the deadline (see `_unanswered`);
    - its process was killed or frozen while it was on the wire: told by the connection of its call;
    - it never became a call, and just when it was marked some process was killed or frozen, the server died,
      or the connections to the API were reset: whoever lives calls at once, so these are few;
    - its lease ended while Redis could not be reached;
    - a crash under everysec took its settlement back.
    """
    name = wired.number, wired.since
    made = calls.get(pair, []) if pair else []
    made = [each for each in made if wired.since - 0.002 <= each.began <= wired.until]
    lease_end = wired.since + LEASE_SECONDS
    away = [each for each in evidence.troubles if each.cause in {Cause.REDIS, Cause.CRASH}]
    if lease_end <= wired.until and any(
        each.at <= lease_end <= each.until + GIVE_UP_SECONDS for each in away
    ):
        return name
    if not made:
        # Where Redis is away the mark's reply is, too, and the worker waits for it.
        waits = [each.until for each in away if each.at <= wired.since + BEGIN_SECONDS <= each.until]
        begins = min(max([wired.since, *waits]) + BEGIN_SECONDS, wired.until)
        struck = any(
            each.cause is not Cause.REDIS and each.at <= begins and wired.since <= each.until + STRAY_SECONDS
            for each in evidence.troubles
        )
        return name if struck else None
    call = made[-1]
    if _unanswered(call, evidence):
        return id(call)
    if call.answered is None:
        return None
    for each in evidence.troubles:
        if call.port in each.ports and wired.since <= each.at <= wired.until:
            return name
        if (
            each.took_back
            and call.answered <= each.at
            and wired.since <= each.at
            and each.until <= wired.until
        ):
            return name
    return None


def _unanswered(call: Call, evidence: Evidence) -> bool:
    """Whether a call got no answer, or too late, by no fault of its client: one that hangs up before its
    deadline must have been killed or frozen.
    """
    end = call.answered or call.ended
    if end is None or end - call.began >= LATE_SECONDS:
        return True
    if call.answered is not None:
        return False
    return not call.hung_up or any(
        call.port in each.ports and call.began - STRAY_SECONDS <= each.at <= end for each in evidence.troubles
    )


def _by_pair(calls: list[Call]) -> dict[Pair, list[Call]]:
    """The calls that were made for each pair, in order; one whose body did not come whole is left out."""
    found: defaultdict[Pair, list[Call]] = defaultdict(list)
    for call in calls:
        try:
            body = orjson.loads(call.body)
        except orjson.JSONDecodeError:
            continue
        for campaign in body.get("campaign_id_list") or [body["campaign_id"]]:
            for person in body["to"]["email"]:
                found[str(campaign), person].append(call)
    return dict(found)


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


def _behind_a_cut(record: RequestRecord, evidence: Evidence) -> bool:
    at = record.received_at_ms / 1000
    # The permits of a process that was killed are held until their leases end: that excuses nothing.
    kills = evidence.kills
    cut_off = [each for each in evidence.abandoned if not any(0 <= each - kill < 0.2 for kill in kills)]
    return any(each <= at <= each + WORKING_SECONDS for each in cut_off)
