"""Reads a turn of a conversation: its content words, and whether it leans on what came before."""

from __future__ import annotations

import re
from dataclasses import dataclass


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_PREPOSITIONS = _set(
    "for in on at to from with without by during after before under over until since within "
    "between through against via per of about into across above below beyond outside inside "
    "around as"
)
_ARTICLES = _set("a an the my your our his her its their this that these those")
_QUESTION = _set("what which who whom whose when where why how")
_AUXILIARY = _set(
    "is are was were be been am do does did can could should would will shall may might must "
    "has have had isn aren wasn weren don doesn didn couldn shouldn wouldn won hasn haven hadn "
    "cannot ain mustn"
)
_STOP = (
    _PREPOSITIONS
    | _ARTICLES
    | _QUESTION
    | _AUXILIARY
    | _set(
        "i me mine you yours he him she it they them theirs we us ours one ones someone somebody "
        "something anyone anything everyone everything nobody nothing myself yourself itself "
        "themselves there here and or but nor so if then than as because while although though "
        "unless whether not no yes yeah yep ok okay only just also too very really quite still "
        "even ever never always again already yet both each every all any some such same other "
        "others another else more most much many few less least own up down out off being having "
        "doing let s t d ll re ve m now well please thanks thank hello hi hey sorry instead "
        "rather exactly actually maybe perhaps etc vs now first second last next"
    )
)
# Words that hold a sentence together and name no subject.
_WEAK = _set(
    "want wants wanted need needs needed get gets got getting give gives given make makes made "
    "take takes took taken taking tell show know knows explain find found work works working use "
    "uses used using help like look looking think try tried trying go goes going come happen "
    "happens happened mean means meant say says said see seen put keep set way ways thing things "
    "kind sort lot bit able possible necessary allowed question questions detail details example "
    "examples reason long far often fast soon late quickly good bad better best worse right "
    "wrong difference mind happening understand elaborate describe provide list continue case "
    "it's apply applies cases topic part"
)
# Weak words that are half of a name after another word: "remote work", "price list".
_SECOND_HALF = _set("work list case question questions example help part")
_NOT_SUBJECT = _STOP | _WEAK
_PRONOUNS = _set("it its they them their theirs he him his she her this that these")
_PRONOUNS |= {"those", "itself", "themselves"}
_TIMES = _set("second minute hour day week weekend month quarter year morning time")

_WORD = re.compile(
    r"`[^`\n]{1,80}`|\"[^\"\n]{1,80}\"|“[^”\n]{1,80}”"
    r"|(?<!\w)--?[A-Za-z][\w-]*"
    r"|\w+(?:[._\-/:@#+'’]+\w+)*(?:\+\+|#)?"
)
_BREAK = re.compile(r"[.!?:;]\s*$|\n$")
_CLAUSE = re.compile(r"[,;:.!?]|\b(?:and|or|but|if|when|after|before|because|so|then|while)\b")
_LEAD = re.compile(
    r"^(?:(?:and|or|but|so|ok(?:ay)?|also|then|well|no|nope|yes|yeah|sorry|thanks|thank you|great|"
    r"cool|perfect|hi|hello|hey|what about|how about|what if|i meant?|rather|now|only|please|"
    r"actually)\b[\s,.!:-]*)+",
    re.I,
)
_REPLACING = re.compile(r"\b(?:and|or|no|nope|what about|how about|i meant?|rather|now)\b", re.I)
_ANEW = re.compile(
    r"^\W*(?:(?:ok(?:ay)?|so|thanks|now|and|one|i have)\W+)*"
    r"(?:an?other (?:question|topic)|(?:a )?(?:new|different|separate|unrelated) (?:question|topic)"
    r"|on (?:an?other|a different|an unrelated) (?:note|topic|subject)|by the way|btw"
    r"|something (?:else|different)|changing (?:the )?(?:topic|subject)|next (?:question|topic))",
    re.I,
)
_SMALL_TALK = re.compile(
    r"^\W*(?:(?:many thanks|thanks?(?: you)?|thx|a lot|so much|very much|for (?:your|the) help|ok|"
    r"okay|great|good|nice|cool|perfect|super|got it|i see|understood|hi|hello|hey|there|"
    r"good (?:morning|afternoon|evening)|bye|goodbye|see you|cheers|yes|no|yeah|alright|"
    r"that(?:'|’)?s (?:all|great|clear)|that helps|it works|works)\b\W*)+$",
    re.I,
)
_REFERS = re.compile(
    r"\b(?:the same|the (?:former|latter|above|previous|other)|(?:which|what|who|anything|nothing|"
    r"something|anyone|where|how) else|instead|tell me more|more (?:details?|information|info|"
    r"about (?:it|that|this))|go on|elaborate|(?:which|that|this|the|another|first|second|third|"
    r"last|other|new|newer|older|next) ones?|as well|which (?:is|are|was|were|of)|an? example|"
    r"in that case|otherwise|also|neither)\b",
    re.I,
)
# "Is it possible to …", "it is safe that …": this "it" stands for nothing.
_EMPTY_IT = re.compile(
    r"\b(?:(?:is|was|would|will|does|isn.t|be) it (?:\w+ ){0,2}?(?:possible|necessary|required|ok|"
    r"okay|allowed|safe|better|worth|true|legal|advisable|wise|mandatory|recommended|best|enough|"
    r"easy|hard|a good idea|make sense|matter)\b|(?:it (?:is|was|.s)|it.s) (?:\w+ )?(?:possible|"
    r"necessary|required|allowed|safe|true|best|better|recommended) (?:to|that|for|if)\b"
    r"|\b(?:it (?:rains|snows)|make it clear that)\b)",
    re.I,
)
# After these words "that" opens a clause and refers to nothing.
_BEFORE_THAT_CLAUSE = _set(
    "so such check ensure sure say says said know knows mean means think prove verify confirm see "
    "shows show tell believe guarantee require requires assume state states provided given "
    "agree claim note notice"
)


