"""Opens state, engines and services, top to bottom, and closes them in the reverse order."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from app.alerting import open_alerting
from app.auditing import open_auditing
from app.erasing import open_erasures
from app.gateway.budgets import Budgets
from app.gateway.corridor import Corridor
from app.gateway.idempotency import Idempotency
from app.gateway.identity import Identity
from app.gateway.inside import Inside
from app.gateway.limits import Limits, make_counters, spent_since
from app.gateway.oidc import OidcVerifier
from app.gateway.streams import make_streams
from app.guardrails.in_force import InForce
from app.guardrails.library import Library
from app.guardrails.pii import PiiDetector
from app.guardrails.policy import load_policy
from app.guardrails.service import Guardrails
from app.guardrails.tokens import Tokens
from app.guardrails.topics import Topics
from app.llm import weights
from app.llm.answer import Answers
from app.llm.answer_checks import AnswerChecks
from app.llm.batches import Batches
from app.llm.cache import ReplyCache
from app.llm.cache_store import make_cache
from app.llm.chat import Chat
from app.llm.completions import Completions
from app.llm.conversations import Conversations
from app.llm.fleet import Fleet
from app.llm.groundedness import Groundedness
from app.llm.relay import Relay
from app.llm.responses import Responses
from app.llm.rewriting import Rewriter
from app.llm.rollouts import Rollouts
from app.llm.router import Router
from app.llm.same_question import Embed
from app.llm.samples import Samples
from app.llm.server import VllmServer, find_python
from app.llm.trial import Trials
from app.llm.upstream import Upstream
from app.monitoring.audit import AuditLog
from app.monitoring.cost import Prices
from app.monitoring.cost_parts import PartPrices
from app.monitoring.drift import DriftMonitor
from app.monitoring.drift_looks import DriftLooks
from app.monitoring.metrics import Metrics
from app.monitoring.storage_cost import StorageCharges
from app.monitoring.usage import Usage
from app.observing import drift_rules, job_watch, keep_counts, open_tracing
from app.periodic import forever
from app.pools import Pool
from app.retrieval.builds import Builds
from app.retrieval.collections import VectorStores
from app.retrieval.connectors.connectors import Connectors
from app.retrieval.connectors.declared import DeclaredSources
from app.retrieval.connectors.documents import Documents
from app.retrieval.connectors.schedule import Schedule
from app.retrieval.connectors.sync import Sync
from app.retrieval.connectors.watch import FolderWatch
from app.retrieval.engines.choice import Engines
from app.retrieval.erasing import RetrievalErasure
from app.retrieval.files import FileService
from app.retrieval.ingestion import Ingestion
from app.retrieval.parsers.apart import end_idle
from app.retrieval.search import Searches
from app.retrieval.store_files import StoreFiles
from app.retrieval.stored import stored
from app.retrieval_models import open_models, open_rankers
from app.services import Services
from app.settings import Settings
from app.store.blobs import Blobs
from app.store.db import Database
from app.store.durable import make_secret, secret_draft, settle
from app.store.jobs import Jobs
from app.store.migrate import migrate

log = logging.getLogger("ostiary")
FLUSH_DRIFT_S = 15.0
LOOK_FOR_SYNCS_S = 3.0
FLUSH_SAMPLES_S = 2.0
FOLLOW_FLEET_S = 5.0  # changes made through other gateways
FOLLOW_POLICIES_S = 2.0
FORGET_S = 300.0  # pseudonyms of kept responses whose time is over
FOLLOW_BUDGETS_S = 2.0
LOOK_FOR_STORAGE_S = 60.0


async def open_services(settings: Settings, stack: AsyncExitStack) -> tuple[Services, Corridor]:
    """Return everything a route needs; ``stack`` closes it."""
    data = settings.data_dir
    data.mkdir(parents=True, exist_ok=True)
    # most of this is outside of the interpreter's lock, so it goes on beside what follows
    loading = asyncio.create_task(open_models(settings))
    stack.callback(loading.cancel)

    # state
    db = Database(settings.sql_url)
    stack.push_async_callback(db.close)
    await asyncio.to_thread(migrate, db)
    blobs = Blobs(settings.blob_url or str((data / "files").absolute()))
    jobs = Jobs(db, settings.jobs_url, settings.instance, concurrency=settings.cpu_threads)

    # the corridor
    metrics = Metrics()
    tracing = open_tracing(settings, stack)
    jobs.watch = job_watch(metrics, tracing)
    audit = AuditLog(db)
    audit.watch = metrics.audit_group
    audit.start()
    stack.callback(audit.close)
    auditing = await asyncio.to_thread(open_auditing, settings, db, jobs)
    identity = Identity(db, _oidc(settings))
    given = settings.bootstrap_admin_key
    made = await identity.bootstrap(given.get_secret_value() if given else None)
    if made is not None:
        key_file = data / "admin.key"
        settle(secret_draft(key_file, made.encode()), key_file)
        log.warning("made the first admin key; it is in admin.key")
    budgets = Budgets(
        db,
        count=lambda level: metrics.budget_alerts.labels(str(level)).inc(),
        spent=metrics.budgets_spent.set,
    )
    await budgets.look()
    limits = Limits(
        make_counters(settings.redis_url),
        make_streams(settings.redis_url),
        rpm=settings.rate_rpm,
        tpm=settings.rate_tpm,
        tenant_rpm=settings.tenant_rate_rpm,
        max_streams=settings.max_streams,
        budget_usd_per_day=settings.budget_usd_per_day,
        spent=spent_since(db),
        budget_of=identity.budget_of,
        budgets=budgets,
    )
    key = _guardrail_key(settings, data)
    idempotency = Idempotency(
        db, settings.instance, lambda tenant, kept, of: Tokens(key, tenant).disclosed(kept, of)
    )
    await idempotency.recover()
    prices = Prices(
        settings.price_prompt_usd_per_mtok,
        settings.price_completion_usd_per_mtok,
        settings.price_embedding_usd_per_mtok,
        busy_s=lambda model: router.busy_s(model),
        parts=PartPrices(
            settings.price_search_usd_per_k,
            settings.price_retrieval_usd_per_cpu_hour,
            settings.price_reranking_usd_per_k,
            settings.price_guardrails_usd_per_cpu_hour,
            settings.price_storage_usd_per_gb_day,
        ),
    )
    storage = StorageCharges(audit, prices.parts, partial(stored, db), limits.committed)
    drift = DriftMonitor(db, drift_rules(settings))
    stack.push_async_callback(drift.flush)
    policy = load_policy(settings.guardrail_policy)
    detector = await asyncio.to_thread(PiiDetector, settings.ner_models)
    in_force = InForce(db, policy, detector.warm, embeds=settings.embedded_retrieval)
    await in_force.prepare(policy)
    await in_force.sync()
    corridor = Corridor(
        identity,
        limits,
        idempotency,
        prices,
        drift,
        audit,
        metrics,
        choose=in_force.choose,
        max_json_bytes=settings.max_json_bytes,
        max_file_bytes=settings.max_file_bytes,
        keep_bodies=settings.audit_bodies,
        tracing=tracing,
    )
    metrics.live.budgets = limits.budget_states
    auditing.retention.govern = corridor.govern

    # guardrails
    ner_pool = _pool(stack, metrics, "ner", 1)
    dry_run_pool = _pool(stack, metrics, "dry_run", 1, queue=64)
    guardrails = Guardrails(
        policy, detector, ner_pool, settings.audit_bodies, key, beside=dry_run_pool
    )

    # the model server
    server, upstream = _model_server(settings, lambda: router.look_again())
    router = Router(
        {settings.llm_model: upstream},
        most=settings.llm_max_concurrent,
        queue=settings.llm_queue,
        queue_s=settings.llm_queue_s,
    )
    metrics.live.queues, metrics.live.servers = router.waiting, router.deployments
    metrics.serves = lambda model: router.serves(model) or model in stores.models
    if server is not None:
        await server.start()
        stack.push_async_callback(server.stop)
    await router.start()
    stack.push_async_callback(router.stop)

    # retrieval
    query_pool = _pool(stack, metrics, "query", settings.cpu_threads)
    work_pool = _pool(stack, metrics, "ingest", settings.cpu_threads, queue=100_000)
    models, scorer = await loading
    for model in models.values():
        stack.push_async_callback(model.aclose)
    if models:
        metrics.watch_pool("embed", lambda: sum(m.waiting for m in models.values()))
    stores = VectorStores(
        db,
        models,
        query_pool,
        work_pool,
        data / "indexes",
        _engines(settings),
        settings.language,
    )
    stack.push_async_callback(stores.close)
    stack.callback(end_idle)  # readers of documents
    rankers = open_rankers(scorer, settings.cpu_threads)
    stack.callback(rankers.close)
    metrics.watch_pool("rerank", lambda: rankers.queued)
    searches = Searches(db, stores, query_pool, rankers)
    files = FileService(db, blobs, settings.max_file_bytes)
    attached = StoreFiles(db, stores)
    ingestion = Ingestion(jobs, files, stores, attached, work_pool, data / "scratch")
    builds = Builds(db, stores, jobs, work_pool, settings.recall_target)
    schedule = Schedule(db, jobs)
    declared = DeclaredSources(settings.sources, identity.find_tenant)
    documents = Documents(db, files, stores, attached, ingestion, data / "scratch")
    sync = Sync(db, jobs, stores, declared, schedule, documents)
    ingestion.govern = builds.govern = sync.govern = corridor.govern

    # answers
    topics = Topics(lambda: cache.embedder())
    guardrails.topics = topics
    checks = AnswerChecks(guardrails, topics)
    rewriting = settings.llm_model if settings.rewrite == "model" else None
    rewriter = Rewriter(router, guardrails, rewriting)
    answers = None
    if scorer is not None:
        answers = Answers(
            searches,
            rewriter,
            router,
            guardrails,
            scorer,
            query_pool,
            settings.answer_gate,
            checks,
            Groundedness(scorer, topics.vectors, query_pool),
        )

    def embed_questions() -> tuple[Embed, str] | None:
        first = next(iter(stores.models.values()), None)
        return None if first is None else (first.embed_passages, first.fingerprint)

    cache = ReplyCache(
        make_cache(settings.redis_url, settings.cache_mb * 2**20), router.servers, embed_questions
    )
    stack.push_async_callback(cache.close)
    relay = Relay(router, guardrails, checks, prices, cache)
    inside = Inside("batch")
    batches = Batches(
        db,
        jobs,
        files,
        inside,
        identity.require_valid,
        at_once=settings.batch_calls,
        longest_line=settings.max_json_bytes,
    )
    batches.govern = corridor.govern

    samples = Samples(db)
    router.trials = Trials(samples, prices, cache.embedder)
    stack.push_async_callback(samples.flush)
    stack.push_async_callback(router.trials.close)
    fleet = Fleet(
        db,
        router,
        prices,
        cache,
        lambda: [*stores.models, *rankers.names],
        settings.llm_timeout_s,
        settings.llm_max_concurrent,
    )
    await fleet.sync()
    stack.push_async_callback(fleet.close)

    conversations = Conversations(db, guardrails, settings.pseudonym_days)
    responses = Responses(db, router, guardrails, checks, answers, relay, prices, conversations)
    rollouts = Rollouts(db, router, fleet, samples)
    looks = DriftLooks(drift)
    alerting = open_alerting(
        settings, stack, db, jobs, key, looks, schedule, budgets, builds, rollouts
    )
    alerting.incidents.govern = corridor.govern
    erasing = RetrievalErasure(db, stores, files, attached)
    erasures = open_erasures(
        settings, db, jobs, identity, idempotency, cache, responses, erasing, auditing.removal
    )
    erasures.govern = corridor.govern

    await jobs.start()
    stack.push_async_callback(jobs.close)
    if models:
        await jobs.resume_lost()
        await ingestion.resume()
    await batches.resume()
    await erasures.resume()
    auditing.begin(stack)
    alerting.begin(stack)
    flushing = asyncio.create_task(forever(drift.flush, FLUSH_DRIFT_S))
    stack.callback(flushing.cancel)
    following = asyncio.create_task(forever(fleet.sync, FOLLOW_FLEET_S))
    stack.callback(following.cancel)
    obeying = asyncio.create_task(forever(in_force.sync, FOLLOW_POLICIES_S))
    stack.callback(obeying.cancel)
    forgetting = asyncio.create_task(forever(conversations.forget_old, FORGET_S, at_once=True))
    stack.callback(forgetting.cancel)
    counting = asyncio.create_task(forever(budgets.look, FOLLOW_BUDGETS_S))
    stack.callback(counting.cancel)
    storing = asyncio.create_task(forever(storage.look, LOOK_FOR_STORAGE_S, at_once=True))
    stack.callback(storing.cancel)
    sampling = asyncio.create_task(forever(samples.flush, FLUSH_SAMPLES_S))
    stack.callback(sampling.cancel)
    keep_counts(stack, metrics, jobs, attached, looks)
    if models:

        async def look_for_syncs() -> None:
            metrics.connectors_not_fresh.set(await schedule.look())

        looking = asyncio.create_task(forever(look_for_syncs, LOOK_FOR_SYNCS_S))
        stack.callback(looking.cancel)
        watching = FolderWatch(settings.sources, schedule.wake)
        watching.start()
        stack.push_async_callback(asyncio.to_thread, watching.stop)

    def llm_state() -> str:
        if router.available(settings.llm_model):
            return "ready"
        return "down" if server is None or server.state == "ready" else server.state

    services = Services(
        settings=settings,
        db=db,
        identity=identity,
        guardrails=guardrails,
        policies=Library(db, in_force),
        in_force=in_force,
        audit=audit,
        auditing=auditing,
        alerting=alerting,
        erasures=erasures,
        usage=Usage(db),
        budgets=budgets,
        drift=drift,
        metrics=metrics,
        jobs=jobs,
        files=files,
        vector_stores=stores,
        store_files=attached,
        rankers=rankers,
        searches=searches,
        ingestion=ingestion,
        builds=builds,
        connectors=Connectors(db, stores, declared, schedule),
        router=router,
        fleet=fleet,
        rollouts=rollouts,
        rewriter=rewriter,
        chat=Chat(router, guardrails, checks, answers, relay),
        batches=batches,
        inside=inside,
        completions=Completions(router, guardrails, checks, relay),
        responses=responses,
        llm_state=llm_state,
    )
    return services, corridor


def _oidc(settings: Settings) -> OidcVerifier | None:
    issuer, audience, jwks = (
        settings.oidc_issuer,
        settings.oidc_audience,
        settings.oidc_jwks_url,
    )
    if not issuer and not audience and not jwks:
        return None
    if not (issuer and audience and jwks):
        raise ValueError("OIDC needs OSTIARY_OIDC_ISSUER, _AUDIENCE and _JWKS_URL together")
    return OidcVerifier(
        issuer,
        audience,
        jwks,
        settings.oidc_tenant_claim,
        settings.oidc_scope_claim,
        user_claim=settings.oidc_user_claim,
        groups_claim=settings.oidc_groups_claim,
    )


def _guardrail_key(settings: Settings, data: Path) -> bytes:
    """The secret of hashed and encrypted values: the configured one, else one made once."""
    if settings.guardrail_key is not None:
        return settings.guardrail_key.get_secret_value().encode()
    path = data / "guardrails.key"
    if not path.exists():
        make_secret(path, secrets.token_urlsafe(48).encode())
    return path.read_bytes()


def _pool(
    stack: AsyncExitStack, metrics: Metrics, name: str, threads: int, queue: int = 1024
) -> Pool:
    pool = Pool(name, threads, queue)
    metrics.watch_pool(name, lambda: pool.waiting)
    stack.callback(pool.close)
    return pool


def _model_server(
    settings: Settings, on_ready: Callable[[], None]
) -> tuple[VllmServer | None, Upstream]:
    """The embedded server and the client of it, or of the configured one."""
    if settings.llm_url:
        key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
        return None, Upstream(settings.llm_url, key, timeout_s=settings.llm_timeout_s)
    python = find_python(settings.vllm_python, settings.data_dir)
    if not settings.llm_embedded:
        python = None
    out = settings.data_dir / "models" / settings.llm_model

    def prepare() -> Path:
        assert python is not None
        return weights.convert(weights.packaged_gguf(), out, python)

    server = VllmServer(
        python=python,
        prepare=prepare,
        served_name=settings.llm_model,
        run_dir=settings.data_dir / "vllm",
        max_model_len=settings.llm_max_model_len,
        on_ready=on_ready,
    )
    # without vLLM the name stays known: grounded answers are then quoted from the passages
    return server, Upstream(server.url, server.api_key, timeout_s=settings.llm_timeout_s)


def _engines(settings: Settings) -> Engines:
    token = settings.milvus_token
    return Engines(
        default=settings.vector_engine,
        recall_target=settings.recall_target,
        recipe=settings.vector_recipe,
        segments_url=settings.segments_url,
        milvus_url=settings.milvus_url,
        milvus_token=token.get_secret_value() if token else None,
    )
