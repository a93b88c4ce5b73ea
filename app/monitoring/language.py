"""Guesses the language of a text from its script and its commonest words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

READ = 600  # characters that the guess is made from
UNKNOWN = "und"
_WORDS = {
    "en": "the of and to in is that for it with as was are this be have not you what how",
    "de": "der die und das ist nicht ein zu mit den von auf eine sich wie ich es im wird was",
    "fr": "le les et des est une que pour dans pas sur qui du au ce vous avec je il nous",
    "es": "el los y las es una que por con no para del se su lo como cómo qué está más",
    "it": "il che di è e la per un non con sono della del si come gli ho questo anche più",
    "pt": "o os e de não uma que para com do da em é como você no ao mais são foi",
    "nl": "de het een en van is dat niet te ik op met voor zijn wat aan hoe er ook naar",
    "pl": "i nie się na jest to że w z do jak co dla czy od przez był są po tak",
    "sv": "och att det som är på för inte en av med jag till har den om ett hur vad kan",
    "da": "og at det er på ikke en af med jeg til har den for som et hvordan hvad kan de",
    "tr": "ve bir bu için ne ile da de çok nasıl var mı mi daha gibi olarak değil ben o ya",
}
_OF_WORD: dict[str, list[str]] = {}
for _language, _words in _WORDS.items():
    for _word in _words.split():
        _OF_WORD.setdefault(_word, []).append(_language)
_SCRIPTS = {
    "CJK": "zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CYRILLIC": "ru",
    "GREEK": "el",
    "ARABIC": "ar",
    "HEBREW": "he",
    "DEVANAGARI": "hi",
    "THAI": "th",
}
_WORD = re.compile(r"[^\W\d_]+")
_BEYOND_LATIN = re.compile(r"[Ͱ-῿⺀-퟿豈-﫿ﭐ-﷿ﹰ-﻿]")


def language_of(texts: Iterable[str]) -> str:
    """The likeliest language (ISO 639-1) of texts that belong together; ``und`` where none is.

    Cyrillic counts as Russian, Arabic script as Arabic: the guess tells that languages changed,
    not which one a text has.
    """
    text = ""
    for part in texts:
        text += part[: READ - len(text)] + " "
        if len(text) >= READ:
            break
    beyond = _BEYOND_LATIN.findall(text)
    if beyond and 4 * len(beyond) > len(text.strip()):
        scripts = Counter(_script(char) for char in beyond)
        if scripts["ja"]:  # Japanese is written with Chinese signs too
            return "ja"
        return scripts.most_common(1)[0][0]
    votes: dict[str, float] = {}
    for word in _WORD.findall(text.lower()):
        found = _OF_WORD.get(word)
        if found is not None:
            for language in found:
                votes[language] = votes.get(language, 0.0) + 1 / len(found)
    if not votes:
        return UNKNOWN
    best = max(votes, key=lambda language: votes[language])
    return best if votes[best] >= 1 else UNKNOWN


def _script(char: str) -> str:
    return _SCRIPTS.get(unicodedata.name(char, "").partition(" ")[0], UNKNOWN)
