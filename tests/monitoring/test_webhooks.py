"""Webhooks: signed as Standard Webhooks says, sent until taken, and only where they may go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy import select
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from app.errors import BadRequest, Conflict, NotFound
from app.monitoring.webhook_outbox import GIVE_UP_S, LEASE_S, WebhookOutbox, pause_s
from app.monitoring.webhook_post import Undelivered, WebhookPost
from app.monitoring.webhooks import Delivery, Webhooks
from app.store.db import Database
from app.store.models_incidents import webhook_deliveries, webhooks
from tests.monitoring.desk import TENANT, Desk, call_of
from tests.monitoring.receiver import Receiver, receiving


@dataclass
class Line:
    """A desk whose incidents are told to a receiver."""

    desk: Desk
    receiver: Receiver
    webhooks: Webhooks
    outbox: WebhookOutbox
    post: WebhookPost
    id: str
    secret: str

    async def deliveries(self) -> list[Delivery]:
        page = await self.webhooks.deliveries(TENANT, self.id, None, limit=100, order="asc")
        return page.rows

    async def stir(self) -> None:
        """Open an incident, which is one message."""
        await self.desk.policy(webhook_id=self.id)
        self.desk.standing = {"a"}
        await self.desk.look()


@asynccontextmanager
async def line_of(desk: Desk, receiver: Receiver) -> AsyncIterator[Line]:
    post, webhooks = desk.sending(receiver.origin)
    made, secret = await webhooks.create(call_of("key:admin"), f"{receiver.origin}/in", "desk")
    yield Line(desk, receiver, webhooks, desk.outbox(post, webhooks), post, made.id, secret)
    await post.aclose()


@pytest.fixture
async def line(incident_db: Database) -> AsyncIterator[Line]:
    desk = Desk(incident_db)
    with receiving() as receiver:
        async with line_of(desk, receiver) as line:
            yield line
    await desk.forget()
    await line.webhooks.delete(TENANT, line.id)


async def test_each_change_of_an_incident_is_told_once_and_signed(line: Line) -> None:
    await line.stir()
    await line.desk.look(100)  # it escalates
    found = await line.desk.one()
    await line.desk.gateways[0].acknowledge(call_of("key:jane"), found.id)
    line.desk.standing = set()
    await line.desk.look(50)
    while await line.outbox.deliver():
        pass
    events = [message.verified(line.secret) for message in line.receiver.messages]
    assert sorted(event["type"] for event in events) == [
        "incident.acknowledged",
        "incident.closed",
        "incident.escalated",
        "incident.opened",
    ]
    escalated = next(e for e in events if e["type"] == "incident.escalated")
    told = {name: escalated["data"][name] for name in ("id", "subject", "severity", "owner")}
    assert told == {"id": found.id, "subject": "a", "severity": "medium", "owner": "second"}
    assert escalated["data"]["change"] == {
        "by": "system:incidents",
        "from": "first",
        "to": "second",
    }
    assert len({message.id for message in line.receiver.messages}) == 4
    done = {(d.status, d.attempts, d.error) for d in await line.deliveries()}
    assert done == {("delivered", 1, None)}


async def test_a_message_that_was_changed_or_signed_by_another_is_no_message(line: Line) -> None:
    await line.stir()
    await line.outbox.deliver()
    (message,) = line.receiver.messages
    message.verified(line.secret)
    with pytest.raises(WebhookVerificationError):
        Verifier(line.secret).verify(message.body + b" ", message.headers)
    with pytest.raises(WebhookVerificationError):
        message.verified("whsec_" + "A" * 43 + "=")


async def test_what_a_receiver_does_not_take_is_sent_again_under_the_same_id(line: Line) -> None:
    line.receiver.answers = [(500, {}), (302, {"location": f"{line.receiver.origin}/else"})]
    await line.stir()
    assert await line.outbox.deliver() == 1
    assert await line.outbox.deliver() == 0  # not before its time
    (waiting,) = await line.deliveries()
    assert (waiting.status, waiting.attempts) == ("pending", 1)
    assert waiting.error == "The receiver answered 500; 2xx was expected."
    line.desk.now += 2
    assert await line.outbox.deliver() == 1  # a redirect is not followed
    line.desk.now += 4
    assert await line.outbox.deliver() == 1
    assert len(line.receiver.messages) == 3
    assert len({(m.id, m.body) for m in line.receiver.messages}) == 1
    (done,) = await line.deliveries()
    assert (done.status, done.attempts, done.error) == ("delivered", 3, None)
    times = [int(m.headers["webhook-timestamp"]) for m in line.receiver.messages]
    assert [at - times[0] for at in times] == [0, 2, 6]


async def test_two_gateways_do_not_send_a_message_side_by_side(line: Line) -> None:
    await line.stir()
    other = line.desk.outbox(line.post, line.webhooks)
    assert sum(await asyncio.gather(line.outbox.deliver(), other.deliver())) == 1
    assert len(line.receiver.messages) == 1


async def test_an_attempt_that_a_kill_cut_is_made_again(line: Line) -> None:
    await line.stir()

    class Killed(BaseException):
        pass

    class Dying(WebhookPost):
        async def send(self, url: str, body: bytes, headers: dict[str, str]) -> None:
            raise Killed

    dying = Dying([line.receiver.origin], private=True)
    await line.desk.outbox(dying, line.webhooks).deliver()
    line.desk.now += LEASE_S - 1
    assert await line.outbox.deliver() == 0
    line.desk.now += 1
    assert await line.outbox.deliver() == 1
    (done,) = await line.deliveries()
    assert (done.status, done.attempts) == ("delivered", 2)


@pytest.mark.parametrize(("status", "after_s"), [(410, 0.0), (500, GIVE_UP_S)])
async def test_a_receiver_that_is_gone_or_silent_for_days_is_given_up(
    line: Line, status: int, after_s: float
) -> None:
    line.receiver.answers = [(status, {})]
    await line.stir()
    line.desk.now += after_s
    await line.outbox.deliver()
    (over,) = await line.deliveries()
    assert (over.status, over.attempts) == ("failed", 1)


async def test_for_the_grace_period_both_secrets_sign_and_then_the_new_one_alone(
    line: Line,
) -> None:
    _, new = await line.webhooks.rotate(TENANT, line.id, 60)
    await line.stir()
    await line.outbox.deliver()
    message = line.receiver.messages[-1]
    assert message.verified(line.secret) == message.verified(new)
    line.desk.now += 61
    await line.desk.gateways[0].acknowledge(call_of("key:jane"), (await line.desk.one()).id)
    await line.outbox.deliver()
    message = line.receiver.messages[-1]
    message.verified(new)
    with pytest.raises(WebhookVerificationError):
        message.verified(line.secret)


async def test_a_secret_lies_encrypted_and_is_bound_to_its_webhook(line: Line) -> None:
    made, secret = await line.webhooks.create(call_of("key:admin"), f"{line.receiver.origin}/b", "")
    async with line.desk.db.read() as connection:
        rows = {r.id: r.secret for r in await connection.execute(select(webhooks))}
    for row in rows.values():
        assert secret.encode() not in row and line.secret.encode() not in row
    async with line.desk.db.write() as connection:
        await connection.execute(
            webhooks.update().where(webhooks.c.id == line.id).values(secret=rows[made.id])
        )
    await line.stir()
    await line.outbox.deliver()
    assert line.receiver.messages == []
    (waiting,) = await line.deliveries()
    assert "OSTIARY_GUARDRAIL_KEY" in (waiting.error or "")
    await line.webhooks.delete(TENANT, made.id)


async def test_a_webhook_that_a_policy_names_stays_and_one_that_is_gone_is_sent_nothing(
    line: Line,
) -> None:
    await line.stir()
    with pytest.raises(Conflict):
        await line.webhooks.delete(TENANT, line.id)
    (policy,) = await line.desk.policies.of(TENANT)
    await line.desk.policies.delete(TENANT, policy.id)
    made, _ = await line.webhooks.create(call_of("key:admin"), f"{line.receiver.origin}/b", "")
    async with line.desk.db.write() as connection:
        await connection.execute(webhook_deliveries.update().values(webhook_id=made.id))
    await line.webhooks.delete(TENANT, made.id)
    assert await line.outbox.deliver() == 0
    with pytest.raises(NotFound):
        await line.webhooks.get(TENANT, made.id)


PORT = 8765  # nobody is asked
HERE = f"http://127.0.0.1:{PORT}"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/in",
        f"https://127.0.0.1:{PORT}/in",
        f"http://127.0.0.2:{PORT}/in",
        f"http://user:word@127.0.0.1:{PORT}/in",
        f"http://127.0.0.1:{PORT}@169.254.169.254/in",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost/in",
        "ftp://127.0.0.1/in",
        "http://[::1/in",
        "no address",
    ],
)
def test_an_address_that_the_operator_does_not_name_is_refused(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        WebhookPost([HERE], private=True).admit(url)
    assert refused.value.param == "url"


async def test_a_named_origin_inside_a_network_takes_a_word_of_the_operator() -> None:
    with receiving() as receiver:
        for host in ("127.0.0.1", "localhost"):
            origin = f"http://{host}:{receiver.port}"
            closed, opened = (WebhookPost([origin], private=p) for p in (False, True))
            with pytest.raises((Undelivered, BadRequest), match="OSTIARY_WEBHOOK_PRIVATE"):
                await closed.send(f"{origin}/in", b"{}", {})
            await opened.send(f"{origin}/in", b"{}", {})
            await closed.aclose()
            await opened.aclose()
        assert len(receiver.messages) == 2
    never = WebhookPost(["http://169.254.169.254"], private=True)
    with pytest.raises(BadRequest):
        never.admit("http://169.254.169.254/latest/meta-data")


def test_pauses_double_up_to_an_hour_and_are_spread() -> None:
    for attempts in range(1, 60):
        longest = min(3600.0, 2.0**attempts)
        assert all(0.75 * longest <= pause_s(attempts) <= longest for _ in range(20))