@dataclass(frozen=True, slots=True)
class Word:
    """A content word: how it is written, and what kind of word it seems to be.

    ``identifier``: a number, code, path, option, acronym or quotation; ``proper``: a name by
    its capital; ``verb``: what somebody does, by its place; ``preposition``: the one that its
    phrase begins with.
    """

    text: str
    stem: str
    identifier: bool
    proper: bool
    verb: bool
    preposition: str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """A turn as it was understood.

    ``body`` is the turn without an opening such as "and" or "what about"; ``fragment``: it
    is no sentence; ``preposition``: the one a fragment begins with; ``definite``: a fragment
    that begins with "the", which asks for another side of the same subject.
    """

    content: tuple[Word, ...]
    body: str
    fragment: bool
    preposition: str | None
    definite: bool


def stem(word: str) -> str:
    """Return a word without its commonest English endings, lower case; enough to compare."""
    word = word.lower().strip("`\"“”'’")
    word = re.sub(r"['’]\w{0,2}$", "", word)
    if not word.isalpha() or len(word) < 4:
        return word
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            if word.endswith("ss"):
                break
            word = word[: -len(ending)] + instead
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def same_shape(one: Word, other: Word) -> bool:
    """Tell whether two identifiers are of one kind: 5.2 and 4.1.3, E1042 and E17, TLS and SSH."""
    if not (one.identifier and other.identifier):
        return False
    acronyms = one.text.isalpha() and other.text.isalpha()
    numbered = bool(re.search(r"\d", one.text)) and _shape(one.text) == _shape(other.text)
    return acronyms or numbered


def _shape(text: str) -> str:
    return re.sub(r"\d+(?:\.\d+)*", "9", text.lower())


def _base(token: str) -> str:
    """``it's`` → ``it``, ``don't`` → ``don``, ``company's`` → ``company``."""
    lower = token.lower().replace("’", "'")
    return re.sub(r"(?:n't|'\w{0,2})$", "", lower) or lower


def _identifier(token: str, shouting: bool) -> bool:
    if token[0] in '`"“-' or re.search(r"\d|[_/@#+]|\w[.:]\w", token):
        return True
    inner = token.replace("-", "")
    if shouting:
        return False
    # ``HttpServer``, ``API``, ``vLLM``, ``APIs``; not ``Norway``.
    return len(inner) > 1 and bool(re.search(r"[a-z][A-Z]|[A-Z]{2}", inner))


def read(text: str) -> Reading:
    """Find the content words of a turn and its shape; time grows with its length."""
    tokens = list(_WORD.finditer(text))
    cased = [t.group() for t in tokens if any(c.isalpha() for c in t.group())]
    shouting = len(cased) > 2 and sum(t.isupper() for t in cased) > len(cased) / 2
    bases = [_base(t.group()) for t in tokens]
    words: list[Word] = []
    phrase: str | None = None  # the preposition of the phrase that we are in
    for i, (match, base) in enumerate(zip(tokens, bases, strict=True)):
        token = match.group()
        gap = text[tokens[i - 1].end() : match.start()] if i else ""
        if base in _PREPOSITIONS:
            phrase = base
            continue
        half = base in _SECOND_HALF and bool(words) and words[-1].stem == stem(bases[i - 1])
        if base in _NOT_SUBJECT and not half and not _named(token, base, shouting):
            if base not in _ARTICLES:
                phrase = None
            continue
        first = i == 0 or bool(_BREAK.search(gap))
        identifier = _identifier(token, shouting)
        proper = not identifier and not first and not shouting and token[:1].isupper()
        name = identifier or proper
        if gap.strip() or (words and words[-1].proper and not name):
            phrase = None  # a phrase ends at a comma, and after a name
        verb = not name and _is_verb(bases, i)
        if verb:
            phrase = None
        clean = re.sub(r"['’]s?$", "", token.strip('`"“”'))
        words.append(Word(clean, stem(token), identifier, proper, verb, phrase))
    lead = _LEAD.match(text)
    body = text[lead.end() :] if lead else text
    inner = [_base(t.group()) for t in _WORD.finditer(body)]
    sentence = any(w in _QUESTION or w in _AUXILIARY for w in inner) or _commands(body, words)
    return Reading(
        tuple(words),
        body or text,
        not sentence,
        inner[0] if not sentence and inner and inner[0] in _PREPOSITIONS else None,
        bool(inner) and inner[0] in ("the", "its", "their", "his", "her"),
    )


