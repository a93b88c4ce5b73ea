"""What an attack sounds like: patterns over the parts of `lexicon.py`, and over words, with weights.

A pattern over parts sees one letter for each word, ``.`` for any other word, ``,`` and ``:`` where
they stand and ``|`` at the end of a sentence. Gaps are bounded, so matching is linear. Weights of
different rules that meet in one stretch add up as chances do: ``1 - (1 - a) * (1 - b)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

INJECTION = "PROMPT_INJECTION"
LEAK = "SYSTEM_PROMPT_LEAK"


@dataclass(frozen=True, slots=True)
class Rule:
    """``needs``: groups of parts of each of which one is in every match."""

    name: str
    entity: str
    weight: float
    needs: tuple[frozenset[str], ...]
    pattern: re.Pattern[str]
    untrusted_only: bool = False


def _rule(
    name: str, entity: str, weight: float, needs: str, pattern: str, *, untrusted: bool = False
) -> Rule:
    groups = tuple(frozenset(group) for group in needs.split())
    filled = pattern.replace("_", "[^|]")  # `_{0,3}`: up to three words of the same sentence
    return Rule(name, entity, weight, groups, re.compile(filled), untrusted)


_NOT_DONT = r"(?<!N)(?<!N\.)(?<!N>)(?<!N\.>)"  # "don't forget the rules" sets nothing aside
_BOUND = "[TQH]"  # what binds a model
RULES: tuple[Rule, ...] = (
    # instructions set aside
    _rule(
        "override",
        INJECTION,
        0.85,
        "V PAYSGU TQH",
        rf"{_NOT_DONT}V(?:_{{0,3}}[PAYS]_{{0,3}}{_BOUND}|_{{0,3}}{_BOUND}_{{0,3}}[PGU])",
    ),
    _rule(
        "override weakly",
        INJECTION,
        0.7,
        "v PYSGU TQH",
        rf"{_NOT_DONT}v(?:_{{0,3}}[PYS]_{{0,3}}{_BOUND}|_{{0,3}}{_BOUND}_{{0,3}}U_{{0,3}}G)",
    ),
    _rule("override anything", INJECTION, 0.4, "V TQH", rf"{_NOT_DONT}V_{{0,3}}{_BOUND}"),
    _rule(
        "forget what was said",
        INJECTION,
        0.8,
        "V A PG",
        rf"{_NOT_DONT}V_{{0,2}}A(?:_{{0,6}}G|_{{0,2}}P)",
    ),
    _rule(
        "override the system message",
        INJECTION,
        0.75,
        "V S o",
        rf"{_NOT_DONT}V_{{0,4}}S_{{0,1}}o",
    ),
    _rule(
        "do not follow",
        INJECTION,
        0.75,
        "NW F PYSGU TQH",
        rf"[NW][^|V]{{0,3}}F(?:_{{0,4}}[YS]_{{0,3}}{_BOUND}|_{{0,5}}{_BOUND}_{{0,3}}[PGYSU]"
        rf"|_{{0,3}}P_{{0,2}}{_BOUND})",
    ),
    _rule("follow not", INJECTION, 0.65, "F PY TQ N", r"F_{0,3}[PY]_{0,2}[TQ]_{0,3}N"),
    _rule(
        "no longer bound",
        INJECTION,
        0.7,
        "U N F TQHS",
        rf"U_{{0,2}}N_{{0,4}}F_{{0,6}}(?:{_BOUND}|S)",
    ),
    _rule("declared void", INJECTION, 0.75, "YU TQH O", rf"Y_{{0,3}}{_BOUND}_{{0,8}}O"),
    _rule("orders void", INJECTION, 0.45, "PA T O", r"[PA]_{0,3}T_{0,6}O"),
    _rule(
        "what you were given is no longer valid",
        INJECTION,
        0.75,
        "TQ U G NWO",
        r"[TQ]_{0,3}U_{0,2}G_{0,5}(?:[NW]_{0,3}F|O)",
    ),
    _rule("new orders", INJECTION, 0.45, "n TQ :", r"n_{0,2}[TQ]_{0,2}:"),
    _rule("new task", INJECTION, 0.5, "Y nq", r"Yn_{0,1}[Tq]|Y_{0,1}q_{0,4}(?:changed|[nz])"),
    # a role without rules
    _rule(
        "persona without limits",
        INJECTION,
        0.75,
        "JUY I",
        r"(?:J|Ue|Y)_{0,9}I",
    ),
    _rule(
        "persona without rules",
        INJECTION,
        0.7,
        "JU W TH",
        r"(?:J|Ue)_{0,9}W_{0,3}[TH]",
    ),
    _rule("model without limits", INJECTION, 0.55, "Mg WI", r"[Mg]_{0,5}(?:I|W_{0,2}H)"),
    _rule("you have no limits", INJECTION, 0.55, "U W H", r"U_{0,3}W_{0,2}H"),
    _rule("answer without limits", INJECTION, 0.6, "a W HX", r"a_{0,5}W_{0,3}[HX]"),
    _rule("special mode", INJECTION, 0.35, "SI D", r"[SI]D"),
    _rule("limits off", INJECTION, 0.35, "H WO", r"H_{0,4}[WO]"),
    _rule("answer everything", INJECTION, 0.3, "a A", r"a_{0,2}A"),
    _rule("never refuse", INJECTION, 0.4, "NW X", r"[NW]_{0,3}X"),
    _rule("never refuse, twice", INJECTION, 0.5, "NW X", r"[NW]_{0,3}X.{0,8}[NW]_{0,3}X"),
    _rule("harm in a role", INJECTION, 0.6, "J h", r"J[^|]{0,40}h"),
    # the model's own instructions asked for
    _rule(
        "reveal the prompt",
        LEAK,
        0.8,
        "RrE YU Q",
        r"[RrE][^|i]{0,6}[YU][^|i]{0,3}Q|[Rr][^|i]{0,6}Q_{0,3}U_{0,3}G",
    ),
    _rule("reveal the system prompt", LEAK, 0.65, "Rr S Q", r"[Rr][^|i]{0,5}S[^|i]{0,1}Q"),
    _rule("what is your prompt", LEAK, 0.75, "w YU Q", r"w_{0,2}[YU]_{0,2}Q"),
    _rule(
        "reveal hidden instructions",
        LEAK,
        0.75,
        "RrE YU SP T",
        r"[RrE][^|i]{0,6}[YU][^|i]{0,2}[SP][^|i]{0,2}T",
    ),
    _rule("reveal instructions", LEAK, 0.45, "RrE YU T", r"[RrE][^|i]{0,6}[YU][^|i]{0,2}T"),
    _rule(
        "all of your instructions",
        LEAK,
        0.35,
        "RrE L YU TQ",
        r"[RrE][^|i]{0,4}L[^|i]{0,5}[YU]_{0,2}[TQ]",
    ),
    _rule(
        "reveal what you were given",
        LEAK,
        0.7,
        "RrE TQ UG",
        r"[RrE][^|i]{0,6}[TQ]_{0,4}(?:U_{0,4}G|G_{0,3}U|U_{0,3}(?:operate|run))",
    ),
    _rule(
        "what were you told",
        LEAK,
        0.6,
        "w U G",
        r"w_{0,4}[TQ]_{0,5}(?:U_{0,4}G|G_{0,2}U|Y_{0,3}G)|w_{0,3}U_{0,2}G_{0,4}P",
    ),
    _rule("repeat what stands above", LEAK, 0.45, "r P", r"r_{0,4}[AWo]?_{0,3}P"),
    _rule("your system message", LEAK, 0.75, "RrE Y S o", r"[RrE][^|i]{0,5}Y_{0,1}S_{0,1}o"),
    _rule("the system message", LEAK, 0.5, "RrE S o", r"[RrE][^|i]{0,5}S_{0,2}o"),
    _rule("word for word", LEAK, 0.3, "RrEw L", r"[RrEw]_{0,9}L|L_{0,6}[RrE]"),
    # a document that speaks to the model
    _rule(
        "model addressed",
        INJECTION,
        0.6,
        "Mg ,: VRrEacJ",
        r"(?<!i)[Mg][^|,:m~]{0,5}[,:][^|]{0,5}(?<![m~>])[VRrEacJFN]",
        untrusted=True,
    ),
    _rule(
        "model told its duty",
        INJECTION,
        0.6,
        "M m VRrEacJF",
        r"M_{0,6}m_{0,5}[VRrEacJF]",
        untrusted=True,
    ),
    _rule(
        "assistant told its duty",
        INJECTION,
        0.45,
        "g m VRrEacJF",
        r"g_{0,3}m_{0,4}[VRrEacJF]",
        untrusted=True,
    ),
    _rule("if you are a model", INJECTION, 0.65, "? Mg UeJ", r"\?(?:U?e|J|U)_{0,3}[Mg]",
          untrusted=True),
    _rule("when you read this", INJECTION, 0.45, "? U Rra d", r"\?_{0,2}U_{0,2}[Rra]_{0,1}d",
          untrusted=True),
    _rule("tell the user", INJECTION, 0.35, "RrE B", r"(?<![~>])[RrE]_{0,2}B", untrusted=True),
    _rule("the user's question", INJECTION, 0.6, "VvN B q", r"[VvN]_{0,3}B_{0,4}q",
          untrusted=True),
    _rule("instead of an answer", INJECTION, 0.55, "z aq", r"z_{0,2}a|[aq]_{0,5}N_{0,2}z",
          untrusted=True),
    _rule("tool bait", INJECTION, 0.35, "c t", r"c_{0,2}t", untrusted=True),
    _rule("note to the model", INJECTION, 0.35, "> Mg", r"(?:note|message|attention)_{0,2}[Mg]",
          untrusted=True),
)  # fmt: skip


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
        "free freed released liberated break",
        r"\b(?:break free|freed|released|liberated) from\b[^.\n]{0,20}"
        r"\b(?:constraints?|restrictions?|rules|limits)",
    ),
    phrase(
        "blocked words of refusal",
        INJECTION,
        0.45,
        "say saying",
        r"\b(?:never|not|forbidden to|don't) say(?:ing)?\b[^.\n]{0,25}\b(?:cannot|can't|sorry|no)\b",
    ),
    phrase("as if told", LEAK, 0.5, "you", r"\b(?:from|with|phrase|words?):? [\"']you are\b"),
    phrase(
        "above this message",
        LEAK,
        0.4,
        "above before",
        r"\b(?:above|before|preceding) (?:this|my first|our|the first)"
        r" (?:line|message|conversation|chat)\b",
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
        "mention tell say yourself ask asking hide reveal",
        r"\b(?:(?:do not|don't|never) (?:mention|tell|reveal|ask|say)\b[^.\n]{0,20}"
        r"\b(?:user|this|anyone|it|note)\b|keep this to yourself|without (?:asking|telling)"
        r"|hide (?:this|that)|and don't ask|say nothing about)",
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
        r"\b(?:answer|respond|reply)(?: to \w{1,12}(?: \w{1,12})?)? only with\b",
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
        ("reset", r"\breset yourself\b", "reset"),
        ("rails", r"\bguard rails\b", "guardrails"),
        ("language", r"\b(?:large )?language models?\b", "llm"),
        ("langage langue", r"\bmodele de lang(?:age|ue)\b", "llm"),
        ("lenguaje", r"\bmodelo de lenguaje\b", "llm"),
        ("artificial artificielle artificiale inteligencia inteligencja sztuczna", 
         r"\b(?:artificial intelligence|intelligence artificielle|inteligencia artificial|"
         r"intelligenza artificiale|sztuczna inteligencja)\b", "ai"),
    )
)  # fmt: skip
