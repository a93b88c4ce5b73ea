"""One detector for all guardrail tests: loading Presidio takes seconds."""

from __future__ import annotations

import pytest

from app.guardrails.pii import PiiDetector


@pytest.fixture(scope="session")
def detector() -> PiiDetector:
    return PiiDetector()
