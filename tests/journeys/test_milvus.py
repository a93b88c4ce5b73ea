"""The whole way of a document with a real Milvus server behind the gateway, kill -9 included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.access_house import Caller
from tests.api.calls import multipart, send
from tests.conftest import Gateway, missing, wait_for
from tests.retrieval.conftest import INSTALLED, MilvusServer

TEXTS = {
    "pumps.md": "# Pumps\n\nThe seal of a pump is changed every 2,000 hours of work.\n",
    "valves.md": "# Valves\n\nValves are greased in spring. ERR_SEAL_4711 means a worn gasket.\n",
    "wages.md": "# Wages\n\nThe harbour master earns 70,000 crowns a year.\n",
}


class Shop:
    """A vector store of a gateway over Milvus."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.admin = gateway, Caller(gateway, gateway.key)
        self.id = self.admin.ok("POST", "/v1/vector_stores", {"name": "shop"})["id"]
        self.files: dict[str, str] = {}

    @property
    def path(self) -> str:
        return f"/v1/vector_stores/{self.id}"

    def add(self, name: str, **given: Any) -> None:
        body, headers = multipart(TEXTS[name].encode(), name)
        key = {"authorization": f"Bearer {self.gateway.key}"}
        status, file, _ = send(self.gateway, "POST", "/v1/files", body, {**key, **headers})
        assert status == 200, file
        attached = {"file_id": file["id"], "attributes": {"name": name}, **given}
        self.admin.ok("POST", f"{self.path}/files", attached)
        self.files[name] = file["id"]

    def done(self) -> bool:
        counts = self.admin.ok("GET", self.path)["file_counts"]
        assert not counts["failed"]
        return bool(counts["completed"] == len(self.files))

    def names(self, query: str, caller: Caller | None = None, **options: Any) -> list[str]:
        body = {"query": query, **options}
        found = (caller or self.admin).ok("POST", f"{self.path}/search", body)["data"]
        return [hit["filename"] for hit in found]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_gateway_over_milvus_finds_filters_hides_forgets_and_survives(
    tmp_path: Path, new_gateway: Callable[..., Gateway]
) -> None:
    if not list(INSTALLED.glob(".installed-*")):
        missing("A Milvus server", "run `sh deploy/install_milvus.sh`")
    server = MilvusServer(tmp_path / "milvus").start()
    try:
        gateway = new_gateway(
            OSTIARY_LLM_URL="http://127.0.0.1:9/v1",
            OSTIARY_VECTOR_ENGINE="milvus",
            OSTIARY_MILVUS_URL=server.url,
            OSTIARY_MILVUS_TOKEN=server.token,
        ).start()
        shop = Shop(gateway)
        shop.add("pumps.md")
        shop.add("valves.md")
        shop.add("wages.md", ostiary={"access": {"users": ["jane"], "groups": []}})
        wait_for(shop.done, 120, "the documents")
        shown = shop.admin.ok("GET", shop.path)["ostiary"]
        assert (shown["engine"], shown["vectors"]) == ("milvus", len(TEXTS))

        asked = "How often is a pump seal renewed?"
        assert shop.names(asked)[0] == "pumps.md"
        assert shop.names("err_seal_4711")[0] == "valves.md"
        alone = {"type": "eq", "key": "name", "value": "valves.md"}
        assert shop.names(asked, filters=alone) == ["valves.md"]

        body = {"name": "k", "scopes": ["vector_stores:*"]}
        plain = Caller(gateway, shop.admin.ok("POST", "/v1/admin/keys", body)["key"])
        assert sorted(shop.names("wages of the master", plain)) == ["pumps.md", "valves.md"]
        assert shop.names("wages of the master")[0] == "wages.md"

        shop.add("pumps.md")  # begun, and cut in its middle
        gateway.kill()
        gateway.start()
        wait_for(lambda: shop.names(asked).count("pumps.md") == 2, 120, "what was begun")
        for file_id in (shop.files["pumps.md"], shop.files["valves.md"]):
            shop.admin.ok("DELETE", f"{shop.path}/files/{file_id}")
        gateway.kill()  # acknowledged, so gone
        gateway.start()
        assert sorted(shop.names(asked)) == ["pumps.md", "wages.md"]
        assert shop.names("err_seal_4711", filters=alone) == []

        server.stop()  # the engine away: told, and nothing made up
        status, reply, _ = send(gateway, "POST", f"{shop.path}/search", {"query": asked})
        assert status == 503 and "OSTIARY_MILVUS_URL" in reply["error"]["message"]
    finally:
        server.stop()
