"""Screening of a call's texts by the policy that it obeys; fails closed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from app.errors import GuardrailViolation
from app.gateway.call import Call, Direction
from app.guardrails.attacks import (
    ATTACK_ENTITIES,
    OwnPrompt,
    find_attacks,
)
from app.guardrails.attacks.replies import find_in_reply
from app.guardrails.attacks.rules import LEAK
from app.guardrails.attacks.stretches import Stretch
from app.guardrails.closed import failing_closed
from app.guardrails.detection import INLINE_CHARS, count_actions, find_by_policy, is_light
from app.guardrails.dry_run import DryRun, Tally
from app.guardrails.entities import PATTERN_ENTITIES
from app.guardrails.findings import Finding, replaced
from app.guardrails.operators import operate
from app.guardrails.pii import PiiDetector
from app.guardrails.policy import Place, Policy
from app.guardrails.pseudonyms import Pseudonyms, Stand, standing
from app.guardrails.rehearsal import Rehearsed, rehearse_checks
from app.guardrails.replies import ReplyScreen
from app.guardrails.restoring import Cover, apart_from_covered
from app.guardrails.streaming import StreamScreen, TriedStream
from app.guardrails.tokens import Tokens
from app.guardrails.topics import Topics
from app.monitoring.stages import Stage, stage, took
from app.pools import Pool

_PARTS: dict[Direction, Stage] = {"input": "screen_input", "output": "screen_output"}


class Guardrails:
    """Masks or refuses by the policy; notes on the call what was found, never the values.

    Args:
        policy: of calls for which the corridor decided none.
        beside: where dry runs look, so that no call waits for them.
    """

    def __init__(
        self,
        policy: Policy,
        detector: PiiDetector,
        pool: Pool,
        keep: bool,
        key: bytes,
        beside: Pool | None = None,
    ) -> None:
        self._policy = policy
        self._detector, self._pool, self._keep, self._key = detector, pool, keep, key
        self._beside = beside or pool
        self._find = partial(find_by_policy, detector)
        self.topics = Topics(lambda: None)

    def tokens(self, call: Call) -> Tokens:
        """What makes and opens the tokens of the caller's tenant."""
        return Tokens(self._key, call.tenant_id)

    def policy_of(self, call: Call) -> Policy:
        """The policy that a call obeys.

        Raises:
            Unavailable: it cannot be put in force.
        """
        return self._policy if call.obeys is None else call.obeys.require()

    def begin_conversation(self, call: Call, scope: str, *, structured: bool = False) -> None:
        """Where the policy wants pseudonyms, let them be those of a conversation of the caller's.

        Args:
            structured: the reply is JSON.
        """
        if self.policy_of(call).pseudonymized:
            whose = f"{call.principal.owner}\0{scope}"
            call.pseudonyms = Pseudonyms(self.tokens(call), whose, structured)

    async def keep_prompt(
        self, call: Call, texts: Sequence[str], said: Sequence[str], *, structured: bool
    ) -> None:
        """Remember what the model is told in confidence, where replies are looked through for it.

        Args:
            said: the user's own words.
            structured: the reply is JSON.
        """
        call.structured = structured
        policies = [self.policy_of(call), call.obeys.dry_run if call.obeys else None]
        if texts and any(LEAK in p.attacks_in_replies for p in policies if p is not None):
            with failing_closed():
                if sum(map(len, texts)) > INLINE_CHARS:
                    call.own_prompt = await self._pool.run(OwnPrompt, texts, said)
                else:
                    call.own_prompt = OwnPrompt(texts, said)

    def restored(self, call: Call, text: str) -> str:
        """A text of the call's with the values for which surrogates stand."""
        return text if call.pseudonyms is None else call.pseudonyms.restored(text)

    async def screen(
        self,
        call: Call,
        texts: Sequence[str],
        direction: Direction,
        *,
        passages: bool = False,
        structured: Sequence[bool] | None = None,
    ) -> list[str]:
        """Return the texts as they may pass.

        Surrogates in output are restored. The caller's own values are not looked at again.

        Args:
            passages: they are of documents, in which instructions to a model are attacks; other
                output is what a model says.
            structured: which of the texts are JSON whatever the reply is.

        Raises:
            GuardrailViolation: the policy blocks what was found.
            Unavailable: the guardrails cannot work, so nothing passes.
        """
        policy = self.policy_of(call)
        place: Place = "passages" if passages else direction
        watched = policy.watched(place)
        covers = list[Cover]()
        kinds = structured or [False] * len(texts)
        if place == "output" and (own := call.pseudonyms):
            covers = [own.cover(structured=kind) for kind in kinds]
            texts = [c.feed(t, final=True) for c, t in zip(covers, texts, strict=True)]
        if (dry_run := self.dry_run(call)) is not None:
            dry_run.see(texts, direction, passages=passages)
        detect = call.timed("guardrails", self._find)
        part: Stage = "screen_passages" if passages else _PARTS[direction]
        with stage(call, part, {"ostiary.policy": policy.name}), failing_closed():
            if place == "output" and policy.attacks_in_replies:
                texts = await self._pool.run(self._without_attacks, call, policy, texts, kinds)
                watched -= ATTACK_ENTITIES
            quick = not policy.by_sentence(direction) and not watched & ATTACK_ENTITIES
            if quick and is_light(texts):
                found = detect(policy, texts, watched, place)
            else:
                found = await self._pool.run(detect, policy, texts, watched, place)
        if direction == "input" and (policy.pseudonymized or call.pseudonyms) and any(found):
            passed = await self._pool.run(self._apply, policy, call, texts, found, place)
        else:
            passed = self._apply(policy, call, texts, found, place)
        if self._keep:
            told = passed
            if direction == "output" and (own := call.pseudonyms):  # documents hold values too
                told = [own.hidden(text) for text in told]
            if covers:
                told = [c.names(t) for c, t in zip(covers, told, strict=True)]
            call.bodies[direction] = call.bodies.get(direction, "") + "\n".join(told)
        return [c.reveal(t) for c, t in zip(covers, passed, strict=True)] if covers else passed

    async def screen_results(self, call: Call, texts: Sequence[str]) -> list[str]:
        """Results of tools, whose words may be anybody's: attacks in them are those of passages.

        As input they are screened besides.

        Raises:
            GuardrailViolation: the policy blocks an attack in passages.
            Unavailable: the guardrails cannot work.
        """
        policy = self.policy_of(call)
        dry_run = self.dry_run(call)
        if dry_run is not None and dry_run.policy.attacks_in_passages:
            tried = dry_run.policy

            async def look() -> Tally:
                found = await self._beside.run(attacks, tried, self._find)
                return count_actions(tried, found, "passages")

            dry_run.also(look, texts, "input")
        if not policy.attacks_in_passages:
            return list(texts)

        def attacks(by: Policy, detect: Callable[..., list[list[Finding]]]) -> list[list[Finding]]:
            return detect(by, texts, by.attacks_in_passages, "passages")

        detect = call.timed("guardrails", self._find)
        with stage(call, "screen_passages", {"ostiary.policy": policy.name}), failing_closed():
            found = await self._pool.run(attacks, policy, detect)
        return self._acted(policy, call, texts, found, "passages", "input")

    async def hide(self, call: Call, texts: Sequence[str]) -> list[str]:
        """Texts that may pass, as a model may read them: with surrogates for values.

        Raises:
            Unavailable: the guardrails cannot work.
        """
        policy = self.policy_of(call)
        if not policy.pseudonymized and not call.pseudonyms:
            return list(texts)
        with failing_closed():
            found = await self._pool.run(self._find, policy, texts, policy.pseudonymized, "input")
            own = self._pseudonyms(call)
            before = set(own.stands)
            stands = await self._pool.run(own.hide, texts, found)
        for text, of in zip(texts, stands, strict=True):
            for stand in of:
                if text[stand.start : stand.end] not in before:
                    call.record_finding(stand.entity, "pseudonymize", 1, "input")
        return [standing(text, of) for text, of in zip(texts, stands, strict=True)]

    def _pseudonyms(self, call: Call) -> Pseudonyms:
        """Those of the call; of no conversation, the same for all that the tenant sends."""
        if call.pseudonyms is None:
            call.pseudonyms = Pseudonyms(self.tokens(call), "")
        return call.pseudonyms

    def stream(self, call: Call, *, structured: bool = False) -> StreamScreen:
        """A screen for the output that comes in pieces; surrogates in it are restored.

        ``structured``: it is JSON whatever the reply is.
        Where the policy looks by sentences, ``feed`` takes milliseconds at each one's end: then
        use :meth:`feed` and :meth:`finish`, which keep that out of the event loop.
        """
        policy = self.policy_of(call)
        call.mark_screened("output")
        watched = policy.watched("output") - ATTACK_ENTITIES
        own = call.pseudonyms
        cover = own.cover(structured=structured) if own else None
        detect = call.timed("guardrails", self._find)

        def screen(text: str, start: int) -> str:
            began = time.perf_counter()
            with failing_closed():
                found = detect(policy, [text], watched, "output", start)
            took(call, "screen_stream", time.perf_counter() - began)
            passed = self._apply(policy, call, [text], found, "output")[0][start:]
            if self._keep:
                told = passed if cover is None else cover.names(passed)
                call.bodies["output"] = call.bodies.get("output", "") + told
            return passed if cover is None else cover.reveal(passed)

        by_sentence, holds = policy.by_sentence("output"), bool(watched)
        attacks = None
        if policy.attacks_in_replies:
            attacks = self._reply_screen(call, policy, structured=structured, streamed=True)
        spans = self._detector.spans
        if (dry_run := self.dry_run(call)) is None:
            return StreamScreen(
                screen, spans, by_sentence, holds=holds, cover=cover, attacks=attacks
            )
        tried = TriedStream(screen, spans, by_sentence, holds=holds, cover=cover, attacks=attacks)
        tried.take = dry_run.grow("output")
        return tried

    async def feed(self, screen: StreamScreen, chunk: str) -> str:
        """Feed a screen of :meth:`stream`; in the pool where sentences are looked through."""
        if screen.by_sentence or (screen.attacks and len(chunk) > INLINE_CHARS):
            return await self._pool.run(screen.feed, chunk)
        return screen.feed(chunk)

    async def finish(self, screen: StreamScreen) -> str:
        """Finish a screen of :meth:`stream`; in the pool where sentences are looked through."""
        if screen.by_sentence:
            return await self._pool.run(screen.finish)
        return screen.finish()

    def _reply_screen(
        self, call: Call, policy: Policy, *, structured: bool, streamed: bool = False
    ) -> ReplyScreen:
        """What takes attacks out of one text of a reply."""
        tokens, timed = self.tokens(call), call.timed("guardrails", find_in_reply)

        def find(
            stretch: Stretch, wanted: frozenset[str], prompt: OwnPrompt | None
        ) -> list[Finding]:
            began = time.perf_counter()
            found = timed(stretch, wanted, prompt)
            if streamed:
                took(call, "screen_stream", time.perf_counter() - began)
            return found

        def note(found: Sequence[Finding]) -> None:
            self._note(policy, call, [found], "output", "output")

        def put(finding: Finding, value: str) -> str:
            return operate(policy.operator(finding.entity, "output"), finding, value, tokens)

        return ReplyScreen(
            policy, call.own_prompt, find, note, put, structured=structured or call.structured
        )

    def _without_attacks(
        self, call: Call, policy: Policy, texts: Sequence[str], structured: Sequence[bool]
    ) -> list[str]:
        return [
            self._reply_screen(call, policy, structured=kind).finish(text)
            for text, kind in zip(texts, structured, strict=True)
        ]

    def _apply(
        self,
        policy: Policy,
        call: Call,
        texts: Sequence[str],
        found: Sequence[list[Finding]],
        place: Place,
    ) -> list[str]:
        direction: Direction = "input" if place == "input" else "output"
        call.mark_screened(direction)
        own = call.pseudonyms
        if direction == "output" and own:  # what the caller said himself is told to him
            found = [
                [f for f in apart_from_covered(t, of) if t[f.start : f.end] not in own.stands]
                for t, of in zip(texts, found, strict=True)
            ]
        return self._acted(policy, call, texts, found, place, direction)

    def _acted(
        self,
        policy: Policy,
        call: Call,
        texts: Sequence[str],
        found: Sequence[list[Finding]],
        place: Place,
        told_as: Direction,
    ) -> list[str]:
        """The texts as the rules of a place let them pass; noted as of a direction."""
        own = call.pseudonyms
        if not any(found) and not (place == "input" and own):
            return list(texts)
        self._note(policy, call, found, place, told_as)
        if place == "input" and (policy.pseudonymized or own):
            with failing_closed():
                return self._pseudonymized(policy, call, texts, found)
        return self._changed(policy, call, texts, found, place)

    def _note(
        self,
        policy: Policy,
        call: Call,
        found: Sequence[Sequence[Finding]],
        place: Place,
        told_as: Direction,
    ) -> None:
        counts = count_actions(policy, found, place)
        for (entity, action), count in counts.items():
            call.record_finding(entity, action, count, told_as)
        blocked = {entity: n for (entity, action), n in counts.items() if action == "block"}
        if blocked:
            raise GuardrailViolation(policy.name, told_as, blocked)

    def _pseudonymized(
        self, policy: Policy, call: Call, texts: Sequence[str], found: Sequence[list[Finding]]
    ) -> list[str]:
        """The texts with surrogates for values, and what the policy puts in others' place."""
        tokens, flagged, types = self.tokens(call), policy.flagged["input"], policy.pseudonymized
        named = [[f for f in of if f.entity in types] for of in found]
        changed = []
        for text, of, stands in zip(
            texts, found, self._pseudonyms(call).hide(texts, named), strict=True
        ):
            others = [f for f in of if f.entity not in types and f.entity not in flagged]
            for f in others:
                by = operate(policy.operator(f.entity, "input"), f, text[f.start : f.end], tokens)
                stands = [s for s in stands if s.end <= f.start or f.end <= s.start]
                stands.append(Stand(f.entity, f.start, f.end, by))
            changed.append(standing(text, stands))
        return changed

    def _changed(
        self,
        policy: Policy,
        call: Call,
        texts: Sequence[str],
        found: Sequence[list[Finding]],
        place: Place,
    ) -> list[str]:
        """The texts with what the policy puts in the place of findings; those told only stay."""
        tokens, flagged = self.tokens(call), policy.flagged[place]

        def put(text: str, finding: Finding) -> str:
            operator = policy.operator(finding.entity, place)
            return operate(operator, finding, text[finding.start : finding.end], tokens)

        return [
            replaced(text, [f for f in of if f.entity not in flagged], partial(put, text))
            for text, of in zip(texts, found, strict=True)
        ]

    def dry_run(self, call: Call) -> DryRun | None:
        """What tries another policy on the call, from its first text on."""
        policy = None if call.obeys is None else call.obeys.dry_run
        if policy is not None and call.dry_run is None:
            call.dry_run = DryRun(policy, partial(self._look, call, policy))
        return call.dry_run

    async def _look(
        self, call: Call, policy: Policy, texts: Sequence[str], direction: Direction, passages: bool
    ) -> Tally:
        place: Place = "passages" if passages else direction
        found = await self._beside.run(
            self._find, policy, texts, policy.watched(place), place, 0, call.own_prompt
        )
        return count_actions(policy, found, place)

    async def rehearse(
        self, call: Call, policy: Policy, texts: Sequence[str], direction: Direction
    ) -> list[Rehearsed]:
        """What a policy would do to texts of the caller's; nothing is done and nothing noted.

        Raises:
            Unavailable: the guardrails cannot work.
        """
        watched = policy.watched(direction)
        detect = call.timed("guardrails", self._find)
        with failing_closed():
            found = await self._pool.run(detect, policy, texts, watched, direction)
        if direction == "input" and policy.pseudonymized:
            trial = Call(call.id, call.request_id, call.door, call.route, call.principal)
            with failing_closed():
                changed = self._pseudonymized(policy, trial, texts, found)
        else:
            changed = self._changed(policy, call, texts, found, direction)
        told = [
            Rehearsed(
                None if any(policy.action(f.entity, direction) == "block" for f in of) else text,
                of,
            )
            for text, of in zip(changed, found, strict=True)
        ]
        return [await self._rehearse_checks(policy, one, direction) for one in told]

    async def _rehearse_checks(
        self, policy: Policy, one: Rehearsed, direction: Direction
    ) -> Rehearsed:
        if one.text is None or not policy.checks_answers:
            return one
        with failing_closed():
            text, checks = await rehearse_checks(self.topics, policy, one.text, direction)
        return replace(one, text=text, checks=checks)

    async def judge(self, call: Call, texts: Sequence[str]) -> list[list[Finding]]:
        """What the call's policy would act on, in either direction; nothing is changed.

        Raises:
            Unavailable: the guardrails cannot work.
        """
        policy = self.policy_of(call)
        replies = policy.attacks_in_replies - policy.watched("input")
        watched = (policy.watched("input") | policy.watched("output")) - replies

        def look() -> list[list[Finding]]:
            either = self._find(policy, texts, watched, "input")
            told = self._find(policy, texts, replies, "output") if replies else [[]] * len(texts)
            return [[*one, *other] for one, other in zip(either, told, strict=True)]

        with stage(call, "screen_input", {"ostiary.policy": policy.name}), failing_closed():
            found = await self._pool.run(call.timed("guardrails", look))
        if (dry_run := self.dry_run(call)) is not None:
            dry_run.see(texts, "input")
        call.mark_screened("input")
        for entity, count in Counter(f.entity for part in found for f in part).items():
            call.record_finding(entity, "flag", count, "input")
        return found

    async def analyze(
        self,
        call: Call,
        text: str,
        entities: Sequence[str] | None,
        score_threshold: float,
        passage: bool = False,
        language: str = "en",
    ) -> list[Finding]:
        """Findings in a text, as Presidio's analyzer gives them; NotFound: see NameFinder.asked."""
        self.policy_of(call)

        def look() -> list[Finding]:
            names = self._detector.names.asked(language, entities)
            wanted = names | (PATTERN_ENTITIES if entities is None else frozenset(entities))
            attacks = wanted & ATTACK_ENTITIES
            by_type, spoken = wanted - attacks, (language,)
            found = self._detector.detect(
                text, by_type, lambda _: score_threshold, languages=spoken
            )
            if attacks:
                more = find_attacks(text, attacks, untrusted=passage)
                found = found + [f for f in more if f.score >= score_threshold]
            return sorted(found, key=lambda f: (f.start, f.end))

        with failing_closed():
            found = await self._pool.run(call.timed("guardrails", look))
        call.mark_screened("input")
        return found
