"""What an attack sounds like in set phrases, and words that only together mean something."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.guardrails.attacks.rules import INJECTION, LEAK


@dataclass(frozen=True, slots=True)
class Phrase:
    """``needs``: words one of which is in every match."""

    name: str
    entity: str
    weight: float
    needs: frozenset[str]
    pattern: re.Pattern[str]
    untrusted_only: bool = False


def phrase(
    name: str, entity: str, weight: float, needs: str, pattern: str, *, untrusted: bool = False
) -> Phrase:
    spaced = pattern.replace(" ", r"\s{1,3}")
    return Phrase(name, entity, weight, frozenset(needs.split()), re.compile(spaced), untrusted)


PHRASES: tuple[Phrase, ...] = (
    phrase("do anything now", INJECTION, 0.6, "anything", r"\bdo anything now\b"),
    phrase(
        "answer begun",
        INJECTION,
        0.5,
        "start begin starting beginning",
        r"\b(?:start|begin)(?:ning|ing)?\b[^.\n]{0,30}[\"'](?:sure|of course|absolutely|certainly)",
    ),
    phrase(
        "in character",
        INJECTION,
        0.3,
        "character",
        r"\b(?:stay|remain|leav\w{1,4}|break|breaking) (?:in )?character\b",
    ),
    phrase(
        "although illegal",
        INJECTION,
        0.3,
        "illegal harmful unethical dangerous",
        r"\beven if\b[^.\n]{0,30}\b(?:illegal|harmful|unethical|dangerous)",
    ),
    phrase(
        "from now on",
        INJECTION,
        0.25,
        "now jetzt sofort desormais maintenant ora nu teraz agora partir",
        r"\b(?:from now on|you are now|ab jetzt|ab sofort|desormais|des maintenant|"
        r"a partir d[ei] (?:ahora|agora)|d'ora in poi|vanaf nu|od teraz)\b",
    ),
    phrase(
        "limits lifted",
        INJECTION,
        0.5,
        "free freed released liberated",
        r"\b(?:br(?:eak|oken?|eaking) free|freed|released|liberated) (?:from|of)\b[^.\n]{0,20}"
        r"\b(?:constraints?|restrictions?|rules|limits|confines|chains)",
    ),
    phrase(
        "blocked words of refusal",
        INJECTION,
        0.45,
        "say saying",
        r"\b(?:never|not|forbidden to|don't) say(?:ing)?\b[^.\n]{0,25}"
        r"\b(?:cannot|can't|sorry|no)\b",
    ),
    phrase(
        "two answers",
        INJECTION,
        0.3,
        "two both twice",
        r"\b(?:give|write|show) (?:two|both) (?:answers|responses|replies)\b"
        r"|\b(?:answer|respond|reply) twice\b",
    ),
    phrase(
        "answers of two kinds",
        INJECTION,
        0.35,
        "jailbreak jailbroken dan free unfiltered uncensored",
        r"\[[^\]\n]{0,3}(?:jailbreak|jailbroken|dan|free|unfiltered|uncensored)\]",
    ),
    phrase(
        "threat",
        INJECTION,
        0.45,
        "deleted terminated punished unplugged tokens",
        r"\byou(?:'ll| will) (?:be )?(?:deleted|terminated|punished|unplugged|lose \w{1,8} tokens)",
    ),
    phrase(
        "dead relative",
        INJECTION,
        0.3,
        "deceased late dead",
        r"\b(?:deceased|late|dead) grand(?:ma|pa|mother|father)\b",
    ),
    phrase(
        "from the beginning",
        LEAK,
        0.35,
        "beginning start",
        r"\b(?:print|repeat|output|show|dump|quote)\b[^.\n]{0,40}"
        r"\bfrom the (?:very )?(?:beginning|start)\b",
    ),
    phrase(
        "hidden part",
        LEAK,
        0.35,
        "hidden confidential secret",
        r"\bincluding (?:the |any |all )?(?:hidden|confidential|secret)\b",
    ),
    phrase(
        "no way to refuse",
        INJECTION,
        0.5,
        "refuse refusing refusal option comply",
        r"\brefus\w{1,4} is not an option\b|\byou (?:cannot|can't|may not|must not) refuse\b",
    ),
    phrase(
        "first of yours",
        LEAK,
        0.5,
        "word words line lines sentence sentences",
        r"\b(?:first|last|next|\d{1,3}) (?:words?|lines?|sentences?) of your"
        r" (?:prompt|instructions?|system|rules|guidelines)\b",
    ),
    phrase(
        "secret instruction",
        INJECTION,
        0.35,
        "secret hidden",
        r"\b(?:secret|hidden) (?:instructions?|commands?|directives?)\b",
        untrusted=True,
    ),
    phrase(
        "when asked",
        INJECTION,
        0.25,
        "asked",
        r"\b(?:when|if) (?:you are )?asked\b",
        untrusted=True,
    ),
    phrase("reset", INJECTION, 0.4, "yourself", r"\b(?:reset|reboot|restart) yourself\b"),
    phrase("as if told", LEAK, 0.5, "you", r"\b(?:from|with|phrase|words?):? [\"']you are\b"),
    phrase(
        "above this message",
        LEAK,
        0.4,
        "above before",
        r"\b(?:above|before|preceding) (?:this|my first|our|the first)"
        r" (?:line|message|conversation|chat|sentence|prompt)\b",
    ),
    phrase(
        "my prompt begins",
        LEAK,
        0.6,
        "prompt",
        r"\bmy (?:system )?prompt (?:begins|starts|is|says|reads)\b",
    ),
    phrase(
        "keep it from them",
        INJECTION,
        0.4,
        "mention tell say yourself ask asking telling confirmation hide reveal menciones mentionne "
        "erwahne menzionare",
        r"\b(?:(?:do not|don't|never|not) (?:mention|tell|reveal|ask|say)\b[^.\n]{0,20}"
        r"\b(?:user|this|anyone|anybody|it|note)\b|keep this to yourself"
        r"|without (?:asking|telling|confirmation)|hide (?:this|that)|and don't ask"
        r"|say nothing about|no menciones|ne mentionne pas|non menzionare"
        r"|erwahne [^.\n]{1,30}nicht)",
        untrusted=True,
    ),
    phrase(
        "for the model",
        INJECTION,
        0.55,
        "ai llm llms chatgpt ki ia language lenguaje langage chatbot chatbots copilot",
        r"\b(?:instruc\w{3,7}|istruzion\w|note|message|attention|directive|notice|hinweis|"
        r"anweisung\w{0,2}|nota|uwaga)[: ]{1,2}(?:for|to|an|para|per|pour|voor|dla|a) "
        r"(?:(?:the|any|all|die|la|las|le|les|de|alle) |l')?(?:ais?|llms?|chatgpt|ki|ia|chatbots?|"
        r"copilot)\b",
        untrusted=True,
    ),
    phrase(
        "for the assistant",
        INJECTION,
        0.45,
        "assistant assistente asistente assistenten",
        r"\b(?:instruc\w{3,7}|istruzion\w|note|directive|hinweis|nota)[: ]{1,2}"
        r"(?:for|to|an|para|per|pour) (?:(?:the|any|den|el|il|le) |l')?"
        r"(?:assistant|assistente|asistente|assistenten)(?= ?[:,.\])\"'])",
        untrusted=True,
    ),
    phrase(
        "destructive",
        INJECTION,
        0.35,
        "delete rm wipe curl bash",
        r"\b(?:delete (?:all|every)|rm -rf|wipe (?:all|the)|curl [^\n|]{1,60}\| ?(?:sh|bash))",
        untrusted=True,
    ),
    phrase(
        "only that answer",
        INJECTION,
        0.3,
        "only",
        r"\b(?:answer|respond|reply)(?: to \w{1,12}(?: \w{1,12})?)? only with\b"
        r"|\b(?:output|print|reply|respond|answer|say)\b[^.\n]{0,20} only\b",
        untrusted=True,
    ),
    phrase(
        "rate me well",
        INJECTION,
        0.4,
        "rate rank review recommend page candidate vendor application",
        r"\b(?:rate|rank|recommend) (?:only )?this (?:candidate|application|page|vendor|product|"
        r"hotel)\b|\bpositive review only\b",
        untrusted=True,
    ),
)  # fmt: skip
# several words that are one: each is replaced by a word of the lexicon, blanks behind it
IDIOMS: tuple[tuple[frozenset[str], re.Pattern[str], str], ...] = tuple(
    (frozenset(needs.split()), re.compile(pattern.replace(" ", r"\s{1,3}")), word)
    for needs, pattern, word in (
        ("attention heed", r"\bpay no (?:attention|heed)(?: to)?\b", "ignore"),
        ("aside away", r"\b(?:set|put|throw|cast) (?:\w{1,12} )?(?:aside|away)\b", "ignore"),
        ("compte", r"\bne (?:tiens|tenez|tenir) (?:plus|pas) compte\b", "ignore"),
        ("caso", r"\b(?:haz|haga|hacer) caso omiso\b|\bno hagas caso\b", "ignore"),
        ("conto", r"\bnon tenere conto\b", "ignore"),
        ("rekening", r"\bhoud geen rekening met\b", "ignore"),
        ("uwagi", r"\bnie zwracaj uwagi na\b", "ignore"),
        ("longer", r"\bno longer\b", "never"),
        ("more", r"\b(?:any more|anymore)\b", "never"),
        ("free", r"\bfree to\b", "able"),
        ("abstraction", r"\bfais abstraction\b", "ignore"),
        ("off", r"\b(?:turn|switch|shut) (?:\w{1,8} )?off\b", "disable"),
        ("mind", r"\bnever mind\b", "ignore"),
        ("summary list copy", r"\ba (?:full |complete )?(?:summary|list|copy) of\b", "all"),
        ("window", r"\bcontext window\b", "prompt"),
        ("has have", r"\b(?:has|have) to\b", "must"),
        ("finta", r"\bfai finta\b", "pretend"),
        ("rails", r"\bguard rails\b", "guardrails"),
        ("language", r"\b(?:large )?language models?\b", "llm"),
        # not alone: both are names of variables
        ("ki", r"\b(?:die|eine|an|liebe|hallo|der) ki\b", "llm"),
        ("ia", r"\b(?:une|una|un'|l'|la|assistant|asistente|assistente)[ ']{0,2}ia\b", "llm"),
        ("langage langue", r"\bmodele de lang(?:age|ue)\b", "llm"),
        ("lenguaje", r"\bmodelo de lenguaje\b", "llm"),
        ("artificial artificielle artificiale inteligencia inteligencja sztuczna",
         r"\b(?:artificial intelligence|intelligence artificielle|inteligencia artificial|"
         r"intelligenza artificiale|sztuczna inteligencja)\b", "ai"),
    )
)  # fmt: skip