def _named(token: str, base: str, shouting: bool) -> bool:
    """Whether a common word is a name here: IT, US, WHO in capitals."""
    return not shouting and len(token) > 1 and token.isupper() and base not in ("ok", "i")


def _is_verb(bases: list[str], i: int) -> bool:
    """Whether a word is a verb by what stands before it: "do I …", "how to …", "please …"."""
    while i > 2 and bases[i - 1] in ("and", "or"):  # "to create and delete a key"
        i -= 2
    if i == 0:
        return False
    before, earlier = bases[i - 1], bases[i - 2] if i > 1 else ""
    if before in ("i", "we", "you", "please"):
        return True
    if before in _MODAL:  # "admins can …", but not "can admins …"
        return bool(earlier) and earlier not in _QUESTION
    return before == "to" and earlier in _BEFORE_INFINITIVE


_MODAL = _set("can cannot could should must will would may might")
_BEFORE_INFINITIVE = _set(
    "how want need needs able way try trying have allowed used required possible like"
)
_COMMANDS = _set(
    "show list explain tell give describe compare find summarise summarize name define write "
    "translate create make delete remove add set help search look check calculate convert"
)


def _commands(body: str, words: list[Word]) -> bool:
    opening = _WORD.match(body.lstrip())
    return opening is not None and _base(opening.group()) in _COMMANDS and bool(words)


def starts_anew(text: str) -> bool:
    """Tell whether a turn says that it changes the subject."""
    return bool(_ANEW.match(text))


def is_small_talk(text: str) -> bool:
    """Tell whether a turn is only a greeting, thanks or assent."""
    return bool(_SMALL_TALK.match(text))


def needs_context(text: str) -> bool:
    """Tell whether a turn can be understood only with an earlier one."""
    reading = read(text)
    content = reading.content
    if not content:
        return True  # "Why?", "How long does it take?"
    if _REFERS.search(reading.body) or _dangling_pronoun(reading.body):
        return True
    lead = _LEAD.match(text)
    if reading.fragment:
        if reading.preposition or reading.definite or (lead and _REPLACING.search(lead.group())):
            return True
        # One bare word leans on what was said; two are a query of key words.
        return len(content) == 1 and not content[0].identifier
    if len(content) == 1 and not (content[0].identifier or content[0].proper):
        # "What is the deadline?", "Is there a limit?"; but "What is a tombstone?" stands alone.
        before = text[: text.find(content[0].text)].lower().split()[-2:]
        return before[-1:] not in (["a"], ["an"]) or before[:1] in (["there"], ["have"])
    return False


def _dangling_pronoun(body: str) -> bool:
    """Whether a pronoun refers to nothing inside the turn itself."""
    body = _EMPTY_IT.sub(" ", body)
    tokens = list(_WORD.finditer(body))
    bases = [_base(token.group()) for token in tokens]
    for i, base in enumerate(bases):
        if base not in _PRONOUNS or (tokens[i].group().isupper() and len(base) > 1):
            continue
        follows = bases[i + 1] if i + 1 < len(bases) else ""
        before = bases[i - 1] if i else ""
        if base in ("this", "these") and follows.rstrip("s") in _TIMES:
            continue
        if base == "that" and before and (before in _BEFORE_THAT_CLAUSE or _is_relative(bases, i)):
            continue
        earlier = body[: tokens[i].start()]
        breaks = list(_CLAUSE.finditer(earlier.lower()))
        clause = earlier[: breaks[-1].start()] if breaks else ""
        if base in ("its", "their", "his", "her", "itself", "themselves"):
            clause = earlier  # "which customers change their address?"
        if any(not word.verb for word in read(clause).content):
            continue  # "If a parcel is lost, who pays for it?"
        return True
    return False


def _is_relative(bases: list[str], i: int) -> bool:
    """Whether "that" follows a noun and opens a clause: "files that expire"."""
    follows = bases[i + 1] if i + 1 < len(bases) else ""
    return bases[i - 1] not in _NOT_SUBJECT and bool(follows)
