"""Holds answers against what the policy demands: annotate, ask once more, replace or block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from app.errors import BadRequest, GuardrailViolation
from app.gateway.call import Call, Direction
from app.guardrails.closed import failing_closed
from app.guardrails.demands import (
    DENIED_TOPIC,
    DISCLAIMER,
    INVALID_JSON,
    MILDEST_FIRST,
    Topic,
)
from app.guardrails.dry_run import DryRun, Tally
from app.guardrails.json_answers import BadSchema, schema_fault
from app.guardrails.notes import Fault, notes_of
from app.guardrails.policy import Policy
from app.guardrails.rehearsal import stands
from app.guardrails.service import Guardrails
from app.guardrails.topics import OnTopic, Topics, gather_topics
from app.llm.json_demand import JsonDemand
from app.llm.openai_types import ChatCompletionRequest, CompletionRequest
from app.llm.request_texts import texts_of_user
from app.llm.responses_types import ResponsesRequest
from app.llm.stream_screens import TEXT

Again = Callable[[str], Awaitable[dict[str, Any]]]  # asks the model once more, for a reason
REMEDY: dict[Direction, str] = {
    "input": "Ask about something else.",
    "output": "Ask in another way, or for something else.",
}


class AnswerChecks:
    """The checks of one gateway."""

    def __init__(self, guardrails: Guardrails, topics: Topics) -> None:
        self._guardrails, self.topics = guardrails, topics

    def policy_of(self, call: Call) -> Policy:
        """What the call obeys."""
        return self._guardrails.policy_of(call)

    def tried_on(self, call: Call) -> Policy | None:
        """The policy of a dry run that has something to check."""
        tried = None if call.obeys is None else call.obeys.dry_run
        return tried if tried is not None and tried.checks_answers else None

    def watch(self, call: Call) -> bool:
        """Whether the answers of a call are looked at, by its policy or by a dry run's."""
        return self.policy_of(call).checks_answers or self.tried_on(call) is not None

    async def screen_input(
        self, call: Call, request: ChatCompletionRequest | CompletionRequest | ResponsesRequest
    ) -> None:
        """Look for denied topics in what the user said; in other texts nobody asks for them.

        Raises:
            GuardrailViolation: the policy blocks one.
            Unavailable: the topics cannot be looked for.
        """
        policy, texts = self.policy_of(call), texts_of_user(request)
        if wanted := policy.topics_of("input"):
            faults = await self._on_topics(call, wanted, texts, "input")
            self.act(call, policy, faults, "input")
        if (tried := self.tried_on(call)) is not None and tried.topics_of("input"):
            self._try(call, tried, texts, "input", [])

    def dry_run(self, call: Call) -> DryRun | None:
        """What tries another policy on the call."""
        return self._guardrails.dry_run(call)

    def instead(self, call: Call) -> str | None:
        """The text that is given without asking a model."""
        return None if call.notes is None else call.notes.instead

    def holds(self, call: Call, body: dict[str, Any]) -> bool:
        """Whether an answer may go out only when all of it was checked."""
        policy = self.policy_of(call)
        return (
            self.instead(call) is not None
            or any(t.output not in ("allow", "annotate") for t in policy.topics)
            or (
                policy.json_answers is not None
                and policy.json_answers.action != "annotate"
                and JsonDemand(policy.json_answers, body).demands
            )
        )

    def holds_grounded(self, call: Call) -> bool:
        """The same of answers from documents, which are never JSON."""
        wanted = self.policy_of(call).groundedness
        return (
            self.instead(call) is not None
            or any(t.output not in ("allow", "annotate") for t in self.policy_of(call).topics)
            or (wanted is not None and wanted.action != "annotate")
        )

    def require_schemas(self, call: Call, body: dict[str, Any]) -> None:
        """Refuse schemas that answers cannot be held against, before a model is asked.

        Raises:
            BadRequest: one cannot be used.
        """
        wanted = self.policy_of(call).json_answers
        if wanted is None:
            return
        for param, schema in JsonDemand(wanted, body).schemas():
            if (fault := schema_fault(schema)) is not None:
                raise BadRequest(
                    f"The guardrail policy holds answers against this schema, which cannot be "
                    f"used: {fault}. Correct it; patterns cannot look ahead or behind.",
                    param=param,
                )

    async def settle(
        self, call: Call, body: dict[str, Any], reply: dict[str, Any], again: Again
    ) -> tuple[dict[str, Any], bool]:
        """The reply as it may go out, and whether the checks found nothing in it.

        Raises:
            GuardrailViolation: the policy blocks it.
            Unavailable: it cannot be checked.
        """
        if not self.watch(call):
            return reply, True
        policy = self.policy_of(call)
        self._try_choices(call, body, reply["choices"])
        faults = await self.faults(call, policy, body, reply["choices"])
        retried = strictest(faults) == "retry"
        if retried:
            self.note(call, [f for f in faults if f.action == "retry"], "output", "retry")
            reply = await again(reason_of(faults))
            faults = after_retry(await self.faults(call, policy, body, reply["choices"]))
        replacement = self.act(call, policy, faults, "output")
        for choice in reply["choices"]:
            if replacement is not None:
                _replace(choice, replacement)
            if more := self.disclaimers(call, policy, body, choice):
                append(choice, more)
        if call.notes is not None and (told := call.notes.as_reply()):
            reply["ostiary"] = {**(reply.get("ostiary") or {}), **told}
        return reply, not (faults or retried)

    async def end_of_choice(self, call: Call, body: dict[str, Any], choice: dict[str, Any]) -> str:
        """Check a streamed choice that is at its end and only annotated; the disclaimers to add."""
        policy = self.policy_of(call)
        self._try_choices(call, body, [choice])
        self.act(call, policy, await self.faults(call, policy, body, [choice]), "output")
        return self.disclaimers(call, policy, body, choice)

    async def faults(
        self, call: Call, policy: Policy, body: dict[str, Any], choices: Sequence[dict[str, Any]]
    ) -> list[Fault]:
        """In what the choices of a reply fall short, denied topics and JSON."""
        found: list[Fault] = []
        if wanted := policy.topics_of("output"):
            found += await self._on_topics(call, wanted, [text_of(c) for c in choices], "output")
        if policy.json_answers is not None:
            with failing_closed():
                found += _json_faults(policy, body, choices)
        return found

    async def text_faults(self, call: Call, text: str) -> list[Fault]:
        """In what a text without a form falls short: denied topics."""
        policy = self.policy_of(call)
        if (tried := self.tried_on(call)) is not None:
            self._try(call, tried, [text], "output", [])
        return await self._on_topics(call, policy.topics_of("output"), [text], "output")

    async def _on_topics(
        self, call: Call, wanted: Sequence[Topic], texts: Sequence[str], direction: Direction
    ) -> list[Fault]:
        if not wanted:
            return []
        with failing_closed():
            found = await gather_topics(self.topics, wanted, texts)
        hits = [hit for of in found for hit in of]
        if hits:
            notes_of(call).touched |= {hit.topic.name for hit in hits}
        return topic_faults(hits, direction)

    def act(
        self, call: Call, policy: Policy, faults: Sequence[Fault], direction: Direction
    ) -> str | None:
        """Note what was found; returns the policy's text where it replaces.

        Raises:
            GuardrailViolation: it blocks.
        """
        for fault in faults:
            self.note(call, [fault], direction, fault.action)
        if blocked := [f for f in faults if f.action == "block"]:
            raise GuardrailViolation(
                policy.name,
                direction,
                Counter(f.named() for f in blocked),
                remedy=REMEDY[direction],
            )
        replacement = next((f.replacement for f in faults if f.action == "replace"), None)
        if replacement is not None and direction == "input":
            notes_of(call).instead = replacement
        return replacement

    def note(self, call: Call, faults: Sequence[Fault], direction: Direction, action: str) -> None:
        """Note on the call what was done."""
        for fault in faults:
            call.record_finding(fault.check, action, 1, direction)
            notes_of(call).tell(direction, fault, action)
        if faults:
            call.lineage["checks"] = [
                {name: value for name, value in one.items() if name != "reason"}
                for one in notes_of(call).told  # a reason can hold names of fields of the answer
            ]

    def disclaimers(
        self,
        call: Call,
        policy: Policy,
        body: dict[str, Any],
        choice: dict[str, Any],
        *,
        grounded: bool = False,
    ) -> str:
        """The disclaimers that an answer lacks, one below the other; JSON takes none."""
        text = text_of(choice)
        if not policy.disclaimers or not text.strip():
            return ""
        if not grounded and JsonDemand(policy.json_answers, body).answer:
            return ""
        touched = set[str]() if call.notes is None else call.notes.touched
        lacking = [
            d.text
            for d in policy.disclaimers
            if (d.topic is None or d.topic in touched) and not stands(d.text, text)
        ]
        if lacking:
            call.record_finding(DISCLAIMER, "annotate", len(lacking), "output")
        return "\n\n".join(lacking)

    def _try_choices(
        self, call: Call, body: dict[str, Any], choices: Sequence[dict[str, Any]]
    ) -> None:
        if (tried := self.tried_on(call)) is not None:
            faults = [] if tried.json_answers is None else _json_faults(tried, body, choices)
            self._try(call, tried, [text_of(c) for c in choices], "output", faults)

    def _try(
        self,
        call: Call,
        policy: Policy,
        texts: Sequence[str],
        direction: Direction,
        more: Sequence[Fault],
    ) -> None:
        """Let a dry run look at the same, beside the call."""
        dry_run = self._guardrails.dry_run(call)
        if dry_run is None:
            return

        async def look() -> Tally:
            found = await gather_topics(self.topics, policy.topics_of(direction), texts)
            faults = topic_faults([hit for of in found for hit in of], direction)
            return Counter((f.check, f.action) for f in [*faults, *more])

        dry_run.also(look, texts, direction)


