"""Recognizers that a policy brings along: patterns, lists of words, checksums, context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.guardrails.catalogue import checksum, made
from app.guardrails.languages import Language
from app.guardrails.patterns import Recognizer

EntityName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]
Score = Annotated[float, Field(ge=0, le=1)]


class CustomPattern(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    regex: Annotated[str, Field(min_length=1, max_length=1000)]
    score: Score = 0.5

    @field_validator("regex")
    @classmethod
    def _compiles(cls, form: str) -> str:
        import regex

        try:
            compiled = regex.compile(form, regex.IGNORECASE)
        except regex.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if compiled.search("", timeout=1) is not None:
            raise ValueError("it matches an empty text, so it would match everywhere")
        return form


class CustomRecognizer(BaseModel):
    """Finds values of ``entity``, a new type or one that is known, within a sentence.

    With a ``language`` it leaves out the sentences that are beyond doubt in another one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    entity: EntityName
    patterns: Annotated[list[CustomPattern], Field(max_length=50)] = []
    deny_list: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=5000)
    ] = []
    deny_score: Score = 1.0
    context: Annotated[
        list[Annotated[str, Field(min_length=2, max_length=60)]], Field(max_length=200)
    ] = []
    checksum: str | None = None
    language: Language | None = None

    @field_validator("checksum")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            checksum(name)
        return name

    @model_validator(mode="after")
    def _finds_something(self) -> CustomRecognizer:
        if not self.patterns and not self.deny_list:
            raise ValueError("give patterns, a deny_list, or both")
        return self

    @cached_property
    def recognizers(self) -> list[Recognizer]:
        """What finds the values: one for the patterns, one for the list of words."""
        found, context = [], tuple(self.context)
        if self.patterns:
            judge: Callable[[str], bool | None] | None = None
            if self.checksum is not None:
                judge = checksum(self.checksum)
            forms = [(p.regex, p.score) for p in self.patterns]
            found.append(made(self.entity, forms, context, judge))
        if self.deny_list:
            form = r"(?<!\w)(?:\L<words>)(?!\w)"
            found.append(
                made(self.entity, [(form, self.deny_score)], context, words=self.deny_list)
            )
        return [replace(each, language=self.language) for each in found]
