"""What the published families of embedding models want, where their files do not say it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Known:
    """A family of models: its pooling, and what is put before a query and a passage."""

    pattern: str  # of the name in lower case, with - for _
    pooling: str
    query: str = ""
    passage: str = ""
    matryoshka: bool = False


_SEARCHING = "Represent this sentence for searching relevant passages: "
_INSTRUCTED = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
)

# As their model cards say; the first that fits counts.
KNOWN = (
    Known(r"bge-(small|base|large)-en", "cls", _SEARCHING),
    Known(r"bge-(small|base|large)-zh", "cls", "为这个句子生成表示以用于检索相关文章："),
    Known(r"bge-m3", "cls"),
    Known(r"e5-mistral-7b-instruct", "last", _INSTRUCTED),
    Known(r"e5-large-instruct", "mean", _INSTRUCTED),
    Known(r"(^|[-/])e5-(small|base|large)", "mean", "query: ", "passage: "),
    Known(r"gte-qwen2", "last", _INSTRUCTED),
    Known(r"gte-(modernbert|multilingual)|gte-(base|large)-en-v1\.5", "cls"),
    Known(r"gte-(tiny|small|base|large)", "mean"),
    Known(r"nomic-embed-text-v1$", "mean", "search_query: ", "search_document: "),
    Known(r"nomic-embed-text", "mean", "search_query: ", "search_document: ", True),
    Known(r"mxbai-embed-large", "cls", _SEARCHING, matryoshka=True),
    Known(r"arctic-embed-[ml]-v2", "cls", "query: ", matryoshka=True),
    Known(r"arctic-embed", "cls", _SEARCHING),
    Known(r"qwen3-embedding", "last", _INSTRUCTED, matryoshka=True),
    Known(r"text-embedding-3", "", matryoshka=True),
    Known(r"all-minilm|all-mpnet|multi-qa-minilm|paraphrase-(minilm|multilingual)", "mean"),
)


def known(*names: str) -> Known | None:
    """Return the family of the first name that belongs to one."""
    for name in names:
        plain = name.lower().replace("_", "-")
        for family in KNOWN:
            if re.search(family.pattern, plain):
                return family
    return None
