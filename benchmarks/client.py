"""A gateway's client for measurements: one kept connection, and no more than it needs."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from benchmarks import rig


class Client:
    """One kept connection to a gateway."""

    def __init__(self, url: str) -> None:
        self._http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def get(self, path: str) -> Any:
        """See :meth:`ask`."""
        return self.ask("GET", path)

    def ask(self, verb: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        """The JSON of a reply, which must be a 200."""
        head = {"authorization": f"Bearer {rig.KEY}"} | ({"content-type": kind} if kind else {})
        self._http.request(verb, path, body, head)
        reply = self._http.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{path} answered {reply.status}: {text[:300]!r}")
        return json.loads(text)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """See :meth:`ask`."""
        return self.ask("POST", path, json.dumps(body).encode(), "application/json")

    def upload(self, name: str, text: str) -> str:
        """Upload a Markdown file; returns its id."""
        mark = "part-of-the-form"
        body = (
            f'--{mark}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
            f'--{mark}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n'
            f"content-type: text/markdown\r\n\r\n{text}\r\n--{mark}--\r\n"
        )
        found = self.ask(
            "POST", "/v1/files", body.encode(), f"multipart/form-data; boundary={mark}"
        )
        return str(found["id"])
