"""The policy file: what to do with each entity type, on the way in and on the way out."""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from app.gateway.call import Direction
from app.guardrails.attacks import IN_REPLIES
from app.guardrails.catalogue import CATALOGUE, SETS
from app.guardrails.custom import CustomRecognizer
from app.guardrails.demands import Demands
from app.guardrails.entities import ATTACK_ENTITIES, NER_ENTITIES, PATTERN_ENTITIES
from app.guardrails.languages import ENGLISH, Language
from app.guardrails.operators import Encrypt, Hash, Operator, Replace
from app.guardrails.patterns import Recognizer

Action = Literal["mask", "replace", "hash", "encrypt", "pseudonymize", "block", "flag", "allow"]
ACTIONS: tuple[Action, ...] = (
    "allow",
    "flag",
    "pseudonymize",
    "mask",
    "replace",
    "hash",
    "encrypt",
    "block",
)  # mildest first
# where a text stands; in passages of documents, which go out as output, other things are attacks
Place = Literal["input", "output", "passages"]
KNOWN = PATTERN_ENTITIES | NER_ENTITIES | CATALOGUE | ATTACK_ENTITIES
LEAST_OF_ATTACKS = 0.5  # the score from which on docs/attacks.md tells how well they are found
SHIPPED = Path(__file__).parent / "policies"


class PolicyError(ValueError):
    """A policy file that cannot be used; the message says where and why."""


