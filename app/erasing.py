"""Every place where data of a person can lie, in the order in which an erasure goes through."""

from __future__ import annotations

from app.gateway.idempotency import Idempotency
from app.gateway.keys import KeyStore
from app.gateway.person import Person
from app.llm.batch_erasure import BatchErasure
from app.llm.cache import ReplyCache
from app.llm.responses import Responses
from app.monitoring.erasure import Erasures, Place
from app.monitoring.person_records import PersonRecords
from app.monitoring.removal import Removal
from app.retrieval.erasing import RetrievalErasure
from app.settings import Settings
from app.store.db import Database
from app.store.jobs import Jobs

UNFOUND = (
    "Texts of other people's calls, files and passages that speak of the person: they are found "
    "by whose they are, not by what they say.",
    "Response caches in the memory of other gateways: they are forgotten after their time, or at "
    "a restart. With Redis they were cleared.",
    "Vectors in sealed segments: a removed passage is never found again, and its vector goes with "
    "the next compaction of its store.",
    "Who stored or assigned a guardrail policy: its versions keep the subject of their author.",
    "The internal history of durable jobs, which has the subject that began a job; logs; exports, "
    "checkpoints and backups that were made before.",
    "Replies that were kept under an idempotency key before revision 0013: they go a day after.",
)


def open_erasures(
    settings: Settings,
    db: Database,
    jobs: Jobs,
    keys: KeyStore,
    idempotency: Idempotency,
    cache: ReplyCache,
    responses: Responses,
    retrieval: RetrievalErasure,
    removal: Removal,
) -> Erasures:
    """The service over the places of all rooms."""
    records, batches = PersonRecords(db, removal), BatchErasure(db, jobs)

    async def count_keys(person: Person) -> int:
        return 0 if person.user is None else len(await keys.keys_of(person.tenant_id, person.user))

    async def forget_keys(person: Person, _: str) -> int:
        return 0 if person.user is None else await keys.forget_user(person.tenant_id, person.user)

    places = (
        Place("api_keys", "keys of the user: revoked, name removed", count_keys, forget_keys),
        Place(
            "batches",
            "batches and the answers to their lines",
            batches.count_of,
            lambda person, _: batches.erase_of(person),
        ),
        Place(
            "responses",
            "kept responses with their inputs",
            responses.count_of,
            lambda person, _: responses.erase_of(person),
        ),
        Place(
            "idempotency",
            "replies kept under an Idempotency-Key",
            idempotency.count_of,
            lambda person, _: idempotency.erase_of(person),
        ),
        Place(
            "response_cache",
            "the whole cache: it does not know whose a reply is",
            lambda _: cache.count(),
            lambda _, __: cache.clear(),
            lambda _: cache.survivors(),
        ),
        Place(
            "passages",
            "passages, words and vectors of the person's files",
            retrieval.count_passages,
            lambda person, _: retrieval.remove_passages(person),
        ),
        Place(
            "files",
            "files with their bytes, those of batches too",
            retrieval.count_files,
            lambda person, _: retrieval.remove_files(person),
        ),
        Place(
            "connectors",
            "the name on connectors and the documents that they follow",
            retrieval.count_connectors,
            lambda person, _: retrieval.remove_connectors(person),
        ),
        Place(
            "access_lists",
            "the name in access lists of files in vector stores",
            retrieval.count_access,
            lambda person, _: retrieval.remove_access(person),
        ),
        Place(
            "audit_bodies",
            "texts kept with audit records; a signed statement stays",
            records.count_bodies,
            records.remove_bodies,
        ),
        Place(
            "audit_records",
            "records of the person's calls: who called what and when, without texts; they prove "
            "what the gateway did, and go by the retention of records",
            records.count,
        ),
        Place(
            "source_access_lists",
            "access lists that a source or a connector gives at each sync: change them there",
            retrieval.count_source_lists,
        ),
    )
    unfound = list(UNFOUND)
    sub_is_user = settings.oidc_user_claim == "sub"
    if not sub_is_user:
        unfound.append(
            "Audit records of tokens from before revision 0013, which held the token's `sub` but "
            f"not its `{settings.oidc_user_claim}`: ask once more with the subject."
        )
    return Erasures(db, jobs, keys, places, unfound, sub_is_user)
