"""Opens the source that settings declare; what a kind needs is imported with it."""

from __future__ import annotations

from app.retrieval.connectors.base import Source
from app.retrieval.connectors.settings import (
    FolderSettings,
    S3Settings,
    SitemapSettings,
    SourceSettings,
)


def open_source(settings: SourceSettings) -> Source:
    """The source of these settings; nothing is read yet.

    Raises:
        MissingExtra: its kind needs an extra that is not installed.
        SourceError: its settings lead nowhere.
    """
    if isinstance(settings, FolderSettings):
        from app.retrieval.connectors.folder import FolderSource

        return FolderSource(settings)
    if isinstance(settings, S3Settings):
        from app.retrieval.connectors.s3 import S3Source

        return S3Source(settings)
    if isinstance(settings, SitemapSettings):
        from app.retrieval.connectors.sitemap import SitemapSource

        return SitemapSource(settings)
    from app.retrieval.connectors.sql import SqlSource

    return SqlSource(settings)
