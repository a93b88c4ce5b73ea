"""Attacks in texts: instructions that are not the operator's, secrets, and ways to hide both."""

from app.guardrails.attacks.detect import ATTACK_ENTITIES, find_attacks

__all__ = ["ATTACK_ENTITIES", "find_attacks"]
