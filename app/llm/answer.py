"""Grounded answers: passages to prompt to cited text, or an honest no."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from app.gateway.call import Call
from app.guardrails.service import Guardrails
from app.llm.answer_checks import AnswerChecks
from app.llm.citations import Citation, cite, exact
from app.llm.gate import (
    Scorer,
    best_sentences,
    judge,
    rare_words,
    relevance_of,
    shown,
)
from app.llm.grounded_checks import GroundedChecks
from app.llm.groundedness import Groundedness
from app.llm.pieces import Piece as Piece
from app.llm.pieces import Search as Search
from app.llm.rewriting import Rewriter
from app.llm.router import Router
from app.llm.sentences import is_prose, spans, terms
from app.llm.token_estimate import count_usage
from app.llm.upstream import delta_text
from app.llm.upstream_errors import UpstreamCut, UpstreamUnavailable
from app.pools import Pool
from app.retrieval.rewrite import Turn
from app.retrieval.search import Searches
from app.retrieval.types import Passage

log = logging.getLogger("ostiary.answer")
DECLINED = "I do not know: the documents do not answer this."
DEGRADED = "llm-unavailable"
MOST_SENTENCES = 3
ANSWER_TOKENS = 100
# A sentence of the model may answer so much worse (in logits of the cross-encoder) than the
# best sentence of the passages: true but beside the question is no answer.
BEHIND = 2.0
PROMPT_CHARS = 3000  # of passages; with question and answer inside 2,048 tokens
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
_INSTRUCTION = (
    "You answer questions about documents. Use only the facts in the passages. Answer in one "
    "or two short sentences of plain prose, with the words of the passages. No code, no lists."
)


Quote = tuple[float, str, Passage]  # logit, an exact part of a passage's text, the passage


class Answers:
    """Answers from passages of the caller's own stores."""

    def __init__(
        self,
        searches: Searches,
        rewriter: Rewriter,
        router: Router,
        guardrails: Guardrails,
        scorer: Scorer,
        pool: Pool,
        threshold: float,
        checks: AnswerChecks | None = None,
        groundedness: Groundedness | None = None,
    ) -> None:
        self._searches, self._rewriter = searches, rewriter
        self._router, self._guardrails = router, guardrails
        self._scorer, self._pool, self._threshold = scorer, pool, threshold
        self._checked = GroundedChecks(checks, groundedness) if checks and groundedness else None

    async def search(
        self,
        call: Call,
        store_ids: Sequence[str],
        turns: Sequence[Turn],
        k: int | None = None,
        filters: dict[str, Any] | None = None,
    ) -> Search:
        """Find passages for the last question of a (screened) conversation and judge them.

        What the question refers to in earlier user turns is put in front of it.
        The passages are screened first: neither the model server nor a quotation gets what
        the policy keeps from the caller.
        """
        rewritten = await self._rewriter.rewrite(call, turns)
        question = rewritten.query
        if rewritten.carried:
            call.lineage["carried_words"] = len(rewritten.carried)
        hits = await self._searches.hits(call, store_ids, question, k or 10, filters)
        texts = await self._guardrails.screen(
            call, [h.passage.text for h in hits], "output", passages=True
        )
        hits = [
            replace(h, passage=replace(h.passage, text=t)) for h, t in zip(hits, texts, strict=True)
        ]
        rare = rare_words(*await self._searches.frequencies(call, store_ids, question))
        grounds = await self._pool.run(
            call.timed("retrieval", judge), self._scorer, question, hits, rare, self._threshold
        )
        call.lineage["passages"] = [p.id for p in grounds.passages]
        call.features["relevance"] = grounds.relevance
        call.features["refusal"] = not grounds.answerable
        return Search(question, hits, grounds)

    async def note_health(self, call: Call, search: Search, model: str) -> None:
        """Say before the first byte of a reply that it will be made without the model."""
        if search.grounds.answerable and not await self._router.ready(model):
            call.degraded = DEGRADED

    async def decide(
        self, call: Call, search: Search, model: str, options: dict[str, Any] | None = None
    ) -> None:
        """Make the answer now where the policy may replace or refuse it.

        Raises:
            GuardrailViolation: the policy refuses it.
            UpstreamCut: as :meth:`stream`.
        """
        checked = self._checked
        if checked is None or not checked.holds(call):
            return
        if (instead := checked.instead(call)) is not None:
            search.decided = [Piece(instead, ())]
            return

        async def again(reason: str) -> list[Piece]:
            call.usage.set_aside()
            search.mend, search.unborne = reason, 0
            return [piece async for piece in self._pieces(call, search, model, options)]

        pieces = [piece async for piece in self._pieces(call, search, model, options)]
        search.decided = await checked.settle(call, search, pieces, again)

    async def stream(
        self, call: Call, search: Search, model: str, options: dict[str, Any] | None = None
    ) -> AsyncIterator[Piece]:
        """Yield the answer, checked as the policy says; raises as :meth:`decide`."""
        if search.decided is not None:
            for piece in search.decided:
                yield piece
            return
        given: list[Piece] = []
        async for piece in self._pieces(call, search, model, options):
            given.append(piece)
            yield piece
        if self._checked is not None:
            for piece in await self._checked.end(call, given):
                yield piece

    async def _pieces(
        self, call: Call, search: Search, model: str, options: dict[str, Any] | None = None
    ) -> AsyncIterator[Piece]:
        """The sentences of the answer, each one verified and screened.

        A sentence that no passage bears out is dropped; when none is left, or the model
        server is not there, the best sentences of the passages are quoted instead.

        Raises:
            UpstreamCut: the model server broke off after a part was given out.
        """
        if not search.grounds.answerable:
            yield Piece(DECLINED, ())
            return
        given = 0
        quotes = await self._pool.run(
            call.timed("retrieval", best_sentences),
            self._scorer,
            search.question,
            search.grounds.passages,
        )
        said: list[set[str]] = []
        try:
            async for sentence in self._sentences(call, search, model, options or {}):
                if given == MOST_SENTENCES or not is_prose(sentence):
                    continue
                shown = self._guardrails.restored(call, sentence)
                citation = await self._pool.run(self._verify, shown, search, quotes, said)
                if citation is not None:
                    yield await self._piece(call, sentence, [citation], given)
                    given += 1
        except UpstreamUnavailable as error:
            if 0 < given < MOST_SENTENCES:
                raise UpstreamCut("The model server broke off in mid-answer.") from error
            call.degraded = call.degraded if given else DEGRADED
        if not given:
            for sentence, citation in _extract(quotes):
                yield await self._piece(call, sentence, [citation], given)
                given += 1

    def _verify(
        self, sentence: str, search: Search, quotes: list[Quote], said: list[set[str]]
    ) -> Citation | None:
        """What bears the sentence out, if it is new, true to a passage and to the point."""
        words = terms(sentence)
        if any(len(words & other) >= 0.8 * len(words) for other in said):
            return None
        if not words - terms(search.question):
            return None  # the question said again
        citation = cite(sentence, search.grounds.passages)
        if citation is None:
            search.unborne += 1
            return None
        (logit,) = relevance_of(self._scorer, search.question, [sentence])
        if logit < quotes[0][0] - BEHIND:
            return None
        said.append(words)
        return citation

    async def _piece(
        self, call: Call, sentence: str, citations: list[Citation], given: int
    ) -> Piece:
        screened, *quotes = await self._guardrails.screen(
            call, [sentence, *(c.quote for c in citations)], "output"
        )
        shown = [Citation(c.passage, q) for c, q in zip(citations, quotes, strict=True)]
        score = None
        if self._checked is not None:
            score = await self._checked.score(call, sentence, screened, citations)
        return Piece((" " if given else "") + screened, shown, score)

    async def _sentences(
        self, call: Call, search: Search, model: str, options: dict[str, Any]
    ) -> AsyncIterator[str]:
        system, asked = _prompt(search)
        (hidden,) = await self._guardrails.hide(call, [asked["content"]])
        body = {
            "model": model,
            "messages": [system, {**asked, "content": hidden}],
            "max_tokens": ANSWER_TOKENS,
            "temperature": 0.0,
            "frequency_penalty": 0.3,  # small models repeat themselves
            "stop": ["```"],
            **options,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        held = ""
        async with await self._router.stream(body, call=call) as stream:
            async for chunk in stream:
                count_usage(call.usage, chunk)
                held += delta_text(chunk)
                *whole, held = _SENTENCE.split(held)
                for sentence in whole:
                    if sentence.strip():
                        yield sentence.strip()
        # a last sentence that the token limit cut is not a sentence
        if held.strip() and held.strip()[-1] in ".!?\"')`":
            yield held.strip()


def _extract(quotes: list[Quote]) -> list[tuple[str, Citation]]:
    """The one or two best parts of the passages, word for word."""
    _, first, passage = quotes[0]
    chosen = [(first, passage)]
    for logit, other, source in quotes[1:]:
        if logit < quotes[0][0] - BEHIND:
            break
        if not _repeats(other, first) and not _repeats(first, other) and not _overlap(first, other):
            chosen.append((other, source))
            break
    return [(_on_one_line(t), Citation(p, exact(t, p.text))) for t, p in chosen]


def _repeats(part: str, other: str) -> bool:
    """Whether a sentence of ``part`` stands in ``other`` word for word."""
    return any(part[start:end] in other for start, end in spans(part))


def _overlap(one: str, other: str) -> bool:
    words, others = terms(one), terms(other)
    return len(words & others) >= 0.6 * min(len(words), len(others))


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _prompt(search: Search) -> list[dict[str, str]]:
    parts: list[str] = []
    left = PROMPT_CHARS
    for passage in search.grounds.passages:
        text = shown(passage)
        if parts and len(text) > left:
            break
        parts.append(text[:left])
        left -= len(text)
    passages = "\n\n".join(parts)
    mend = f"\n{search.mend}" if search.mend else ""
    asked = f"Passages:\n{passages}\n\nQuestion: {search.question[:1500]}{mend}\nAnswer:"
    return [
        {"role": "system", "content": _INSTRUCTION},
        {"role": "user", "content": asked},
    ]
