"""Incidents by the clock: one a subject, escalated, closed, with actions that begin once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.errors import Conflict, NotFound
from app.monitoring.incident import SYSTEM
from app.monitoring.incident_actions import LOST_S, UNSURE
from app.store.db import Database
from tests.monitoring.desk import TENANT, Desk, call_of


@pytest.fixture
async def desk(incident_db: Database) -> AsyncIterator[Desk]:
    opened = Desk(incident_db)
    yield opened
    await opened.forget()


async def test_two_gateways_that_look_at_once_open_one_incident_a_subject(desk: Desk) -> None:
    await desk.policy()
    desk.standing = {"a", "b"}
    for _ in range(5):
        await desk.look(1)
    found = await desk.all()
    assert [i.subject for i in found] == ["a", "b"]
    assert [await desk.changes(i) for i in found] == [["opened"], ["opened"]]
    assert {(i.state, i.severity, i.owner) for i in found} == {("open", "low", "first")}


async def test_the_policy_whose_pattern_says_most_opens_and_without_one_nothing_does(
    desk: Desk,
) -> None:
    await desk.policy(subject="chat|*", owner="chats")
    await desk.policy(subject="chat|*|latency_s", owner="speed")
    await desk.policy(subject="chat|?|*", owner="short", kind="freshness")
    desk.standing = {"chat|m|latency_s", "chat|m|input_length", "search|-|latency_s"}
    await desk.look()
    owners = {i.subject: i.owner for i in await desk.all()}
    assert owners == {"chat|m|latency_s": "speed", "chat|m|input_length": "chats"}


async def test_what_nobody_acknowledges_goes_from_owner_to_owner_and_gets_more_severe(
    desk: Desk,
) -> None:
    await desk.policy()
    desk.standing = {"a"}
    await desk.look()
    seen = []
    for _ in range(5):
        await desk.look(60)
        found = await desk.one()
        seen.append((found.owner, found.severity, found.escalations))
    second, third = ("second", "medium", 1), ("third", "high", 2)
    assert seen == [("first", "low", 0), second, second, third, third]
    await desk.look(10_000)
    assert (await desk.one()).escalations == 2
    assert await desk.changes(found) == ["opened", "escalated", "escalated"]


async def test_what_is_acknowledged_does_not_escalate(desk: Desk) -> None:
    await desk.policy()
    desk.standing = {"a"}
    await desk.look()
    found = await desk.one()
    incidents = desk.gateways[0]
    call = call_of("key:jane")
    done = await asyncio.gather(*(g.acknowledge(call, found.id) for g in desk.gateways))
    assert {(i.state, i.acknowledged_by) for i in done} == {("acknowledged", "key:jane")}
    assert call.lineage["incident"] == {"id": found.id, "change": "acknowledged"}
    await desk.look(10_000)
    assert (await incidents.get(TENANT, found.id)).escalations == 0
    assert await desk.changes(found) == ["opened", "acknowledged"]


async def test_an_incident_closes_itself_when_its_condition_is_over_for_long_enough(
    desk: Desk,
) -> None:
    await desk.policy()
    desk.standing = {"a"}
    await desk.look()
    desk.standing = set()
    await desk.look(30)
    desk.standing = {"a"}  # it comes back in time
    await desk.look(10)
    desk.standing = set()
    await desk.look(49)
    assert (await desk.one()).state == "open"
    await desk.look(1)
    found = await desk.one()
    assert (found.state, found.closed_by) == ("closed", SYSTEM)
    assert await desk.changes(found) == ["opened", "closed"]
    desk.standing = {"a"}
    await desk.look(1)
    assert [i.state for i in await desk.all()] == ["closed", "open"]


async def test_nothing_is_over_while_its_source_does_not_answer(desk: Desk) -> None:
    await desk.policy(acknowledge_within_s=None, escalate_to=[])
    desk.standing = {"a"}
    await desk.look()
    desk.blind, desk.standing = True, set()
    await desk.look(10_000)
    assert (await desk.one()).state == "open"
    desk.blind = False
    await desk.look(1)
    assert (await desk.one()).state == "closed"


async def test_an_open_incident_keeps_the_rule_it_was_opened_by(desk: Desk) -> None:
    policy = await desk.policy()
    desk.standing = {"a"}
    await desk.look()
    await desk.policies.delete(TENANT, policy.id)
    await desk.look(100)
    assert (await desk.one()).owner == "second"
    desk.standing = set()
    await desk.look(50)
    assert (await desk.one()).state == "closed"


async def test_what_is_closed_by_hand_takes_no_further_change(desk: Desk) -> None:
    await desk.policy(action="reembed", vector_store_id="vs_1", approval=True)
    desk.standing = {"a"}
    await desk.look()
    incidents, call = desk.gateways[1], call_of("key:jane")
    found = await desk.one()
    closed = await incidents.close(call, found.id, "A test of the alarm.")
    assert (closed.state, closed.closed_by, closed.action) == ("closed", "key:jane", "dropped")
    for again in (
        incidents.acknowledge(call, found.id),
        incidents.approve(call, found.id),
        incidents.close(call, found.id, "Twice."),
    ):
        with pytest.raises(Conflict):
            await again
    with pytest.raises(NotFound):
        await incidents.get("another", found.id)


async def test_an_action_waits_for_approval_and_begins_once(desk: Desk) -> None:
    await desk.policy(action="reembed", vector_store_id="vs_1", approval=True)
    desk.standing = {"a"}
    await desk.look()
    await desk.look(1)
    found = await desk.one()
    assert (found.action, desk.begun) == ("waiting", [])
    await desk.gateways[0].approve(call_of("key:jane"), found.id)
    await desk.look(1)
    await desk.look(1)
    found = await desk.one()
    assert found.action == "started"
    assert desk.begun == [("vector_store/vs_1", found.job_id)]
    with pytest.raises(Conflict, match="waits"):
        await desk.gateways[0].approve(call_of("key:jane"), found.id)
    assert await desk.changes(found) == ["opened", "approved", "action_started"]


async def test_a_target_is_acted_on_once_a_cool_down(desk: Desk) -> None:
    await desk.policy(action="reembed", vector_store_id="vs_1", acknowledge_within_s=None)
    desk.standing = {"a", "b"}
    await desk.look()
    assert sorted(i.action or "" for i in await desk.all()) == ["due", "started"]
    await desk.look(999)
    assert len(desk.begun) == 1
    await desk.look(1)
    assert [target for target, _ in desk.begun] == 2 * ["vector_store/vs_1"]
    assert [i.action for i in await desk.all()] == ["started", "started"]


async def test_an_action_whose_gateway_died_is_begun_again_under_the_same_job(desk: Desk) -> None:
    await desk.policy(action="reembed", vector_store_id="vs_1")
    desk.standing, desk.fails_at_begin = {"a"}, [RuntimeError("killed")]
    await desk.look()
    assert (await desk.one()).action == "starting"
    await desk.look(LOST_S - 1)
    assert len(desk.begun) == 1
    await desk.look(1)
    found = await desk.one()
    assert (found.action, desk.begun) == ("started", 2 * [("vector_store/vs_1", found.job_id)])


async def test_a_model_is_not_taken_back_twice_when_nobody_knows_whether_it_was(
    desk: Desk,
) -> None:
    await desk.policy(action="fall_back", model="m")
    desk.standing, desk.fails_at_begin = {"a"}, [RuntimeError("killed")]
    await desk.look()
    await desk.look(LOST_S)
    found = await desk.one()
    assert (found.action, found.action_error, found.job_id) == ("failed", UNSURE[:300], None)
    assert desk.begun == [("model/m", desk.begun[0][1])]


async def test_an_action_that_cannot_be_done_says_why(desk: Desk) -> None:
    await desk.policy(action="fall_back", vector_store_id="vs_1")
    desk.standing, desk.fails_at_begin = {"a"}, [Conflict("There is no earlier build.")]
    await desk.look()
    found = await desk.one()
    assert (found.action, found.action_error) == ("failed", "There is no earlier build.")
    assert await desk.changes(found) == ["opened", "action_failed"]
