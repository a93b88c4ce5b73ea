"""Attacks in texts: instructions that are not the operator's, secrets, and ways to hide both."""

from app.guardrails.attacks.detect import find_attacks
from app.guardrails.attacks.own_prompt import OwnPrompt
from app.guardrails.attacks.replies import IN_REPLIES, find_in_whole_reply
from app.guardrails.entities import ATTACK_ENTITIES

__all__ = ["ATTACK_ENTITIES", "IN_REPLIES", "OwnPrompt", "find_attacks", "find_in_whole_reply"]
