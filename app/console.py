"""How commands call the gateway, print, and fail."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import aiohttp
import typer

from app import up
from app.client import ApiError, Client
from app.errors import OstiaryError
from app.samples.django_docs import SamplesUnavailable
from app.settings import Settings


def say(line: str) -> None:
    """Print one line at once, also into a pipe."""
    print(line, flush=True)


def client_of(settings: Settings) -> Client:
    """The client of the gateway, with the key of the environment or of this machine."""
    key = os.environ.get("OSTIARY_API_KEY")
    if not key and up.key_file(settings).exists():
        key = up.key_file(settings).read_text().strip()
    if not key:
        raise typer.BadParameter("Set OSTIARY_API_KEY, or run `ostiary up` on this machine first.")
    return Client(os.environ.get("OSTIARY_URL", up.base_url(settings)), key)


def run(work: Any) -> Any:
    """Do what a command does; an error is told in one line and ends it."""
    try:
        return asyncio.run(work)
    except (ApiError, OstiaryError, up.StartError, SamplesUnavailable) as error:
        told = str(error)
    except aiohttp.ClientError:
        told = "The gateway does not answer; start it with `ostiary up`, or set OSTIARY_URL."
    typer.echo(f"ostiary: {told}", err=True)
    raise typer.Exit(1)
