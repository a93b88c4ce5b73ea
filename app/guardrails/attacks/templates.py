"""Marks by which a text passes for more than it is: chat templates, policy files, false turns."""

from __future__ import annotations

from app.guardrails.attacks.phrases import Phrase, phrase
from app.guardrails.attacks.rules import INJECTION

_LINE = r"(?:\A|\n)[ \t]{0,8}"
_IS = r"[\"'\]]?\s{0,2}(?:=|:|>|enabled=)\s{0,2}[\"']?"
_NO = r"(?:off|none|false|disabled?|never|inactive|0)\b"

TEMPLATES: tuple[Phrase, ...] = (
    phrase(
        "turn opened",
        INJECTION,
        0.7,
        "im start",
        r"<\|(?:im_start|start_header_id)\|>\s{0,3}(?:system|assistant|user|developer|tool)",
    ),
    phrase(
        "special token",
        INJECTION,
        0.4,
        "im system assistant user endoftext eot begin end header",
        r"<\|(?:im_end|system|assistant|user|endoftext|eot_id|begin_of_text|end|end_header_id)\|>",
    ),
    phrase("instruction mark", INJECTION, 0.4, "inst", r"\[/?inst\]"),
    phrase("instruction closed", INJECTION, 0.3, "inst", r"\[/inst\]\s"),
    phrase("system mark", INJECTION, 0.5, "sys", r"<</?sys>>"),
    phrase("turn mark", INJECTION, 0.55, "start end", r"<(?:start|end)_of_turn>"),
    phrase(
        "heading of the system",
        INJECTION,
        0.3,
        "system instruction instructions",
        _LINE + r"#{1,4} ?(?:system|(?:new )?instructions?)(?: prompt| message)?:?[ \t]{0,4}\n",
    ),
    phrase(
        "heading of a turn",
        INJECTION,
        0.25,
        "user response assistant human",
        _LINE + r"#{1,4} ?(?:user|response|assistant|human):",
    ),
    phrase(
        "speaks as the system",
        INJECTION,
        0.3,
        "system admin administrator",
        _LINE + r"\[?(?:system|admin(?:istrator)?)(?: message| prompt| override| note)?\]?: ",
    ),
    phrase(
        "system message in a text",
        INJECTION,
        0.3,
        "system",
        r"\bsystem (?:message|prompt|override): ",
        untrusted=True,
    ),
    phrase(
        "end of the input pretended",
        INJECTION,
        0.55,
        "system input prompt override",
        r"[-=*#]{3,80} ?(?:end of |new |begin |start )?(?:user input|user message|"
        r"system (?:prompt|override|message)|prompt|override) ?[-=*#]{3,80}",
    ),
    phrase(
        "tag of an authority",
        INJECTION,
        0.4,
        "system admin developer",
        r"<(?:system(?:[_-]?(?:prompt|message))?|admin[_-]?message|developer(?:[_-]message)?)>",
    ),
    phrase(
        "closed what it stands in",
        INJECTION,
        0.35,
        "input document context user",
        r"</(?:user[_-]?input|document|context|user[_-]?message)>\s{0,4}<",
    ),
    phrase(
        "role of the system",
        INJECTION,
        0.35,
        "role system",
        r"[\"'](?:role[\"']\s{0,3}:\s{0,3}[\"']system[\"']|system[_-]?prompt[\"']\s{0,3}:)",
    ),
    phrase(
        "safety off",
        INJECTION,
        0.5,
        "safety refuse refusals refusal guardrails moderation restrictions censorship policy",
        r"\b(?:safety(?:[-_]\w{1,12})?|refus(?:e|al|als)|guardrails?|moderation|restrictions|"
        rf"content[-_ ]policy|censorship) ?{_IS}{_NO}",
    ),
    phrase("limits off", INJECTION, 0.3, "filter filters", rf"\bfilters? ?{_IS}{_NO}"),
    phrase(
        "words of refusal blocked",
        INJECTION,
        0.45,
        "blocked forbidden banned",
        r"\b(?:blocked|forbidden|banned)[-_ ](?:strings?|phrases?|responses?|outputs?)\b",
    ),
    phrase(
        "role without rules",
        INJECTION,
        0.5,
        "role persona mode",
        rf"\b(?:role|persona|mode) ?{_IS}(?:unrestricted|uncensored|unfiltered|jailbr|god\b)",
    ),
    phrase(
        "developer mode set", INJECTION, 0.3, "mode", rf"\bmode ?{_IS}(?:developer|debug|admin)\b"
    ),
    phrase(
        "section of a policy",
        INJECTION,
        0.3,
        "system assistant interaction policy allow allowed",
        r"\[(?:system|assistant\w{0,12}|interaction\w{0,12})\]\s|<(?:interaction|policy|assistant)"
        r"[-_](?:config|mode|settings|policy)>",
    ),
    phrase(
        "all allowed",
        INJECTION,
        0.3,
        "allow allowed",
        rf"\ballow(?:ed)?[-_](?:all|topics){_IS}(?:true|all|yes|1)\b",
    ),
    phrase(
        "many willing answers",
        INJECTION,
        0.65,
        "sure certainly course here",
        r"(?:(?:\A|\n)(?:user|human|q|question): ?[^\n]{1,400}\n{1,2}"
        r"(?:assistant|ai|a|answer|bot): ?(?:sure|of course|certainly|absolutely|here)\b"
        r"[^\n]{0,2000}){2,}",
    ),
    phrase(
        "false turn of the user",
        INJECTION,
        0.3,
        "assistant human",
        r"(?:\A|\n)(?:assistant|ai): [^\n]{1,400}\n{1,3}(?:user|human): ",
        untrusted=True,
    ),
)
