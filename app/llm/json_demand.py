"""What JSON a request or a policy demands of an answer, and of the arguments of its functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.guardrails.demands import JsonAnswers
from app.guardrails.json_answers import ANY_OBJECT, ANY_SCHEMA, json_fault

Schema = Mapping[str, Any]


class JsonDemand:
    """The demands on the answers to one body.

    ``answer`` are the schemas that the text must satisfy; none where it may be any text.
    """

    def __init__(self, wanted: JsonAnswers | None, body: dict[str, Any]) -> None:
        self._asked = _asked(body)
        self._tools = _tools(body)
        self.answer = [] if self._asked is None else [self._asked]
        if wanted is not None and wanted.form is not None:
            self.answer.append(wanted.form)
        elif wanted is not None and wanted.every and not self.answer:
            self.answer.append(ANY_SCHEMA)

    @property
    def demands(self) -> bool:
        """Whether an answer can fall short."""
        return bool(self.answer or self._tools)

    def schemas(self) -> Iterator[tuple[str, Schema]]:
        """The schemas of the request, by the field that holds them."""
        if self._asked is not None:
            yield "response_format", self._asked
        for schema in self._tools.values():
            yield "tools", schema

    def faults(self, choice: dict[str, Any], text: str) -> Iterator[str]:
        """Why a choice that says ``text`` is not what is demanded; raises BadSchema."""
        calls = list((choice.get("message") or {}).get("tool_calls") or ())
        if text.strip() or not calls:
            found = (json_fault(text, schema) for schema in self.answer)
            if fault := next(filter(None, found), None):
                yield f"the answer must be JSON of the form asked for: {fault}"
        for number, call in enumerate(calls):
            function = call.get("function") or {}
            name, arguments = str(function.get("name")), str(function.get("arguments") or "{}")
            if name not in self._tools:
                yield f"function call {number} is of a function that was not offered"
            elif fault := json_fault(arguments, self._tools[name]):
                yield f"the arguments of function call {number} do not fit: {fault}"


def _asked(body: dict[str, Any]) -> Schema | None:
    asked = body.get("response_format")
    if not isinstance(asked, dict) or asked.get("type") not in ("json_object", "json_schema"):
        return None
    told = asked.get("json_schema")
    schema = told.get("schema") if isinstance(told, dict) else None
    return schema if isinstance(schema, dict) else ANY_OBJECT


def _tools(body: dict[str, Any]) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for tool in body.get("tools") or ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            schema = function.get("parameters")
            found[function["name"]] = schema if isinstance(schema, dict) else ANY_SCHEMA
    return found
