"""What a policy demands of answers: grounds, no denied topic, disclaimers, valid JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.guardrails.json_answers import schema_fault

Then = Literal["annotate", "replace", "block"]
CheckAction = Literal["annotate", "retry", "replace", "block"]
OnInput = Literal["allow", "annotate", "replace", "block"]
OnOutput = Literal["allow", "annotate", "retry", "replace", "block"]
MILDEST_FIRST: tuple[CheckAction, ...] = ("annotate", "retry", "replace", "block")
DENIED_TOPIC, UNGROUNDED = "DENIED_TOPIC", "UNGROUNDED"
INVALID_JSON, DISCLAIMER = "INVALID_JSON", "DISCLAIMER"
ANSWER_CHECKS = frozenset({DENIED_TOPIC, UNGROUNDED, INVALID_JSON, DISCLAIMER})

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Sentence = Annotated[str, Field(min_length=1, max_length=500)]
Sentences = Annotated[list[Sentence], Field(max_length=50)]
Replacement = Annotated[str | None, Field(min_length=1, max_length=2000)]


class _Demand(BaseModel):
    """What is done about an answer that falls short.

    ``then`` is what follows when the model was asked again in vain; ``replacement`` is the text
    that "replace" puts in the answer's place.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    then: Then | None = None
    replacement: Replacement = None


class _OfAnswers(_Demand):
    action: CheckAction

    @model_validator(mode="after")
    def _is_whole(self) -> _OfAnswers:
        _require(self, self.action)
        return self


class Groundedness(_OfAnswers):
    """Of grounded answers: sentences whose score is below ``min_score`` fall short."""

    min_score: Annotated[float, Field(ge=0, le=1)] = 0.5


class JsonAnswers(_OfAnswers):
    """Of answers that must be JSON, as the request or the policy says, and of tool arguments.

    ``every`` demands JSON of every answer; ``form``, a JSON Schema, demands it of that form.
    """

    every: bool = False
    form: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _has_a_schema(self) -> JsonAnswers:
        if self.form is not None and (fault := schema_fault(self.form)):
            raise ValueError(f"'form' is no JSON Schema that can be used: {fault}")
        return self


class Topic(_Demand):
    """A topic, told by sentences that are on it, and by words; "allow" only takes note of it.

    ``allowed`` are sentences that look like it and are not: they make the rest surer.
    """

    name: Name
    examples: Sentences = []
    allowed: Sentences = []
    words: Sentences = []
    min_score: Annotated[float, Field(ge=-1, le=2)] = 0.72
    input: OnInput = "allow"
    output: OnOutput = "allow"

    @model_validator(mode="after")
    def _is_told(self) -> Topic:
        if not self.examples and not self.words:
            raise ValueError("a topic needs 'examples' or 'words'")
        if self.allowed and not self.examples:
            raise ValueError("'allowed' is for topics with 'examples'")
        _require(self, self.output, self.input)
        return self


class Disclaimer(BaseModel):
    """A text that stands at the end of answers: of all, or of calls that touch a topic."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Name
    text: Annotated[str, Field(min_length=1, max_length=2000)]
    topic: Name | None = None


class Demands(BaseModel):
    """The part of a policy that is about answers as a whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    groundedness: Groundedness | None = None
    topics: Annotated[list[Topic], Field(max_length=30)] = []
    disclaimers: Annotated[list[Disclaimer], Field(max_length=10)] = []
    json_answers: JsonAnswers | None = None

    @model_validator(mode="after")
    def _names_are_known(self) -> Demands:
        topics = [t.name for t in self.topics]
        for kind, found in (("topic", topics), ("disclaimer", [d.name for d in self.disclaimers])):
            if twice := sorted({n for n in found if found.count(n) > 1}):
                raise ValueError(f"two of the {kind}s are named '{twice[0]}'")
        if unknown := sorted({d.topic for d in self.disclaimers if d.topic} - set(topics)):
            raise ValueError(f"a disclaimer is for the topic '{unknown[0]}', which is not there")
        return self

    @property
    def checks_answers(self) -> bool:
        """Whether anything is demanded of answers or topics."""
        return bool(self.topics or self.disclaimers or self.groundedness or self.json_answers)

    @property
    def embeds(self) -> bool:
        """Whether something is judged by its embedding."""
        return self.groundedness is not None or any(t.examples for t in self.topics)

    def topics_of(self, direction: Literal["input", "output"]) -> list[Topic]:
        """The topics that are looked for: something is done about them, or a disclaimer asks."""
        noted = {d.topic for d in self.disclaimers}
        return [t for t in self.topics if getattr(t, direction) != "allow" or t.name in noted]


def _require(demand: _Demand, *actions: str) -> None:
    if ("retry" in actions) != (demand.then is not None):
        raise ValueError("'retry' and 'then' go together: what follows a second try in vain")
    if ("replace" in (*actions, demand.then)) != (demand.replacement is not None):
        raise ValueError("'replace' and 'replacement' go together: give both or neither")
