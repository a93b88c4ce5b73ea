"""The one object that a governed call carries from the first byte to its audit record."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeGuard, TypeVar

from app.errors import ClientClosed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.gateway.limits import Window
    from app.guardrails.assignments import Choice
    from app.guardrails.attacks import OwnPrompt
    from app.guardrails.dry_run import DryRun
    from app.guardrails.notes import Notes
    from app.guardrails.pseudonyms import Pseudonyms
    from app.monitoring.stages import Stage
    from app.monitoring.tracing import Trace

Direction = Literal["input", "output"]
HIDING = frozenset(
    {"mask", "replace", "hash", "encrypt", "pseudonymize"}
)  # actions that take a value out of a text
P = ParamSpec("P")
SECRET_PATHS = ("/v1/admin/keys", "/v1/admin/webhooks")  # their replies show secrets
T = TypeVar("T")
SEES_ALL = "access:all"  # the scope of those whom access lists do not bind


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: a tenant's key or a token holder, and what it may do."""

    tenant_id: str
    subject: str  # "key:<id>" or "oidc:<sub>"
    key_id: str | None
    scopes: frozenset[str]
    rate_rpm: int | None = None
    rate_tpm: int | None = None
    user: str | None = None  # whom access lists know by this name
    groups: frozenset[str] = frozenset()
    first: str | None = None  # the subject before any rotation of its key
    max_streams: int | None = None
    budget_usd_per_day: float | None = None  # of the key; that of its tenant holds besides
    acting: bool = False  # user and groups were named by the key's application for this call
    tags: tuple[tuple[str, str], ...] = ()  # of the key, and so of all its calls

    @property
    def sees_all(self) -> bool:
        """Whether access lists do not bind it; a key that acts for somebody sees what he sees."""
        return not self.acting and self.may(SEES_ALL)

    @property
    def owner(self) -> str:
        """Whose the files and responses of its calls are: a person's where one is known.

        At most 300 characters. An application that names groups alone owns apart what it made
        for others, who may see other things.
        """
        owner = f"user:{self.user}" if self.user is not None else self.first or self.subject
        if self.acting and self.user is None:
            owner = f"{owner}/{_digest(chr(0).join(sorted(self.groups)))}"
        return owner if len(owner) <= 300 else f"long:{_digest(owner)}"

    def as_json(self) -> dict[str, Any]:
        """For work that goes on after its call; see :meth:`from_json`."""
        return {**asdict(self), "scopes": sorted(self.scopes), "groups": sorted(self.groups)}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Principal:
        """The principal that :meth:`as_json` kept."""
        sets = {name: frozenset(kept[name]) for name in ("scopes", "groups")}
        tags = tuple((name, value) for name, value in kept.get("tags", ()))
        return cls(**{**kept, **sets, "tags": tags})

    def may(self, scope: str) -> bool:
        """Whether ``scope`` is granted: exactly, by its family ``chat:*``, or by ``*``."""
        return (
            scope in self.scopes
            or "*" in self.scopes
            or f"{scope.partition(':')[0]}:*" in self.scopes
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


DEFAULT_TENANT = "default"  # made at the first start; its administrators manage the others
NOBODY = Principal("-", "anonymous", None, frozenset())
MOST_TOKENS = 100_000_000  # that one call can have used


def _can_be(tokens: Any) -> TypeGuard[int]:
    return type(tokens) is int and 0 <= tokens <= MOST_TOKENS


@dataclass(slots=True)
class Usage:
    """What a call consumed: tokens, searches, and passages that a reranker judged.

    ``aside`` are the prompt and completion tokens, counted in the others too, of model calls
    before the one that answers, such as the rewriting of a question.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    aside: tuple[int, int] = (0, 0)
    estimated: bool = False  # by the length of the texts, as the server told nothing yet
    searches: int = 0
    reranked: int = 0

    def reading(self, prompt_tokens: int) -> None:
        """A model server reads the prompt: of so many tokens, until it tells."""
        prompt, completion = self.aside
        self.prompt_tokens, self.completion_tokens = prompt + prompt_tokens, completion
        self.estimated = True

    def answered(self, reported: object) -> bool:
        """Take the usage that a model server reports of the answer; False if it is none.

        What cannot be a usage (no whole numbers, negative, beyond any context) is not taken.
        """
        told = reported if isinstance(reported, Mapping) else {}
        read, written = told.get("prompt_tokens"), told.get("completion_tokens") or 0
        if not (_can_be(read) and _can_be(written)):
            return False
        prompt, completion = self.aside
        self.prompt_tokens, self.completion_tokens = prompt + read, completion + written
        self.estimated = False
        return True

    def set_aside(self) -> None:
        """Another model call follows: what was used so far is counted besides."""
        self.aside = (self.prompt_tokens, self.completion_tokens)

    def as_reply(self) -> dict[str, Any]:
        """As a chat or completion tells it."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


@dataclass(slots=True)
class Call:
    """Who, what, how much, what was found, and what it came from.

    A service takes a ``Call`` first. Services add to it; only the corridor settles it.
    """

    id: str
    request_id: str
    door: str
    route: str
    principal: Principal = NOBODY
    started: float = field(default_factory=time.time)  # Unix seconds
    clock: float = field(default_factory=time.perf_counter)
    model: str | None = None
    versions: dict[str, str] = field(default_factory=dict)  # model, index, policy …
    usage: Usage = field(default_factory=Usage)
    times: frozenset[str] = frozenset()  # parts whose time on the CPU is charged
    cpu_s: list[tuple[str, float]] = field(default_factory=list)  # of these, in seconds
    costs: dict[str, int] = field(default_factory=dict)  # by component, nano-USD
    cost_nano_usd: int = 0  # their sum
    work: dict[str, float] = field(default_factory=dict)  # what the costs are for
    tags: dict[str, str] = field(default_factory=dict)  # of the caller's own, to sum costs by
    findings: dict[tuple[Direction, str, str], int] = field(default_factory=dict)
    screened: set[Direction] = field(default_factory=set)
    obeys: Choice | None = None  # the guardrail policy, decided by the corridor
    dry_run: DryRun | None = None  # what another policy would have done
    conversation: str | None = None  # as the caller named it
    pseudonyms: Pseudonyms | None = None  # what stands for its values where a model reads
    notes: Notes | None = None  # of the checks of its answer
    own_prompt: OwnPrompt | None = None  # told to its model in confidence
    structured: bool = False  # its reply is JSON
    lineage: dict[str, Any] = field(default_factory=dict)  # stores searched, passages used …
    # observed for drift: numbers, categories (text), and yes or no
    features: dict[str, float | str | bool] = field(default_factory=dict)
    embedding: NDArray[np.float32] | None = None  # of what was asked; observed for drift
    degraded: str | None = None
    cache: Literal["hit", "semantic", "miss"] | None = None  # None: not looked into
    cache_control: Literal["no-cache", "no-store"] | None = None  # as the caller asked
    error_code: str | None = None
    bodies: dict[str, str] = field(default_factory=dict)  # kept only when the policy says so
    windows: tuple[Window, Window] | None = None  # requests and tokens of this minute
    priority: Literal["interactive", "background"] = "interactive"  # where calls wait
    budgets: Callable[[Call], None] | None = None  # refuses a model whose budget is spent
    stream_limit: Callable[[Call], Awaitable[None]] | None = None
    streams: bool = False  # it counts as an open stream
    left: Callable[[], Awaitable[None]] | None = None  # waits until the client has gone
    seconds: dict[Stage, float] = field(default_factory=dict)  # of its parts
    first_s: float | None = None  # until the first byte of a streamed reply
    trace: Trace | None = None  # where traces are kept
    settled: bool = False
    settler: Callable[[Call, int, bytes], Awaitable[None]] | None = None

    @property
    def tenant_id(self) -> str:
        return self.principal.tenant_id

    @property
    def cost_usd(self) -> float:
        return self.cost_nano_usd / 1e9

    def asks(self, model: str) -> None:
        """Name the model that the call is for, before it is asked.

        Raises:
            BudgetExceeded: a budget of this model is spent.
        """
        self.model = model
        if self.budgets is not None:
            self.budgets(self)

    def timed(self, part: str, function: Callable[P, T]) -> Callable[P, T]:
        """``function``, whose time on the CPU is noted where it is charged.

        It may run in any thread: adding to a list is one step of the interpreter.
        """
        if part not in self.times:
            return function

        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.cpu_s.append((part, time.thread_time() - began))

        return run

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work``, unless the client goes away first: then it is cancelled.

        Raises:
            ClientClosed: the client has gone.
        """
        if self.left is None:
            return await work
        task, gone = asyncio.current_task(), False
        assert task is not None

        async def watch(left: Callable[[], Awaitable[None]]) -> None:
            nonlocal gone
            await left()
            gone = True
            task.cancel()

        watching = asyncio.create_task(watch(self.left))
        try:
            return await work
        except asyncio.CancelledError:
            if not gone or task.uncancel():
                raise
            raise ClientClosed("The client closed the connection before its answer.") from None
        finally:
            watching.cancel()

    async def begin_stream(self) -> None:
        """Count the call as an open stream until it is settled; before a model is asked.

        Raises:
            RateLimited: as many are open as the key may have.
        """
        if self.stream_limit is not None and not self.streams:
            await self.stream_limit(self)
            self.streams = True

    def record_finding(self, entity: str, action: str, count: int, direction: Direction) -> None:
        """Note that a guardrail found ``count`` values of ``entity`` and what it did."""
        key = (direction, entity, action)
        self.findings[key] = self.findings.get(key, 0) + count

    def mark_screened(self, direction: Direction) -> None:
        """Note that the guardrails have seen the text of this direction."""
        self.screened.add(direction)

    async def settle(self, status: int = 200, tail: bytes = b"") -> None:
        """Charge, observe and commit the audit record; once, later calls do nothing.

        A stream calls this before its last event. ``tail`` is what the stream sends after
        the commit, so that a replay of the call can repeat it.

        Raises:
            Unavailable: the audit record could not be made durable.
        """
        if self.settled or self.settler is None:
            return
        if self.dry_run is not None:
            await self.dry_run.finish()
            if self.settled:  # meanwhile
                return
        self.settled = True
        await self.settler(self, status, tail)


# whom a line of the log belongs to
current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
