"""The policy file: what to do with each entity type, on the way in and on the way out."""

from __future__ import annotations

import hashlib
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.gateway.call import Direction
from app.guardrails.entities import NER_ENTITIES, PATTERN_ENTITIES

Action = Literal["mask", "block", "allow"]
SHIPPED = Path(__file__).parent / "policies"


class PolicyError(ValueError):
    """A policy file that cannot be used; the message says where and why."""


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    input: Action = "allow"
    output: Action = "allow"
    min_score: Annotated[float | None, Field(ge=0, le=1)] = None


class Policy(BaseModel):
    """A validated policy; ``version`` is the hash of the file it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    language: Literal["en"] = "en"
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.4
    entities: dict[str, Rule]
    version: str = ""

    @model_validator(mode="after")
    def _know_the_entities(self) -> Policy:
        unknown = sorted(set(self.entities) - PATTERN_ENTITIES - NER_ENTITIES)
        if unknown:
            known = ", ".join(sorted(PATTERN_ENTITIES | NER_ENTITIES))
            raise ValueError(f"unknown entity type {unknown[0]}; known are {known}")
        return self

    @cached_property
    def _watched(self) -> dict[Direction, frozenset[str]]:
        return {
            "input": frozenset(e for e, r in self.entities.items() if r.input != "allow"),
            "output": frozenset(e for e, r in self.entities.items() if r.output != "allow"),
        }

    def watched(self, direction: Direction) -> frozenset[str]:
        """The entity types that something is done about."""
        return self._watched[direction]

    def needs_ner(self, direction: Direction) -> bool:
        """Whether the direction watches a type that only the language model finds."""
        return bool(self._watched[direction] & NER_ENTITIES)

    def action(self, entity: str, direction: Direction) -> Action:
        """What to do with a value of ``entity``."""
        rule = self.entities.get(entity)
        if rule is None:
            return "allow"
        return rule.input if direction == "input" else rule.output

    def threshold(self, entity: str) -> float:
        """The score below which a finding does not count."""
        rule = self.entities.get(entity)
        return self.min_score if rule is None or rule.min_score is None else rule.min_score


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
