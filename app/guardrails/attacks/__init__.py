"""Attacks in texts: instructions that are not the operator's, secrets, and ways to hide both."""

from app.guardrails.attacks.detect import find_attacks
from app.guardrails.entities import ATTACK_ENTITIES

__all__ = ["ATTACK_ENTITIES", "find_attacks"]
