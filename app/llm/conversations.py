"""The pseudonyms of kept responses: stored encrypted, opened to go on or to read, forgotten."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import update

from app.errors import Conflict
from app.gateway.call import Call
from app.guardrails.pseudonyms import Pseudonyms
from app.guardrails.restoring import changed_strings
from app.guardrails.service import Guardrails
from app.store.db import Database
from app.store.models import responses

_DAY_S = 86_400
_TOLD = ("output", "instructions")  # of a response, what holds texts


class Conversations:
    """What a kept response holds is pseudonymous; its values are in the encrypted map alone.

    Args:
        days: for which a map is kept.
    """

    def __init__(self, db: Database, guardrails: Guardrails, days: float) -> None:
        self._db, self._guardrails, self._days = db, guardrails, days

    def resume(self, call: Call, row: Mapping[str, Any], *, structured: bool) -> None:
        """Let a call go on with the pseudonyms of a kept response.

        Raises:
            Conflict: they are forgotten.
            Unavailable: they cannot be read.
        """
        own = self._opened(call, row)
        if own is not None:
            own.structured = structured
            changed_strings(row["input"], lambda text, _: own.see([text]))
            call.pseudonyms = own

    def to_keep(self, call: Call, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a row, with surrogates in the place of values."""
        own = call.pseudonyms
        if not own:
            return dict(values)

        def hidden(text: str, name: str) -> str:
            return own.hidden(text, structured=_is_structured(own, name))

        *earlier, said = values["input"]  # the model has read those before
        body = dict(values["body"])
        body |= {name: changed_strings(body[name], hidden, name) for name in _TOLD}
        return {
            **values,
            "input": [*earlier, changed_strings(said, hidden)],
            "body": body,
            "pseudonyms": own.sealed(values["id"]),
            "pseudonyms_until": time.time() + self._days * _DAY_S,
        }

    def body_of(self, call: Call, row: Mapping[str, Any]) -> dict[str, Any]:
        """A kept response with the values for which surrogates stand; raises as `resume`."""
        body = dict(row["body"])
        own = self._opened(call, row)
        if own is None:
            return body
        call.pseudonyms = own

        def restored(text: str, name: str) -> str:
            return own.restored(text, structured=_is_structured(own, name))

        return body | {name: changed_strings(body[name], restored, name) for name in _TOLD}

    def _opened(self, call: Call, row: Mapping[str, Any]) -> Pseudonyms | None:
        until = row["pseudonyms_until"]
        if until is None:
            return None
        if row["pseudonyms"] is None or until < time.time():
            raise Conflict(
                "The pseudonyms of this response are forgotten, so it can be neither read nor "
                "continued. Begin a new conversation.",
                code="pseudonyms_expired",
            )
        return Pseudonyms.opened(self._guardrails.tokens(call), row["pseudonyms"], row["id"])

    async def forget_old(self) -> None:
        """Forget the maps whose time is over."""
        old = responses.c.pseudonyms_until < time.time()
        async with self._db.write() as connection:
            await connection.execute(
                update(responses)
                .where(old, responses.c.pseudonyms.is_not(None))
                .values(pseudonyms=None)
            )


def _is_structured(own: Pseudonyms, name: str) -> bool:
    """Whether a field of a response or message is JSON."""
    return name == "arguments" or (own.structured and name in ("text", "content"))
