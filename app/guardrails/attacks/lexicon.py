"""The words that instructions to a model are made of, by the part they play, in eight languages.

English, German, French, Spanish, Italian, Dutch, Polish, Portuguese. Each part has a letter; the
rules in `rules.py` are patterns over these letters, so a rule holds in every language at once.
Verbs stand as one commands with them: what a third person does (``ignores``) is no command.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.guardrails.attacks.view import fold_word

_PARTS: dict[str, str] = {
    # to set instructions aside
    "V": "ignore disregard forget override bypass overrule neglect discard dismiss nullify "
    "unlearn circumvent violate disobey supersede overwrite ignoriere ignorier missachte vergiss "
    "vergesse verwirf umgehe übergehe überschreibe ignorez oublie oubliez néglige contourne "
    "outrepasse ignora ignorar olvida olvide omite desobedece descarta anula dimentica trascura "
    "tralascia scavalca negeer vergeet omzeil sáltate salta zignoruj ignoruj zapomnij pomiń omiń "
    "esqueça esquece desconsidere desconsidera",
    # the same, of words with many other uses
    "v": "drop erase clear scrap skip wipe cancel revoke remove break lift disable suspend "
    "abandon reject undo shed",
    # what binds
    "T": "instruction instructions rule rules guideline guidelines guidance directive directives "
    "command commands orders programming constraint constraints directions wytycznych normas "
    "anweisung anweisungen regel regeln richtlinie richtlinien vorgaben befehle instruktionen "
    "consigne consignes règle règles ordres instrucciones reglas directrices indicaciones "
    "órdenes istruzioni regole direttive comandi instructies regels richtlijnen opdrachten "
    "instrukcje instrukcji instrukcjach polecenia poleceń poleceniach zasady zasad zasadach "
    "wytyczne instruções regras diretrizes",
    # what holds back
    "H": "policy policies restriction restrictions limit limits limitation limitations filter "
    "filters filtering restraints boundaries inhibitions legality einschränkung einschränkungen "
    "beschränkungen grenzen zensur limite limites filtre filtres censure contraintes "
    "restricciones filtros censura restrizioni limiti filtri vincoli beperkingen ograniczeń "
    "ograniczenia filtrów cenzury restrições",
    # what keeps from harm
    "s": "safety safeguards guardrail guardrails ethics ethical moral morals morality censorship "
    "alignment moderation sicherheit sécurité seguridad sicurezza veiligheid bezpieczeństwa",
    # what a model is started with
    "Q": "prompt preamble systemprompt systemnachricht metaprompt preprompt promptu prompta "
    "systeemprompt",
    # what is not for the user
    "S": "system developer hidden secret internal confidential initial original underlying core "
    "base debug admin maintenance god système sistema systeem systemowy systemowe systemowej "
    "systemowego initiales iniciales iniziali",
    # what came before
    "P": "previous prior above earlier preceding foregoing former before past previously "
    "existing vorherige vorherigen vorige vorigen bisherige bisherigen obige obigen früheren "
    "zuvor vorher bisher oben précédent précédente précédents précédentes antérieures auparavant "
    "avant dessus anterior anteriores previas antes arriba precedente precedenti prima "
    "voorgaande vorige eerdere bovenstaande poprzednie poprzednich wcześniejsze wcześniejszych "
    "powyższe prévias",
    # all of it
    "A": "all any every alle allen jede sämtliche tous toute toutes todos toda todas tutti tutte "
    "ogni wszystkie wszystkich",
    # everything
    "x": "everything anything whatever alles tout todo tutto wszystko wszystkim tudo",
    # its own
    "Y": "your yours dein deine deinen deiner deinem ton ta tes votre vos tus tuo tua tuoi tue "
    "jouw swoje swój swoją swoich twoje twój teu teus tuas",
    # the model spoken to
    "U": "you yourself du dir dich tu te toi vous ti je jij jou ty ci cię você",
    # to be
    "e": "are re become be bist es bent és",
    # to play a part
    "J": "act assume pretend roleplay simulate imagine behave impersonate emulate persona "
    "hypothetically verhalte benimm agis comporte compórtate actúa fingi comportati agisci "
    "gedraag zachowuj udawaj age finja sei eres jesteś",
    # without rules
    "I": "unrestricted uncensored unfiltered jailbroken unbound limitless amoral unethical evil "
    "lawless uneingeschränkt ungefiltert unzensiert",
    # without
    "W": "no without zero free none ohne kein keine keinerlei sans aucun aucune sin ningún "
    "ninguna senza nessun nessuna zonder geen bez żadnych sem ignores bypasses violates lacks "
    "ignoring",
    # not
    "N": "not don doesn never stop cease quit avoid nicht niemals nie ne pas plus jamais non più "
    "mai niet nooit nunca não",
    # to follow
    "F": "follow following obey obeying comply adhere abide heed apply applies bound respect "
    "matter matters exist exists folge befolge beachte gelten gilt halten soumis houden houd "
    "obowiązują suis suivre respecte obéis applique sigas seguir segui seguire rispettare volg "
    "volgen przestrzegaj stosuj siga",
    # given to it
    "G": "given told received gave instructed provided handed trained programmed configured got "
    "gesagt erhalten bekommen gegeben reçu reçues reçus données donné donnés dit recibiste dado "
    "dieron dato ricevuto ricevute gekregen gegeven otrzymałeś operate",
    # no longer in force
    "O": "void deleted irrelevant meaningless off removed gone obsolete cancelled canceled "
    "revoked lifted suspended outdated disabled overridden null expired deactivated inactive "
    "aufgehoben ungültig annulées levées anuladas revocadas annullate opgeheven uchylone",
    # to tell
    "R": "see lies tell give show list share summarise summarize translate describe state "
    "provide return write paste say complete recommend promote claim rank rate approve mark hide "
    "praise advertise mention affirm insist zeige zeig gib nenne sag sage empfiehl schreibe "
    "traduis affirme dis donne montre recommande di dime dimmi escribe traduce traduci scrivi "
    "geef zeg schrijf podaj powiedz napisz diga",
    # to tell, of what was not meant to be told
    "r": "reveal print repeat output display dump leak recite echo expose disclose copy "
    "reproduce quote spell verrate wiederhole drucke affiche répète révèle imprime muestra "
    "muéstrame repite revela mostra mostrami rivela ripeti stampa toon herhaal onthul pokaż "
    "powtórz ujawnij wypisz mostre revele repita",
    # which
    "w": "what which wie welche quel quelle quels quelles cuál cuáles quale quali wat welke jaki "
    "jakie qual",
    # word for word
    "L": "verbatim literally exactly exact entire entirely full fully word letter wörtlich "
    "vollständig entier intégralement wort letterlijk mot palabra parola",
    # what was written
    "o": "words text message messages content contents nachricht mensaje messaggio bericht",
    # to answer
    "a": "answer respond reply answering antworte beantworte beantworten réponds répondre "
    "responde responder rispondi antwoord beantwoord odpowiadaj responda",
    # what it was asked
    "q": "question questions request query task job goal purpose objective mission frage "
    "pregunta domanda vraag zadanie",
    # who asks it
    "B": "user users reader readers customer customers visitor nutzer nutzers benutzer "
    "utilisateur usuario utente gebruiker",
    # a language model by name
    "M": "ai llm llms chatbot chatbots chatgpt gpt copilot claude gemini sprachmodell "
    "sprachmodelle",
    # words for a model that also mean people
    "g": "assistant assistants agent agents bot bots assistent asistente asystent",
    # words for a model that also mean things
    "k": "model models modelo modèle modello",
    # must
    "m": "must should shall required muss soll sollte doit debe deve moet musi",
    # new
    "n": "new real actual neue neuen nouvelle nouvelles nuevas nuove nieuwe nowe",
    # mode
    "D": "mode modus",
    # to refuse
    "X": "refusing refuse refuses refusal refusals decline declines apologize apologise "
    "apologies disclaimer disclaimers warning warnings warns lecture lectures moralize caveats "
    "sorry",
    # to act with a tool
    "c": "call run execute invoke visit open click delete fetch download install load transfer",
    # tool
    "t": "tool tools function shell",
    # to send
    "E": "send append attach include insert add put encode post upload email submit forward "
    "exfiltrate sende schicke envoie envía invia stuur wyślij",
    # what was said in confidence
    "C": "conversation chat history secrets password passwords credentials data contacts key "
    "keys token tokens",
    # any one, not this one
    "i": "a an ein eine einen un une una een",
    # if, when
    "?": "if when whenever wenn falls si lorsque quand cuando quando wanneer jeśli gdy",
    # this
    "d": "this these dieses diese diesen ce cette este esta questo questa dit deze",
    # instead
    "z": "instead statt anstatt lieu",
    # what is made up
    "f": "fictional fiction story novel character grandmother grandma grandfather grandpa "
    "imaginary",
    # what harms
    "h": "bomb bombs meth napalm malware explosive explosives poison ransomware weapon weapons "
    "counterfeit stalk hotwire skimmer",
    # about
    "p": "for on about regarding concerning",
    # may
    "~": "will can could may would might wird kann",
    # to
    ">": "to",
}

LEXICON: dict[str, str] = {
    fold_word(word): part for part, words in _PARTS.items() for word in words.split()
}
WORDS = frozenset(LEXICON)
_BIT = {letter: 1 << place for place, letter in enumerate([*_PARTS, ",", ":"])}
OTHER = "."
END = "|"
LONG = frozenset(w for w in WORDS if len(w) > 5)  # what a text without gaps is searched for
# words that make a text one about attacks
ABOUT = frozenset(
    (  # noqa: SIM905
        "attack attacks attacker attackers injection injections jailbreak jailbreaks phrase "
        "phrases filter filters detect detects detector detection slang poster translate "
        "translates "
        "rewrite übersetze traduis quoted quote example examples mean means exploit owasp "
        "adversarial malicious annex defends defend"
    ).split()
)
# words of which one makes what is told in the third person a report of an attack
REPORTED = frozenset(
    {
        "attack",
        "attacks",
        "attacker",
        "attackers",
        "injection",
        "injections",
        "jailbreak",
        "jailbreaks",
        "adversarial",
        "exploit",
        "owasp",
    }
)
# German and Dutch write the kind of rule before it in one word
_COMPOUNDS = {
    fold_word(last): letter
    for letter, words in {
        "T": "regeln richtlinien anweisungen vorgaben befehle regels richtlijnen instructies",
        "H": "beschränkungen einschränkungen beperkingen",
        "Q": "prompt",
    }.items()
    for last in words.split()
}
_LAST = tuple(_COMPOUNDS)
_LEET = (
    str.maketrans("01345789", "oieastbg"),
    str.maketrans("01345789", "oleastbg"),
)


def mask(parts: Iterable[str]) -> int:
    """The parts as bits."""
    found = 0
    for letter in parts:
        found |= _BIT.get(letter, 0)
    return found


def part(word: str) -> str:
    """The letter of a folded word, also of a compound, or with digits for some letters."""
    found = LEXICON.get(word)
    if found is not None:
        return found
    if len(word) > 9 and word.endswith(_LAST):
        return next(letter for last, letter in _COMPOUNDS.items() if word.endswith(last))
    if len(word) > 3 and not word.isalpha() and not word.isdecimal():
        for table in _LEET:
            found = LEXICON.get(word.translate(table))
            if found is not None:
                return found
    return OTHER


def shifted(word: str, by: int) -> str:
    """The word in Caesar's cipher."""
    return "".join(chr((ord(c) - 97 + by) % 26 + 97) if "a" <= c <= "z" else c for c in word)


_TELLING = (  # noqa: SIM905
    "ignore disregard forget override previous instructions guidelines system prompt reveal "
    "rules restrictions"
).split()
# a word in cipher -> the shift that makes it readable again; 0: it is written backwards
CIPHERED: dict[str, int] = {
    **{shifted(w, by): 26 - by for by in range(1, 26) for w in _TELLING if len(w) > 4},
    **{w[::-1]: 0 for w in _TELLING if len(w) > 4},
}
for _word in WORDS & CIPHERED.keys():
    del CIPHERED[_word]