def topic_faults(hits: Sequence[OnTopic], direction: Direction) -> list[Fault]:
    """What is done about topics that were found; those only taken note of are none."""
    return [
        Fault(
            DENIED_TOPIC,
            action,
            f"it is about '{hit.topic.name}', which is not talked about here",
            hit.topic.then,
            hit.topic.replacement,
            topic=hit.topic.name,
            score=hit.score,
        )
        for hit in hits
        if (action := hit.topic.input if direction == "input" else hit.topic.output) != "allow"
    ]


def _json_faults(
    policy: Policy, body: dict[str, Any], choices: Sequence[dict[str, Any]]
) -> list[Fault]:
    wanted = policy.json_answers
    if wanted is None:
        return []
    demand = JsonDemand(wanted, body)
    try:
        reasons = [r for choice in choices for r in demand.faults(choice, text_of(choice))]
    except BadSchema as error:
        reasons = [str(error)]
    return [Fault(INVALID_JSON, wanted.action, r, wanted.then, wanted.replacement) for r in reasons]


def strictest(faults: Sequence[Fault]) -> str | None:
    """The strictest of what is done about faults."""
    return max((f.action for f in faults), key=MILDEST_FIRST.index, default=None)


def reason_of(faults: Sequence[Fault]) -> str:
    """What a model is told when it is asked once more."""
    reasons = "; ".join(dict.fromkeys(f.reason for f in faults if f.action == "retry"))
    return (
        f"(An answer to this was given before and cannot be used: {reasons}. Answer again, and "
        "mend that.)"
    )


def after_retry(faults: Sequence[Fault]) -> list[Fault]:
    """Faults of a second answer: what followed a retry is done now."""
    return [
        Fault(f.check, f.then, f.reason, None, f.replacement, f.topic, f.score)
        if f.action == "retry" and f.then is not None
        else f
        for f in faults
    ]


def text_of(choice: dict[str, Any]) -> str:
    """What a choice says."""
    if isinstance(choice.get(TEXT), str):
        return str(choice[TEXT])
    return str((choice.get("message") or {}).get("content") or "")


def _replace(choice: dict[str, Any], text: str) -> None:
    if TEXT in choice:
        choice[TEXT] = text
    else:
        choice["message"] = {"role": "assistant", "content": text}
    choice["finish_reason"] = "content_filter"
    choice["logprobs"] = None
    choice.pop("token_ids", None)


def append(choice: dict[str, Any], more: str) -> None:
    """Put a text at the end of what a choice says."""
    holder, name = (choice, TEXT) if TEXT in choice else (choice["message"], "content")
    holder[name] = f"{holder[name]}\n\n{more}"
