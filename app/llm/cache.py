"""Replies that are given again: to the same request, or to the same question in other words."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from app.gateway.call import Call
from app.llm.cache_store import Asked, CacheStore
from app.llm.same_question import LONGEST, Embed, agree, marks_of

log = logging.getLogger(__name__)
LARGEST = 1 << 20  # bytes of a reply that is kept
# what says nothing about the answer
_ASIDE = {
    *("stream", "stream_options", "user", "metadata", "store", "service_tier"),
    *("prompt_cache_key", "safety_identifier", "request_id", "priority"),
}
# with these, an answer in other words to another wording will not do
_EXACT_ONLY = ("tools", "functions", "logprobs", "top_logprobs", "response_format", "n", "suffix")


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How the replies of a model are given again.

    Attributes:
        ttl_s: for so long, seconds.
        threshold: least cosine of two questions that are taken for one; None: exact only.
        since: when it was set, Unix seconds; what was kept before is not given any more.
    """

    ttl_s: float
    threshold: float | None
    since: float


@dataclass(slots=True)
class Slot:
    """The place of a request in the cache: what was found there, or where its reply goes."""

    key: str
    policy: CachePolicy
    servers: list[str]
    found: bytes | None = None
    kind: str | None = None  # of questions that it may be compared with
    question: str = ""
    vector: Any = None  # float32 array of shape (dim,)


class ReplyCache:
    """The caches of one gateway; a model has one when a policy is set for it.

    A key holds the tenant, the guardrail policy, the model and its servers, the kind of embedding
    and the request, so that nothing is ever given across them. What is kept was screened under
    the same policy. A cache that fails is a miss.

    Args:
        servers: what a call of a model is sent to; another set, another cache.
        embed: of the questions, and its version; None where the gateway has no embedder.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: CacheStore,
        servers: Callable[[Call, dict[str, Any]], Sequence[str]],
        embed: Callable[[], tuple[Embed, str] | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._servers, self._embed, self._clock = store, servers, embed, clock
        self._policies: dict[str, CachePolicy] = {}
        self._cleared: set[str] = set()

    def embedder(self) -> Embed | None:
        """What turns questions into vectors; None: they cannot be compared."""
        found = self._embed()
        return None if found is None else found[0]

    def policy(self, model: str) -> CachePolicy | None:
        """How a model's replies are given again; None: not at all."""
        return self._policies.get(model)

    def set(self, model: str, policy: CachePolicy | None) -> None:
        """Give replies again so from now on."""
        if policy is None:
            self._policies.pop(model, None)
        else:
            self._policies[model] = policy

    async def look(self, call: Call, body: dict[str, Any], path: str) -> Slot | None:
        """Look for a reply; None where none is to be looked for, nor kept.

        Args:
            body: the screened request, as a model server gets it.
        """
        policy = self._policies.get(str(body["model"]))
        if policy is None or call.cache_control == "no-store":
            return None
        tenant, guard = call.tenant_id, call.versions.get("policy", "")
        servers = sorted(self._servers(call, body))
        whose = [tenant, guard, body["model"], *servers, policy.since]
        asked = {name: value for name, value in body.items() if name not in _ASIDE}
        shape = [path, bool(body.get("stream"))]
        slot = Slot(_digest([whose, shape, asked]), policy, servers)
        call.cache = "miss"
        try:
            if call.cache_control != "no-cache":
                slot.found = await self._store.get(slot.key)
            if slot.found is not None:
                call.cache = "hit"
            else:
                await self._compare(call, slot, [whose, shape], asked)
        except Exception:
            log.exception("the cache failed, so the model was asked")
        if slot.found is not None:
            call.lineage["cache"] = call.cache
        return slot

    async def _compare(
        self, call: Call, slot: Slot, whose: list[Any], asked: dict[str, Any]
    ) -> None:
        """Look for a reply to the same question in other words."""
        threshold, found = slot.policy.threshold, self._embed()
        question = _question_of(asked)
        if threshold is None or found is None or question is None:
            return
        embed, version = found
        rest = {**asked, "messages": asked["messages"][:-1]}
        slot.kind, slot.question = _digest([whose, version, rest]), question
        slot.vector = (await embed([question]))[0]
        if call.cache_control == "no-cache":
            return
        known = await self._store.asked(slot.kind)
        if not known:
            return
        near = np.stack([k.vector for k in known]) @ slot.vector
        marks = marks_of(question)
        for place in np.argsort(-near):
            if near[place] < threshold:
                return
            other = known[int(place)]
            if agree(other.text, question, marks):
                slot.found = await self._store.get(other.key)
                if slot.found is not None:
                    call.cache = "semantic"
                    call.lineage["cache_cosine"] = round(float(near[place]), 4)
                    return

    async def keep(self, call: Call, slot: Slot, reply: bytes) -> None:
        """Keep the reply to a request, if it is whole and the model's own."""
        if call.degraded or len(reply) > LARGEST:
            return
        if call.lineage.get("deployment") not in slot.servers:
            return  # a stable server answered for a canary
        try:
            await self._store.put(slot.key, reply, slot.policy.ttl_s)
            if slot.kind is not None:
                until = self._clock() + slot.policy.ttl_s
                await self._store.note(
                    slot.kind, Asked(slot.vector, slot.question, slot.key, until)
                )
        except Exception:
            log.exception("a reply was not kept")

    async def count(self) -> int:
        """How many replies and kinds of questions are kept, of all tenants."""
        return len(await self._store.names())

    async def clear(self) -> int:
        """Forget everything: what is kept tells nobody whose it is. Returns how much it was."""
        self._cleared = await self._store.names()
        await self._store.clear()
        return len(self._cleared)

    async def survivors(self) -> int:
        """How much of what was cleared last is there, still or again."""
        return len(self._cleared & await self._store.names())

    async def close(self) -> None:
        """Let go of what the store holds."""
        await self._store.close()


def _question_of(body: dict[str, Any]) -> str | None:
    """The text that a request ends with, where an answer to the same in other words will do."""
    if any(body.get(name) not in (None, [], 1, False) for name in _EXACT_ONLY):
        return None
    last = (body.get("messages") or [None])[-1]
    if not isinstance(last, dict) or last.get("role") != "user":
        return None
    content = last.get("content")
    if isinstance(content, list):
        if any(part.get("type") != "text" for part in content):
            return None
        content = "\n".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or not content.strip() or len(content) > LONGEST:
        return None
    return content


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
