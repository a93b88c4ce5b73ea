"""The sources that the operator declares; light, since every start reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

ANY_TENANT = "*"
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]+")


class _Declared(BaseModel):
    """What every kind has: the names of the tenants that may follow it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)
    tenants: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)

    def serves(self, tenant: str) -> bool:
        """Whether the tenant of this name may follow the source."""
        return ANY_TENANT in self.tenants or tenant in self.tenants


class FolderSettings(_Declared):
    """Files below a folder that the gateway can read."""

    kind: Literal["folder"]
    path: Path
    permissions: Literal["none", "posix"] = "none"
    watch: bool = True


class S3Settings(_Declared):
    """Objects of an S3-compatible bucket, below a prefix."""

    kind: Literal["s3"]
    url: str
    endpoint_url: str | None = None
    region: str | None = None
    key: str | None = None
    secret: SecretStr | None = None
    anonymous: bool = False
    permissions: Literal["none", "metadata"] = "none"

    @field_validator("url")
    @classmethod
    def _names_a_bucket(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or parts.query:
            raise ValueError("write the url as s3://bucket or s3://bucket/prefix")
        return url

    @model_validator(mode="after")
    def _has_both_or_neither(self) -> S3Settings:
        if (self.key is None) != (self.secret is None):
            raise ValueError("give key and secret, or neither")
        if self.anonymous and self.key is not None:
            raise ValueError("leave out key and secret, or anonymous")
        return self


class SitemapSettings(_Declared):
    """Pages of a web site, as its sitemap lists them."""

    kind: Literal["sitemap"]
    url: str
    hosts: list[Annotated[str, Field(min_length=1)]] = []
    private: bool = False
    max_pages: int = Field(10_000, ge=1, le=1_000_000)
    headers: dict[str, SecretStr] = {}

    @field_validator("url")
    @classmethod
    def _is_a_web_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("write the url as https://host/sitemap.xml; credentials go to headers")
        _ = parts.port  # raises ValueError for what is no port
        return url

    @field_validator("hosts")
    @classmethod
    def _are_host_names(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            if any(sign in host for sign in "/:@*"):
                raise ValueError(f"{host!r}: write hosts as www.example.org, without port or path")
        return [host.lower().rstrip(".") for host in hosts]

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(name) or name.lower() == "host":
                raise ValueError("a name is none that a header may have")
            if not _HEADER_VALUE.fullmatch(value.get_secret_value()):
                raise ValueError(f"the value of {name!r} is empty or has signs other than ASCII")
        return headers


class SqlSettings(_Declared):
    """Rows of a query on a database."""

    kind: Literal["sql"]
    url: SecretStr
    query: str = Field(min_length=1)
    key_column: str = Field(min_length=1)
    text_column: str = Field(min_length=1)
    title_column: str | None = None
    updated_column: str | None = None
    users_column: str | None = None
    groups_column: str | None = None
    attribute_columns: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        [], max_length=14
    )

    @model_validator(mode="after")
    def _text_stands_alone(self) -> SqlSettings:
        named = [self.key_column, self.title_column, self.updated_column, *self.attribute_columns]
        if self.text_column in [*named, self.users_column, self.groups_column]:
            raise ValueError("text_column needs a column of its own")
        return self

    @property
    def columns(self) -> list[str]:
        """The columns that the query must give, each once."""
        optional = (self.title_column, self.updated_column, self.users_column, self.groups_column)
        named = [c for c in optional if c is not None]
        return list(
            dict.fromkeys([self.key_column, self.text_column, *named, *self.attribute_columns])
        )


SourceSettings = Annotated[
    FolderSettings | S3Settings | SitemapSettings | SqlSettings, Field(discriminator="kind")
]
