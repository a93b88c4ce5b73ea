"""Whether the words before a value say what it is: a number after "passport" is one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from app.guardrails.languages import ENGLISH, Languages

REACH = 96  # characters before a value that are looked at
WORDS = 5  # telling ones among them; Presidio's count, without the words that tell nothing
SUPPORT = 0.35  # what support adds to a score, and
SUPPORTED = 0.4  # the least that it makes of one: Presidio's figures
_WORD = re.compile(r"[^\W_]+")
_IDLE_WORDS = {
    "de": "als am an auf bei bitte das dem den der die eine einer er es für hat ich ihr ihre "
    "im in ist lautet mein meine mit sein seine sie sind und uns unser unsere von war wir "
    "zu zum zur",
    "en": "a an and are as at be been by for from had has have her his i in is it its my no of on "
    "or our please that the their there this to was we were will with you your",
    "es": "a al como con de del el ella en es este esta la las le lo los me mi mis nuestra "
    "nuestro para por que se ser son su sus un una y yo",
    "fr": "a au aux avec c ce cette d dans de des du elle en est et il j je l la le les leur ma "
    "mes mon n nos notre nous par pour qu que qui sa ses si sont son sur un une voici vos "
    "votre vous",
    "it": "a al alla con da dal dalla de dei del della di e ed è gli i il in la le lo mia mio nel "
    "nella per questo questa si sono sua suo un una",
    "nl": "aan bij dat de die dit een en er het ik in is mijn met naar onze op te u uw van voor "
    "was wij ze zijn",
    "pl": "do i jak jest mój moja moje na o od się są to w z za ze",
    "pt": "a ao as com da das de do dos e é em este esta eu meu minha na no o os para por que se "
    "seu sua um uma",
}


@lru_cache(1024)  # tenants choose what comes here
def _idle(languages: Languages) -> frozenset[str]:
    return frozenset(word for one in languages for word in _IDLE_WORDS.get(one, "").split())


def words_before(text: str, place: int, languages: Languages = ENGLISH) -> str:
    """The last telling words before ``text[place]``, in lower case, one blank between them."""
    idle = _idle(languages)
    found = _WORD.findall(text[max(0, place - REACH) : place].lower())
    return " ".join([word for word in found if word not in idle][-WORDS:])


@lru_cache(1024)  # tenants choose what comes here
def _phrases(context: Sequence[str], languages: Languages) -> tuple[str, ...]:
    """Context words and phrases as :func:`words_before` would have them."""
    idle = _idle(languages)
    told = (" ".join(w for w in phrase.split(" ") if w not in idle) for phrase in context)
    return tuple(phrase for phrase in told if phrase)


def supports(before: str, context: Sequence[str]) -> bool:
    """Whether one of the context words, or a phrase of them, is in or part of these words."""
    return any(word in before for word in context)


def supported(score: float) -> float:
    """The score of a value whose context supports it."""
    return min(1.0, max(score + SUPPORT, SUPPORTED))


def in_context(
    score: float,
    text: str,
    place: int,
    context: tuple[str, ...],
    languages: Languages = ENGLISH,
) -> float:
    """The score of a value at ``text[place]`` by the words before it, in these languages."""
    if score < 1.0 and context:
        before = words_before(text, place, languages)
        if supports(before, _phrases(context, languages)):
            return supported(score)
    return score
