"""Every SQL table; each belongs to the room named above it."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from app.store import models_audit as models_audit  # its tables are of the same metadata
from app.store import models_cost as models_cost
from app.store import models_drift as models_drift
from app.store import models_incidents as models_incidents
from app.store.tables import Id
from app.store.tables import metadata as metadata

# gateway: identity ---------------------------------------------------------------------
tenants = Table(
    "tenants",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("disabled_at", Float),
    Column("budget_usd_per_day", Float),
)
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, ForeignKey("tenants.id"), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("secret_hash", String(64), nullable=False),  # SHA-256 of the random secret, hex
    Column("scopes", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("rotated_to", Id),
    Column("rate_rpm", Integer),
    Column("rate_tpm", Integer),
    Column("user", String(256)),  # whom access lists know by this name
    Column("groups", JSON),
    Column("first_id", Id),  # of the first key of a chain of rotations; null: this one
    Column("max_streams", Integer),
    Column("budget_usd_per_day", Float),
    Column("tags", JSON),  # of all calls with it
)

# gateway: idempotency ------------------------------------------------------------------
idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),  # SHA-256 of route and body
    Column("owner", String(128), nullable=False),  # the gateway process that runs it
    Column("done", Boolean, nullable=False),
    Column("status", Integer),
    Column("headers", JSON),
    Column("body", LargeBinary),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
    Column("caller", String(300), index=True),  # whose reply it is; null: from before
)

# monitoring: audit; what belongs to it is in models_audit.py ----------------------------
audit_heads = Table(
    "audit_heads",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    # records after it hold no bodies in themselves, only their hash
    Column("inline_until", BigInteger, nullable=False, server_default="0"),
)
audit = Table(
    "audit",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("call_id", Id, nullable=False, unique=True),
    Column("request_id", String(128), nullable=False, index=True),
    Column("at", Float, nullable=False, index=True),
    Column("key_id", Id),
    Column("route", String(200), nullable=False),
    Column("model", String(200)),
    Column("status", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("embedding_tokens", BigInteger, nullable=False),
    Column("cost_nano_usd", BigInteger, nullable=False),
    Column("costs", Text),  # JSON, nano-USD by component; null: from before there were any
    Column("tags", Text),  # JSON; null: none
    Column("record", Text, nullable=False),  # canonical JSON, the bytes that are hashed
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

# retrieval -----------------------------------------------------------------------------
files = Table(
    "files",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False, index=True),
    Column("filename", String(500), nullable=False),
    Column("purpose", String(40), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("blob", String(200), nullable=False),  # key in the blob store
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("deleted_at", Float),
    # SHA-256 of tenant, owner and Idempotency-Key: a retry after a crash finds the file it made
    Column("upload_key", String(64), index=True, unique=True),
    Column("owner", String(300)),  # who uploaded it; null: before there were owners
)
vector_stores = Table(
    "vector_stores",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False, index=True),
    Column("name", String(256)),
    Column("description", String(1000)),
    Column("metadata", JSON, nullable=False),
    Column("embedding_model", String(200), nullable=False),
    Column("dim", Integer, nullable=False),
    Column("engine", String(20), nullable=False, server_default="faiss"),
    # which of its index builds is searched; engine, model and dim are those of this build
    Column("build", Id, nullable=False, server_default="original"),
    Column("embedding_version", String(64)),  # fingerprint of the model; unknown in old rows
    Column("chunking", JSON, nullable=False),
    Column("version", BigInteger, nullable=False),  # grows with every change of the contents
    Column("created_at", Float, nullable=False),
    Column("last_active_at", Float, nullable=False),
    Column("expires_after_days", Integer),
    Column("deleted_at", Float),
)
vector_store_files = Table(
    "vector_store_files",
    metadata,
    Column("vector_store_id", Id, ForeignKey("vector_stores.id"), primary_key=True),
    Column("file_id", Id, ForeignKey("files.id"), primary_key=True),
    Column("status", String(20), nullable=False),  # in_progress, completed, failed, cancelled
    Column("attributes", JSON, nullable=False),
    # {"users": [...], "groups": [...]}; null: whoever may search the store
    Column("access", JSON(none_as_null=True)),
    Column("replaces", Id),  # the file that goes as soon as this one is searchable
    Column("chunking", JSON, nullable=False),
    Column("last_error", JSON),
    Column("usage_bytes", BigInteger, nullable=False),
    Column("batch_id", Id, index=True),
    Column("job_id", Id),
    Column("created_at", Float, nullable=False),
    Index("ix_vector_store_files_status", "vector_store_id", "status"),
)
file_batches = Table(
    "file_batches",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("vector_store_id", Id, ForeignKey("vector_stores.id"), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("cancelled_at", Float),
)
passages = Table(
    "passages",
    metadata,
    # id in the engines: 63 bits of a hash of store, file, attachment and ordinal
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Id, nullable=False, unique=True),
    Column("vector_store_id", Id, ForeignKey("vector_stores.id"), nullable=False),
    Column("file_id", Id, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("page", Integer),
    Column("section", String(1000)),
    Column("tokens", Integer, nullable=False),
    Index("ix_passages_file", "vector_store_id", "file_id", "ordinal"),
)
segments = Table(
    "segments",
    metadata,
    Column("vector_store_id", Id, ForeignKey("vector_stores.id"), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("dim", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("recipe", String(20), nullable=False, server_default="flat"),
    Column("index_bytes", BigInteger, nullable=False, server_default="0"),
    Column("index_sha256", String(64), nullable=False, server_default=""),
    Column("effort", Integer, nullable=False, server_default="0"),
    Column("recall", Float, nullable=False, server_default="1"),
    Column("version", BigInteger, nullable=False, server_default="0"),  # of the store
    Column("build", Id, nullable=False, server_default="original"),
)
removals = Table(  # files whose vectors still lie in segments older than the version
    "removals",
    metadata,
    Column("vector_store_id", Id, ForeignKey("vector_stores.id"), primary_key=True),
    Column("file_id", Id, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
)
index_builds = Table(  # of a store: the first is "original" and gets a row with the second
    "index_builds",
    metadata,
    Column("vector_store_id", Id, ForeignKey("vector_stores.id"), primary_key=True),
    Column("id", Id, primary_key=True),
    Column("engine", String(20), nullable=False),
    Column("embedding_model", String(200), nullable=False),
    Column("embedding_version", String(64)),
    Column("dim", Integer, nullable=False),
    Column("status", String(20), nullable=False),  # building, ready, failed
    Column("job_id", Id),
    Column("passages", BigInteger, nullable=False),  # so far
    Column("recall", Float),  # at 10, measured before it was ready
    Column("error", JSON),
    Column("created_at", Float, nullable=False),
    Column("ready_at", Float),
)
build_files = Table(  # what a build holds besides the one that is searched
    "build_files",
    metadata,
    Column("vector_store_id", Id, ForeignKey("vector_stores.id"), primary_key=True),
    Column("build", Id, primary_key=True),
    Column("file_id", Id, primary_key=True),
    Column("job_id", Id, nullable=False),  # of the attachment that it is
)

# retrieval: connectors ------------------------------------------------------------------
connectors = Table(
    "connectors",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False, index=True),
    Column("vector_store_id", Id, ForeignKey("vector_stores.id"), nullable=False, index=True),
    Column("source", String(100), nullable=False),  # its name in the settings
    Column("path", Text, nullable=False),
    Column("include", JSON, nullable=False),
    Column("exclude", JSON, nullable=False),
    Column("attributes", JSON, nullable=False),
    # "source", or a list as of a file; null: whoever may search the store
    Column("access", JSON(none_as_null=True)),
    Column("chunking", JSON, nullable=False),
    Column("owner", String(300), nullable=False),  # who made it
    Column("freshness_s", Integer, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("job_id", Id),  # of the newest sync, which has began_at and no ended_at while it runs
    Column("began_at", Float),
    Column("ended_at", Float),
    Column("whole_at", Float),  # when the last sync without an error ended
    Column("next_sync_at", Float, index=True),
    Column("removed", Integer, nullable=False),  # documents, by the newest sync
    Column("counts", JSON(none_as_null=True)),
    Column("error", JSON(none_as_null=True)),
    Column("failures", Integer, nullable=False),  # syncs in a row
    Column("allow_removal", Boolean, nullable=False),  # of more than half, in the newest sync
    Column("listing", BigInteger, nullable=False),  # number of the last that began
    Column("listed", BigInteger, nullable=False),  # number of the last that came to its end
    Column("created_at", Float, nullable=False),
    Column("deleted_at", Float),  # its documents are still to go
    Column("keep_documents", Boolean, nullable=False),
)
connector_items = Table(
    "connector_items",
    metadata,
    Column("id", Id, primary_key=True),
    Column("connector_id", Id, nullable=False),
    Column("key", Text, nullable=False),
    Column("key_hash", String(64), nullable=False),  # SHA-256; keys are too long for an index
    Column("fingerprint", Text, nullable=False),
    Column("filename", String(500), nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("access", JSON(none_as_null=True)),  # as the source lists it
    Column("relabel", Boolean, nullable=False),  # access or attributes are still to be written
    Column("status", String(20), nullable=False),  # pending, completed, failed
    Column("error", JSON(none_as_null=True)),
    Column("file_id", Id),  # that is searchable
    Column("next_file_id", Id, index=True),  # on its way, with the fingerprint that it is of
    Column("next_fingerprint", Text),
    Column("listing", BigInteger, nullable=False),  # the last that had it
    Column("outcome", String(20)),  # added, changed: what the sync of this listing did
    Column("done_in", BigInteger),
    Index("ix_connector_items_key", "connector_id", "key_hash", unique=True),
    Index("ix_connector_items_status", "connector_id", "status"),
)

# guardrails ----------------------------------------------------------------------------
policies = Table(  # the names of stored policies; a row is locked by what changes its versions
    "policies",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("name", Id, primary_key=True),
    Column("number", Integer, nullable=False),  # of the newest version
    Column("version", String(12), nullable=False),
)
policy_versions = Table(  # never changed
    "policy_versions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("name", Id, nullable=False),
    Column("number", Integer, nullable=False),  # from 1
    Column("version", String(12), nullable=False),  # hash of the document
    Column("document", JSON, nullable=False),
    Column("made_by", String(300), nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("tenant_id", "name", "number"),
)
policy_assignments = Table(
    "policy_assignments",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),  # *: every tenant
    Column("route", String(256), nullable=False),  # *: every route
    Column("mode", String(16), nullable=False),  # enforce | dry_run
    Column("policy", Id, nullable=False),
    Column("owner", Id),  # the tenant that stored the policy; null: shipped, or of the settings
    Column("version", String(12)),  # null: the newest
    Column("mandatory", Boolean, nullable=False),  # by the platform: tenants cannot choose another
    Column("made_by", String(300), nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("tenant_id", "route", "mode"),
)

# llm -----------------------------------------------------------------------------------
responses = Table(
    "responses",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    Column("input", JSON, nullable=False),  # the whole conversation so far, as messages
    Column("body", JSON, nullable=False),
    Column("owner", String(300)),  # who asked; null: before there were owners
    Column("pseudonyms", LargeBinary),  # encrypted; null: none stand in it, or they are forgotten
    Column("pseudonyms_until", Float),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False, index=True),
    Column("owner", String(300), nullable=False),
    Column("principal", JSON, nullable=False),  # for whom its lines are asked
    Column("endpoint", String(60), nullable=False),
    Column("input_file_id", Id, nullable=False),
    Column("metadata", JSON(none_as_null=True)),
    # validating, in_progress, finalizing, completed, failed, expired, cancelling, cancelled
    Column("status", String(20), nullable=False),
    Column("errors", JSON(none_as_null=True)),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),  # counted when it is over
    Column("failed", Integer, nullable=False),
    Column("output_file_id", Id),  # given before the file is there
    Column("error_file_id", Id),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("in_progress_at", Float),
    Column("finalizing_at", Float),
    Column("completed_at", Float),
    Column("failed_at", Float),
    Column("expired_at", Float),
    Column("cancelling_at", Float),
    Column("cancelled_at", Float),
)
batch_lines = Table(  # what was answered; they go when the files are made of them
    "batch_lines",
    metadata,
    Column("batch_id", Id, ForeignKey("batches.id"), primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("succeeded", Boolean, nullable=False),
    Column("result", Text, nullable=False),  # the line of the output or error file
)

deployments = Table(  # model servers; those of the settings only when they were changed
    "deployments",
    metadata,
    Column("id", String(256), primary_key=True),
    Column("model", String(256), nullable=False),
    Column("url", Text),  # null: the settings name it
    Column("served", String(256)),
    Column("api_key_env", String(128)),
    Column("weight", Float, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("max_concurrent", Integer),  # calls that it is sent at a time; null: the setting
    Column("role", String(16), nullable=False, server_default="stable"),
)
model_rollouts = Table(
    "model_rollouts",
    metadata,
    Column("model", String(256), primary_key=True),
    Column("canary_share", Float, nullable=False),
    Column("shadow_share", Float, nullable=False),
    Column("price", JSON),  # of a candidate's tokens; null: the model's
    Column("since", Float, nullable=False),
    Column("previous", JSON),  # id, role and draining of each server before the last promotion
)
rollout_samples = Table(  # what calls of a model that is being rolled out measured
    "rollout_samples",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("model", String(256), nullable=False),
    Column("deployment", String(256), nullable=False),
    Column("role", String(16), nullable=False),
    Column("at", Float, nullable=False),
    Column("outcome", String(16), nullable=False),  # answered | failed | skipped
    Column("first_ms", Float),
    Column("latency_ms", Float, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("pair", String(64)),  # both samples of a call that was copied
    Column("equal", Boolean),
    Column("token_f1", Float),
    Column("same_beginning", Float),
    Column("cosine", Float),
    Index("ix_rollout_samples_model_at", "model", "at"),
)
model_prices = Table(
    "model_prices",
    metadata,
    Column("model", String(256), primary_key=True),
    Column("price", JSON, nullable=False),
)
model_caches = Table(
    "model_caches",
    metadata,
    Column("model", String(256), primary_key=True),
    Column("ttl_s", Float, nullable=False),
    Column("threshold", Float),  # cosine; null: exact only
    Column("since", Float, nullable=False),  # what was kept before is not given any more
)
model_fallbacks = Table(
    "model_fallbacks",
    metadata,
    Column("model", String(256), primary_key=True),
    Column("fallbacks", JSON, nullable=False),
    Column("hedge_ms", Integer),  # without a first byte, until another server is asked too
)

# jobs ----------------------------------------------------------------------------------
jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False, index=True),
    Column("kind", String(60), nullable=False),
    Column("status", String(20), nullable=False),  # queued, running, completed, failed, cancelled
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("error", JSON),
    Column("result", JSON),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)