class Rule(BaseModel):
    """What is done with the values of one entity type, or of all of a set.

    ``passages`` is for attacks in passages of documents; ``output`` of attacks is for replies of
    models. ``replacement`` is what "replace" puts in a value's place.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    input: Action = "allow"
    output: Action = "allow"
    passages: Action = "allow"
    replacement: Annotated[str | None, Field(max_length=200)] = None
    min_score: Annotated[float | None, Field(ge=0, le=1)] = None

    @model_validator(mode="after")
    def _has_its_replacement(self) -> Rule:
        actions = (self.input, self.output, self.passages)
        if ("replace" in actions) != (self.replacement is not None):
            raise ValueError("'replace' and 'replacement' go together: give both or neither")
        if "pseudonymize" in (self.output, self.passages):
            raise ValueError(
                "'pseudonymize' is for input: in replies, values come back in place of surrogates"
            )
        return self


_ALLOW = Rule()
_LABEL = Replace()
_OPERATORS: dict[Action, Operator] = {
    "hash": Hash(type="hash"),
    "encrypt": Encrypt(type="encrypt"),
}


class Policy(Demands, BaseModel):
    """A validated policy; ``version`` is the hash of the file it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    languages: Annotated[
        tuple[Language, ...],
        Field(min_length=1, max_length=20, validation_alias=AliasChoices("languages", "language")),
        BeforeValidator(lambda given: (given,) if isinstance(given, str) else given),
        AfterValidator(lambda given: tuple(sorted(set(given)))),
    ] = ENGLISH
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.4
    entities: dict[str, Rule]
    sets: dict[str, Rule] = {}
    recognizers: Annotated[list[CustomRecognizer], Field(max_length=100)] = []
    version: str = ""

    @model_validator(mode="after")
    def _know_the_entities(self) -> Policy:
        known = KNOWN | {r.entity for r in self.recognizers}
        unknown = sorted(set(self.entities) - known)
        if unknown:
            near = difflib.get_close_matches(unknown[0], sorted(known), 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "docs/guardrails.md lists them"
            raise ValueError(f"unknown entity type {unknown[0]}; {hint}")
        if unset := sorted(set(self.sets) - set(SETS)):
            raise ValueError(f"unknown set {unset[0]}; known are {', '.join(SETS)}")
        for entity, rule in self.rules.items():
            attack = entity in ATTACK_ENTITIES
            if attack and rule.output != "allow" and entity not in IN_REPLIES:
                raise ValueError(
                    f"{entity}: it is looked for in input and passages; a reply may instruct"
                )
            if not attack and rule.passages != "allow":
                raise ValueError(f"{entity}: passages are screened as output; say it there")
        idle = sorted({r.entity for r in self.recognizers} - set(self.rules))
        if idle:
            raise ValueError(f"nothing is said about {idle[0]}, which a recognizer finds")
        for one in self.recognizers:
            if one.language is not None and one.language not in self.languages:
                raise ValueError(
                    f"a recognizer of {one.entity} is for texts in '{one.language}', which is not "
                    f"among the policy's languages: {', '.join(self.languages)}"
                )
        return self

    @cached_property
    def rules(self) -> dict[str, Rule]:
        """The rule of each entity type: its own, else that of its set."""
        of_sets = {entity: rule for name, rule in self.sets.items() for entity in SETS[name]}
        return {**of_sets, **self.entities}

    @cached_property
    def custom(self) -> tuple[Recognizer, ...]:
        """The policy's own recognizers."""
        return tuple(found for r in self.recognizers for found in r.recognizers)

    @cached_property
    def _watched(self) -> dict[Place, frozenset[str]]:
        return {
            place: frozenset(e for e in self.rules if self.action(e, place) != "allow")
            for place in get_args(Place)
        }

    @cached_property
    def attacks_in_passages(self) -> frozenset[str]:
        """The attacks that something is done about in passages of documents."""
        return self._watched["passages"] & ATTACK_ENTITIES

    @cached_property
    def attacks_in_replies(self) -> frozenset[str]:
        """The attacks that something is done about in what a model says."""
        return self._watched["output"] & ATTACK_ENTITIES

    @cached_property
    def flagged(self) -> dict[Place, frozenset[str]]:
        """The entity types that are told and left as they are."""
        return {
            place: frozenset(e for e in self.rules if self.action(e, place) == "flag")
            for place in get_args(Place)
        }

    @cached_property
    def pseudonymized(self) -> frozenset[str]:
        """The entity types for whose values a model reads surrogates."""
        return frozenset(e for e, r in self.rules.items() if r.input == "pseudonymize")

    def watched(self, place: Place) -> frozenset[str]:
        """The entity types that something is done about."""
        return self._watched[place]

    def needs_ner(self, direction: Direction) -> bool:
        """Whether the direction watches a type that only the language model finds."""
        return bool(self._watched[direction] & NER_ENTITIES)

    def by_sentence(self, direction: Direction) -> bool:
        """Whether the direction watches a type that is looked for in whole sentences."""
        own = {r.entity for r in self.recognizers}
        return bool(self._watched[direction] & (NER_ENTITIES | CATALOGUE | own))

    def rule(self, entity: str) -> Rule:
        """What is done with values of ``entity``."""
        return self.rules.get(entity, _ALLOW)

    def action(self, entity: str, place: Place) -> Action:
        """What to do with a value of ``entity``."""
        rule = self.rule(entity)
        if place == "input":
            return rule.input
        in_passages = place == "passages" and entity in ATTACK_ENTITIES
        return rule.passages if in_passages else rule.output

    def operator(self, entity: str, place: Place) -> Operator:
        """What stands in the place of a value."""
        action = self.action(entity, place)
        if action == "replace":
            return Replace(new_value=self.rule(entity).replacement)
        return _OPERATORS.get(action, _LABEL)

    def threshold(self, entity: str) -> float:
        """The score below which a finding does not count."""
        least = self.rule(entity).min_score
        if least is not None:
            return least
        return (
            max(self.min_score, LEAST_OF_ATTACKS) if entity in ATTACK_ENTITIES else self.min_score
        )


def load_policy(name_or_path: str) -> Policy:
    """Read a shipped policy by name, or a TOML file by path.

    Raises:
        PolicyError: there is no such policy, or it is malformed.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = SHIPPED / f"{name_or_path}.toml"
    try:
        raw = path.read_bytes()
    except OSError:
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
        raise PolicyError(
            f"There is no guardrail policy '{name_or_path}'. Shipped are {known}; or give the "
            "path of a .toml file."
        ) from None
    try:
        values = tomllib.loads(raw.decode())
        return Policy(**{**values, "version": hashlib.sha256(raw).hexdigest()[:12]})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path.name}: not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise PolicyError(f"{path.name}: {where}: {first['msg']}") from None
