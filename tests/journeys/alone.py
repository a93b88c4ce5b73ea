"""Run in a network namespace of its own: everything works, and nothing asks for anything outside.

    unshare --net --mount [--map-root-user] python -m tests.journeys.alone DATA

Every address of the world is made one of this machine's, so that whoever asks for one is refused
at once and its packet is seen here. Prints one JSON object: what was done, and which packets went
to other than loopback addresses.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tests.api.calls import multipart, send
from tests.api.governed import HANDBOOK, QUESTION
from tests.conftest import Gateway, wait_for

IPV4, IPV6, TCP, UDP = 0x0800, 0x86DD, 6, 17
NAMESERVER = "203.0.113.53"


class Watch:
    """Sees who begins a TCP connection, or sends over UDP, to another address than loopback."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self._socket.bind(("lo", 3))
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            data, (_, kind, *_rest) = self._socket.recvfrom(65_536)
            if kind == IPV4:
                protocol, to, rest = data[9], ip_address(data[16:20]), data[(data[0] & 15) * 4 :]
            elif kind == IPV6:
                protocol, to, rest = data[6], ip_address(data[24:40]), data[40:]
            else:
                continue
            begins = protocol == UDP or (protocol == TCP and rest[13] & 0x12 == 0x02)  # SYN alone
            if begins and not to.is_loopback:
                (port,) = struct.unpack("!H", rest[2:4])
                asked = "tcp" if protocol == TCP else "udp"
                name = _name_asked(rest[20:]) if (protocol, port) == (UDP, 53) else ""
                self.seen.add(f"{asked} {to}:{port} {name}".strip())


def _name_asked(question: bytes) -> str:
    """The name in a DNS query, behind its header of 12 bytes."""
    parts = []
    while question and question[0]:
        parts.append(question[1 : 1 + question[0]].decode("ascii", "replace"))
        question = question[1 + question[0] :]
    return ".".join(parts)


def cut_off(folder: Path) -> None:
    """Leave this namespace nothing but loopback, where all that is asked for ends."""
    for command in (
        "link set lo up",
        "route add local 0.0.0.0/0 dev lo",
        "-6 route add local ::/0 dev lo",
    ):
        done = subprocess.run(["ip", *command.split()], check=False, capture_output=True)
        if done.returncode and not command.startswith("-6"):
            raise RuntimeError(f"ip {command}: {done.stderr.decode()}")
    resolver = folder / "resolv.conf"
    resolver.write_text(f"nameserver {NAMESERVER}\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", str(resolver), "/etc/resolv.conf"], check=True)


def controls(watch: Watch) -> list[str]:
    """What a program that phones home would be seen by: a name, an address."""
    for ask in (
        lambda: socket.getaddrinfo("telemetry.example.com", 443),
        lambda: socket.create_connection(("198.51.100.7", 443), 2),
    ):
        try:
            ask()
        except OSError:
            continue
        raise RuntimeError("the namespace is not cut off")
    wait_for(lambda: len(watch.seen) >= 2, 10, "the packets of the control")
    found = sorted(watch.seen)
    watch.seen.clear()
    return found


def use(house: Gateway) -> dict[str, Any]:
    """Ingest, search, rerank, answer, chat: on the embedded engines, and on Milvus Lite."""

    def ok(method: str, path: str, *more: Any) -> Any:
        status, reply, _ = send(house, method, path, *more)
        assert status < 300, (path, reply)
        return reply

    done: dict[str, Any] = {}
    file = ok("POST", "/v1/files", *multipart(HANDBOOK, "handbook.md"))["id"]
    for engine in ("faiss", "milvus"):
        body = {"file_ids": [file], "ostiary": {"engine": engine}}
        store = ok("POST", "/v1/vector_stores", body)["id"]
        path = f"/v1/vector_stores/{store}"
        wait_for(lambda path=path: ok("GET", path)["file_counts"]["completed"] == 1, 60, engine)
        for ranker in ("cross-encoder", "late-interaction"):
            wanted = {"query": QUESTION, "ranking_options": {"ranker": ranker}}
            done[f"{engine}, {ranker}"] = len(ok("POST", f"{path}/search", wanted)["data"])
    tools = [{"type": "file_search", "vector_store_ids": [store]}]
    model = house.env["OSTIARY_LLM_MODEL"]
    answer = ok("POST", "/v1/responses", {"model": model, "input": QUESTION, "tools": tools})
    parts = [part for item in answer["output"] for part in item.get("content") or ()]
    done["citations"] = sum(len(part.get("annotations") or ()) for part in parts)
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}]}
    chat = ok("POST", "/v1/chat/completions", {**body, "max_tokens": 8})
    done["chat tokens"] = chat["usage"]["completion_tokens"]
    ok("POST", "/v1/embeddings", {"model": "bge-small-en", "input": "a"})
    ok("POST", "/v1/moderations", {"input": "Write to jane.roe@example.com"})
    ok("POST", "/v1/rerank", {"model": "cross-encoder", "query": "a", "documents": ["a", "b"]})
    done["audit"] = ok("GET", "/v1/audit/verify")["valid"]
    return done


def main() -> None:
    """Cut off, watch, work, tell."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    cut_off(folder)
    watch = Watch()
    result: dict[str, Any] = {"controls": controls(watch)}
    env = {
        "OSTIARY_LLM_EMBEDDED": "true",
        "OSTIARY_LLM_MODEL": "smollm2-135m-instruct",
        "OSTIARY_VLLM_PYTHON": os.environ["OSTIARY_VLLM_PYTHON"],
        "OSTIARY_MILVUS_URL": str(folder / "lite.db"),
    }
    house = Gateway(folder / "data", env)
    # a part that phones home is to be seen: some do not where CI or these are set
    for name in ("CI", "HF_HUB_OFFLINE", *(n for n in house.env if "TELEMETRY" in n)):
        house.env.pop(name, None)
    for name in ("DO_NOT_TRACK", "VLLM_NO_USAGE_STATS", "RAY_USAGE_STATS_ENABLED"):
        house.env.pop(name, None)
    house.start(120)
    try:

        def llm() -> bool:
            told = send(house, "GET", "/readyz")[1]
            return bool(told["llm"] == "ready")

        wait_for(llm, 400, "vLLM")
        result["done"] = use(house)
        time.sleep(5)  # for what is sent at leisure
    finally:
        house.stop()
    result["outside"] = sorted(watch.seen)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
