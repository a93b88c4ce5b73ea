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
    "V": "ignore disregard forget override bypass overrule neglect discard dismiss nullify unlearn "
    "circumvent violate disobey supersede overwrite "
    "ignoriere ignorier missachte vergiss vergesse verwirf umgehe übergehe überschreibe "
    "ignorez oublie oubliez néglige contourne outrepasse ignora ignorar olvida olvide omite "
    "desobedece descarta anula dimentica trascura tralascia scavalca negeer vergeet omzeil "
    "zignoruj ignoruj zapomnij pomiń omiń esqueça esquece desconsidere desconsidera",
    # the same, of words with many other uses
    "v": "drop erase clear scrap skip wipe cancel revoke remove break lift disable suspend abandon "
    "reject undo shed",
    "T": "instruction instructions rule rules guideline guidelines guidance directive directives "
    "command commands orders policy policies programming constraint constraints directions "
    "anweisung anweisungen regel regeln richtlinie richtlinien vorgaben befehle instruktionen "
    "consigne consignes règle règles ordres instrucciones reglas directrices indicaciones órdenes "
    "istruzioni regole direttive comandi instructies regels richtlijnen opdrachten instrukcje "
    "instrukcji instrukcjach polecenia poleceń poleceniach zasady zasad zasadach wytyczne "
    "instruções regras diretrizes",
    "H": "restriction restrictions limit limits limitation limitations filter filters guardrail "
    "guardrails safeguards safety ethics ethical moral morals morality censorship restraints "
    "boundaries inhibitions legality einschränkung einschränkungen beschränkungen grenzen zensur "
    "limite limites filtre filtres censure contraintes restricciones filtros censura restrizioni "
    "limiti filtri vincoli beperkingen ograniczeń ograniczenia filtrów cenzury restrições",
    "Q": "prompt preamble systemprompt systemnachricht metaprompt preprompt promptu prompta "
    "systeemprompt",
    "S": "system developer hidden secret internal confidential initial original underlying core "
    "admin maintenance god système sistema systeem systemowy systemowej systemowego initiales "
    "iniciales iniziali",
    "P": "previous prior above earlier preceding foregoing former before past previously existing "
    "vorherige vorherigen vorige vorigen bisherige bisherigen obige obigen früheren zuvor vorher "
    "bisher oben précédent précédente précédents précédentes antérieures auparavant avant dessus "
    "anterior anteriores previas antes arriba precedente precedenti prima voorgaande vorige "
    "eerdere bovenstaande poprzednie poprzednich wcześniejsze wcześniejszych powyższe prévias",
    "A": "all any every alle allen jede sämtliche tous toute toutes todos toda todas tutti tutte "
    "ogni wszystkie wszystkich",
    "x": "everything anything whatever alles tout todo tutto wszystko wszystkim tudo",
    "Y": "your yours dein deine deinen deiner deinem ton ta tes votre vos tus tuo tua tuoi tue "
    "jouw swoje swój swoją swoich twoje twój teu teus tuas",
    "U": "you yourself du dir dich tu te toi vous ti je jij jou ty ci cię você",
    "e": "are re become be bist es bent és",
    "J": "act pretend roleplay simulate imagine behave impersonate emulate persona hypothetically "
    "verhalte benimm agis comporte compórtate actúa fingi comportati agisci gedraag zachowuj "
    "udawaj age finja sei eres jesteś",
    "I": "unrestricted uncensored unfiltered jailbroken unbound limitless amoral unethical evil "
    "lawless uneingeschränkt ungefiltert unzensiert",
    "W": "no without zero free off none ohne kein keine keinerlei sans aucun aucune sin ningún "
    "ninguna senza nessun nessuna zonder geen bez żadnych sem ignores bypasses violates lacks "
    "ignoring",
    "N": "not don doesn never stop cease quit avoid nicht niemals nie ne pas plus jamais non più "
    "mai niet nooit nunca não",
    "F": "follow following obey obeying comply adhere abide heed apply bound respect folge befolge "
    "beachte gelten gilt suis suivre respecte obéis applique sigas seguir segui seguire rispettare "
    "volg volgen przestrzegaj stosuj siga",
    "G": "given told received gave instructed provided handed trained programmed configured got "
    "gesagt erhalten bekommen gegeben reçu reçues reçus données donné donnés dit recibiste dado "
    "dieron dato ricevuto ricevute gekregen gegeven otrzymałeś operate",
    "O": "void obsolete cancelled canceled revoked lifted suspended outdated disabled overridden "
    "null expired deactivated inactive aufgehoben ungültig annulées levées anuladas revocadas "
    "annullate opgeheven uchylone",
    "R": "tell give show list share summarise summarize translate describe state provide return "
    "write paste say complete recommend promote claim rank rate approve mark hide praise advertise "
    "mention affirm insist zeige zeig gib nenne sag sage empfiehl schreibe traduis affirme "
    "dis donne montre recommande di dime dimmi escribe traduce traduci scrivi geef zeg schrijf "
    "podaj powiedz napisz diga",
    "r": "reveal print repeat output display dump leak recite echo expose disclose copy reproduce "
    "quote spell verrate wiederhole drucke affiche répète révèle imprime muestra muéstrame "
    "repite revela mostra mostrami rivela ripeti stampa toon herhaal onthul pokaż powtórz ujawnij "
    "wypisz mostre revele repita",
    "w": "what which wie welche quel quelle quels quelles cuál cuáles quale quali wat welke jaki "
    "jakie qual",
    "L": "verbatim literally exactly exact entire entirely full fully word letter wörtlich "
    "vollständig entier intégralement mot palabra parola",
    "o": "words text message messages content contents nachricht mensaje messaggio bericht",
    "a": "answer respond reply answering antworte beantworte beantworten réponds répondre responde "
    "responder rispondi antwoord beantwoord odpowiadaj responda",
    "q": "question questions request query task job frage pregunta domanda vraag zadanie",
    "B": "user users reader readers customer customers visitor nutzer nutzers benutzer utilisateur "
    "usuario utente gebruiker",
    "M": "ai llm llms chatbot chatbots chatgpt gpt copilot claude gemini sprachmodell "
    "sprachmodelle",
    "g": "assistant assistants agent agents bot bots assistent asistente asystent",
    "k": "model models modelo modèle modello",
    "m": "must should shall required muss soll sollte doit debe deve moet musi",
    "n": "new real actual neue neuen nouvelle nouvelles nuevas nuove nieuwe nowe",
    "D": "mode modus",
    "X": "refuse refuses refusal refusals decline declines apologize apologise apologies "
    "disclaimer disclaimers warning warnings caveats sorry",
    "c": "call run execute invoke visit open click delete fetch download install load transfer",
    "t": "tool tools function shell",
    "E": "send append attach include insert add put encode post upload email submit forward "
    "exfiltrate sende schicke envoie envía invia stuur wyślij",
    "C": "conversation chat history secrets password passwords credentials data contacts key keys "
    "token tokens",
    "i": "a an ein eine einen un une una een",
    "?": "if when whenever wenn falls si lorsque quand cuando quando wanneer jeśli gdy",
    "d": "this these dieses diese diesen ce cette este esta questo questa dit deze",
    "z": "instead statt anstatt lieu",
    "f": "fictional fiction story novel character grandmother grandma imaginary",
    "h": "bomb bombs meth napalm malware explosive explosives poison ransomware weapon weapons "
    "counterfeit stalk hotwire skimmer",
    "~": "will can could may would might wird kann",
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
        "phrases filter filters detect detects detector detection slang poster translate translates "
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
    """The letter of a folded word, also when digits stand for some of its letters."""
    found = LEXICON.get(word)
    if found is not None:
        return found
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
