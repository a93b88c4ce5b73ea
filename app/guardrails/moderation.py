"""Which topics of a policy texts are on, for moderations: nothing is refused or changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from app.gateway.call import Call
from app.guardrails.closed import failing_closed
from app.guardrails.demands import DENIED_TOPIC, CheckAction, Topic
from app.guardrails.dry_run import Tally
from app.guardrails.policy import Policy
from app.guardrails.service import Guardrails
from app.guardrails.topics import OnTopic, gather_topics


def topics_judged(policy: Policy) -> list[Topic]:
    """The topics about which the policy does something, in what is asked or in answers."""
    return [t for t in policy.topics if (t.input, t.output) != ("allow", "allow")]


def actions_of(topic: Topic) -> list[CheckAction]:
    """What is done about a topic, in either direction."""
    return [action for action in (topic.input, topic.output) if action != "allow"]


async def judge_topics(
    guardrails: Guardrails, call: Call, texts: Sequence[str]
) -> list[list[OnTopic]]:
    """The topics of each text.

    Raises:
        Unavailable: they cannot be looked for.
    """
    wanted = topics_judged(guardrails.policy_of(call))
    with failing_closed():
        found = await gather_topics(guardrails.topics, wanted, texts)
    if count := sum(map(len, found)):
        call.record_finding(DENIED_TOPIC, "annotate", count, "input")
    if (dry_run := guardrails.dry_run(call)) and (tried := topics_judged(dry_run.policy)):

        async def look() -> Tally:
            hits = await gather_topics(guardrails.topics, tried, texts)
            return Counter(
                (DENIED_TOPIC, hit.topic.input)
                for of in hits
                for hit in of
                if hit.topic.input != "allow"
            )

        dry_run.also(look, texts, "input")
    return found
