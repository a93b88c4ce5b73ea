"""Guardrails: what may enter a call and what may leave it."""
