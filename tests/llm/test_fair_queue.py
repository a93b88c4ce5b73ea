"""Where calls wait for a model: nobody is starved, nobody is lost, and there is an end to it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import RateLimited, Unavailable
from app.llm.fair_queue import IN_A_ROW, FairQueue, Priority


class Servers:
    """So many places, and who took them in which order."""

    def __init__(self, places: int, most: int = 1000, most_s: float = 30.0) -> None:
        self.places, self.taken, self.served = places, 0, list[str]()
        self.most_at_once = 0
        self.queue = FairQueue(lambda: self.places - self.taken, most, most_s)
        self.calls: set[asyncio.Task[None]] = set()

    def begin(self, tenant: str) -> None:
        self.taken += 1
        self.most_at_once = max(self.most_at_once, self.taken)
        self.served.append(tenant)
        self.queue.began(tenant)

    def end(self, tenant: str) -> None:
        self.queue.ended(tenant)
        self.taken -= 1
        self.queue.look()

    async def call(self, tenant: str, priority: Priority = "interactive") -> None:
        await self.queue.enter(tenant, priority)
        self.begin(tenant)

    async def ask(self, tenant: str, priority: Priority = "interactive") -> asyncio.Task[None]:
        task = asyncio.create_task(self.call(tenant, priority))
        # nobody asks those who wait too long why; left alone, asyncio logs it whenever it collects
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        self.calls.add(task)
        await asyncio.sleep(0)
        return task


async def turns(servers: Servers, count: int) -> list[str]:
    """End the call under way ``count`` times; who came next."""
    servers.served[:] = servers.served[-1:]
    for _ in range(count):
        servers.end(servers.served[-1])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return servers.served[1:]


async def test_with_room_nobody_waits_and_beyond_it_everybody_does() -> None:
    servers = Servers(2)
    first, second = await servers.ask("a"), await servers.ask("b")
    third = await servers.ask("c")
    assert first.done() and second.done() and not third.done()
    assert len(servers.queue) == 1
    servers.end("a")
    await third
    assert servers.served == ["a", "b", "c"] and servers.most_at_once == 2


async def test_a_tenant_with_many_calls_waits_for_itself() -> None:
    servers = Servers(1)
    await servers.ask("first")
    for _ in range(50):
        await servers.ask("greedy")
    await servers.ask("small")
    await servers.ask("other")
    assert await turns(servers, 5) == ["greedy", "small", "other", "greedy", "greedy"]


async def test_who_has_fewest_calls_under_way_goes_next() -> None:
    servers = Servers(3)
    for tenant in ("a", "a", "b"):
        await servers.ask(tenant)
    for tenant in ("a", "b", "c"):
        await servers.ask(tenant)
    servers.end("a")
    await asyncio.sleep(0)
    assert servers.served[-1] == "c"


async def test_the_background_goes_last_but_goes() -> None:
    servers = Servers(1)
    await servers.ask("first")
    for _ in range(3):
        await servers.ask("nightly", "background")
    for _ in range(2 * IN_A_ROW + 2):
        await servers.ask("people")
    found = await turns(servers, 2 * IN_A_ROW + 4)
    assert found[:IN_A_ROW] == ["people"] * IN_A_ROW
    assert found[IN_A_ROW] == "nightly"
    assert found[IN_A_ROW + 1 : 2 * IN_A_ROW + 1] == ["people"] * IN_A_ROW
    assert found[2 * IN_A_ROW + 1] == "nightly"


async def test_a_full_queue_refuses_whoever_fills_it() -> None:
    servers = Servers(1, most=4)
    await servers.ask("first")
    greedy = [await servers.ask("greedy") for _ in range(5)]
    with pytest.raises(RateLimited) as caught:
        await greedy[4]
    assert caught.value.code == "queue_full" and int(caught.value.headers["retry-after"]) >= 1
    small = await servers.ask("small")
    with pytest.raises(RateLimited):
        await greedy[3]  # the newest of the most: its place is the small one's
    assert len(servers.queue) == 4 and not small.done()
    nightly = await servers.ask("nightly", "background")
    with pytest.raises(RateLimited):
        await nightly


async def test_people_take_the_place_of_the_background() -> None:
    servers = Servers(1, most=2)
    await servers.ask("first")
    old, new = [await servers.ask("nightly", "background") for _ in range(2)]
    person = await servers.ask("greedy")
    with pytest.raises(RateLimited):
        await new
    assert not old.done() and not person.done()


async def test_nobody_waits_for_ever() -> None:
    servers = Servers(1, most_s=0.05)
    await servers.ask("first")
    with pytest.raises(Unavailable) as caught:
        await servers.call("late")
    assert caught.value.code == "model_overloaded" and "retry-after" in caught.value.headers
    assert len(servers.queue) == 0
    none = Servers(1, most=0)
    await none.ask("first")
    with pytest.raises(RateLimited):
        await none.call("late")


async def test_a_client_that_goes_away_passes_its_turn_on() -> None:
    servers = Servers(1)
    await servers.ask("first")
    gone, next_one = await servers.ask("gone"), await servers.ask("next")
    servers.end("first")  # it is the turn of who goes away at this moment
    gone.cancel()
    await asyncio.wait([next_one], timeout=1)
    assert servers.served == ["first", "next"]
    assert servers.queue._granted == 0


@settings(max_examples=60, deadline=None)
@given(
    places=st.integers(1, 4),
    most=st.integers(1, 12),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["ask", "ask", "ask", "end", "leave"]),
            st.sampled_from("abc"),
            st.sampled_from(["interactive", "background"]),
        ),
        max_size=60,
    ),
)
def test_whatever_happens_no_place_is_lost_and_none_is_taken_twice(
    places: int, most: int, steps: list[tuple[str, str, Priority]]
) -> None:
    async def run() -> None:
        servers = Servers(places, most)
        asked = Counter[str]()
        tasks: list[tuple[str, asyncio.Task[None]]] = []
        under_way: list[str] = []

        async def settle() -> None:
            for _ in range(4):
                await asyncio.sleep(0)
            under_way.extend(servers.served)
            servers.served.clear()

        for step, tenant, priority in steps:
            if step == "ask":
                asked[tenant] += 1
                tasks.append((tenant, await servers.ask(tenant, priority)))
            elif step == "end" and under_way:
                servers.end(under_way.pop(0))
            elif step == "leave":
                waiting = [t for _, t in tasks if not t.done()]
                if waiting:
                    waiting[-1].cancel()
            await settle()
            assert servers.taken == len(under_way) <= places
            assert len(servers.queue) <= most
            if len(servers.queue):  # nobody waits while there is room
                assert servers.taken == places
        while under_way:
            servers.end(under_way.pop(0))
            await settle()
        assert len(servers.queue) == 0 and servers.taken == 0
        done = await asyncio.gather(*(t for _, t in tasks), return_exceptions=True)
        assert len(done) == sum(asked.values())
        assert servers.queue._granted == 0 and not servers.queue._serving

    asyncio.run(run())
