"""Guesses the language of a text from its script and its commonest words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

READ = 600  # characters that the guess is made from
UNKNOWN = "und"
_WORDS = {
    "en": "the of and to in is that for it with as was are this be have not you what how a an i "
    "my me we he she they them his her our us from by at or if but has had will would can "
    "could do does did no so there their which who when where why please hello thank thanks "
    "dear about after before been were than then into out up on all any some more other "
    "only also its may must should",
    "de": "der die und das ist nicht ein zu mit den von auf eine sich wie ich es im wird was "
    "einen einem einer eines er wir ihr mein meine meinen unser unsere ihre dem des bei "
    "nach aus über um an als auch noch nur oder aber wenn dass kann können haben hat war "
    "sind bin bitte hallo danke zum zur vom beim durch gegen ohne seit bis am sehr mehr "
    "kein keine mir mich uns ihnen",
    "fr": "le les et des est une que pour dans pas sur qui du au ce vous avec je il nous la l d j "
    "n c s qu de un a à en y on ne se sa son ses ma mon mes votre vos notre nos leur leurs "
    "elle ils elles me te lui par ou où mais donc ni si sont été être ont avons avez ai "
    "suis êtes était cette ces cet aux plus très bien tout tous toute toutes sans sous chez "
    "entre depuis merci bonjour bonsoir madame monsieur veuillez voici comme aussi après "
    "avant peut",
    "es": "el los y las es una que por con no para del se su lo como cómo qué está más la de un a "
    "en o u e pero si sin sobre entre hasta desde muy ya también son fue ser ha han he hay "
    "era este esta estos estas ese esa mi mis tu tus sus nuestro nuestra yo me te le les "
    "nos al hola gracias señor señora porque cuando donde quien soy estoy tiene todo todos "
    "toda todas después antes",
    "it": "il che di è e la per un non con sono della del si come gli ho questo anche più lo i "
    "uno una a ad in da dal dalla nel nella sul sulla al alla alle ai agli delle dei degli "
    "dello l d dell nell all o ma se ed ha hanno sei era essere mio mia miei suo sua nostro "
    "vostro mi ti ci vi lei lui noi voi io buongiorno grazie tra fra dopo prima molto già "
    "tutto tutti quando dove chi perché",
    "pt": "o os e de não uma que para com do da em é como você no ao mais são foi a as na nos nas "
    "dos das aos à às pelo pela um uns umas ou mas se sem sobre entre até desde muito já "
    "também ser ter tem têm era esta este isto isso essa esse meu minha seu sua nosso nossa "
    "eu me te lhe nós obrigado obrigada olá bom dia senhor senhora porque quando onde quem "
    "estou tudo todos depois antes",
    "nl": "de het een en van is dat niet te ik op met voor zijn wat aan hoe er ook naar je we wij "
    "ze zij hij u uw mijn onze ons dit deze die als maar of om bij uit door over tot nog "
    "wel geen heb heeft hebben had was waren ben kan kunnen zal wordt worden hallo bedankt "
    "graag na sinds zonder tussen onder meer veel alle alles toen waar wie waarom mij hem "
    "haar hun",
    "pl": "i nie się na jest to że w z do jak co dla czy od przez był są po tak a ale lub ma mam "
    "jestem moja moje mój nasz nasza pan pani pana dzień dobry proszę dziękuję za we ze u o "
    "przed przy bez między będzie być który która które ten ta te tego tej tym mnie mi ci "
    "mu jej jego ich nas was gdy kiedy gdzie kto już tylko bardzo może też również",
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


def common_words(text: str) -> dict[str, int]:
    """How many words of a text are among the commonest of each language, shared ones included."""
    return Counter(
        language for word in _WORD.findall(text.lower()) for language in _OF_WORD.get(word, ())
    )


def _script(char: str) -> str:
    return _SCRIPTS.get(unicodedata.name(char, "").partition(" ")[0], UNKNOWN)
