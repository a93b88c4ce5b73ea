"""What may be put in the place of a value, with Presidio's names and fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.guardrails.findings import Finding, label
from app.guardrails.tokens import Tokens


class _Operator(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Replace(_Operator):
    """``new_value``, else the type in angle brackets."""

    type: Literal["replace"] = "replace"
    new_value: Annotated[str | None, Field(max_length=200)] = None


class Redact(_Operator):
    """Nothing."""

    type: Literal["redact"]


class Mask(_Operator):
    """The value with some of its characters covered."""

    type: Literal["mask"]
    masking_char: Annotated[str, Field(min_length=1, max_length=1)] = "*"
    chars_to_mask: Annotated[int, Field(strict=True, ge=0)]
    from_end: Annotated[bool, Field(strict=True)] = False


class Hash(_Operator):
    """A token that is the same for the same value of one tenant; keyed, so it cannot be guessed."""

    type: Literal["hash"]


class Encrypt(_Operator):
    """A token that the same tenant may turn back, by the gateway's key."""

    type: Literal["encrypt"]


class Keep(_Operator):
    """The value."""

    type: Literal["keep"]


Operator = Annotated[Replace | Redact | Mask | Hash | Encrypt | Keep, Field(discriminator="type")]


def operate(operator: Operator, finding: Finding, value: str, tokens: Tokens) -> str:
    """What stands in the place of ``value``."""
    match operator:
        case Replace():
            return label(finding) if operator.new_value is None else operator.new_value
        case Redact():
            return ""
        case Mask():
            covered = min(operator.chars_to_mask, len(value))
            cover = operator.masking_char * covered
            rest = len(value) - covered
            return value[:rest] + cover if operator.from_end else cover + value[covered:]
        case Hash():
            return tokens.hashed(finding.entity, value)
        case Encrypt():
            return tokens.sealed(finding.entity, value)
        case Keep():
            return value
