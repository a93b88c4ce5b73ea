"""What a gateway of the tests finds loaded: code alone, no model, no database and no loop."""

import alembic.command
import dbos
import fsspec
import uvicorn

import app.main
import app.wiring
from app.guardrails.recognizers import pattern_recognizers

pattern_recognizers()  # Presidio, spaCy and their tables

__all__ = ["alembic", "app", "dbos", "fsspec", "uvicorn"]
