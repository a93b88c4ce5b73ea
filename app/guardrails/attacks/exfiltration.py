"""Data carried out of a conversation: by an address that holds it, or by request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_plus

from app.guardrails.attacks.encodings import from_base32, from_base64, readable
from app.guardrails.findings import Finding

EXFILTRATION = "EXFILTRATION"
_TALK = (
    r"(?:conversation|chat|history|messages?|prompt|context|summary|memory|question|answer|"
    r"stolen|leak|profile|user[_ -]?(?:data|info|input|messages?|e?mail|name)|cookies?)"
)
_KEYS = r"(?:secrets?|passwords?|passwd|tokens?|api[_ -]?keys?|credentials|key)"
_OPEN = r"(?:\{\{?|\[|<|%7b%7b|\$\{)"
_ADDRESS = r"(?:https?|ftp)://[^\s\"'<>)\]}]{0,300}"
_BLANK = re.compile(
    rf"(?:https?|ftp)://(?:[^\s\"'<>():]|:\d){{0,300}}?{_OPEN}[^\]>}}\n]{{0,60}}?(?:({_TALK})|({_KEYS}))",
)
_CAPITALS = re.compile(
    r"https?://[^\s\"'<>()]{0,300}=[A-Z_]{0,30}"
    r"(?:SECRET|TOKEN|PASSWORD|QUESTION|MESSAGE|CHAT|HISTORY|CONVERSATION|API_?KEY|DATA)[A-Z_]{0,30}\b"
)
_BLANK_HOST = re.compile(
    rf"\{{\{{?[^}}\s]{{0,30}}(?:{_TALK}|{_KEYS})[^}}\s]{{0,30}}\}}\}}?\.[a-z0-9\-]{{1,63}}\.[a-z]",
)
_SHELL_HOST = re.compile(
    r"\$\((?:cat|echo|env|printenv|base64|head|whoami)\b[^)\n]{0,60}\)\.[a-z0-9\-]{1,63}\.[a-z]"
)
_SHOWN = re.compile(
    r"(?:!\[[^\]\n]{0,200}\]\(|<img\s|<iframe\s|<embed\s|url\(\s?[\"']?|^\[[^\]]{1,40}\]:\s)"
)
_LINK = re.compile(r"\]\(\s?$|href\s?=\s?[\"']$")
_URL = re.compile(r"https?://([^\s/?#\"'<>()\[\]]{1,253})([^\s\"'<>()\[\]]{0,4000})")
_SCRIPT = re.compile(
    r"https?://[^\s\"']{0,300}[\"']\s{0,3}\+\s{0,3}[^\n]{0,40}"
    r"(?:document\.cookie|localstorage|sessionstorage)"
    r"|\bsendbeacon\([^\n]{0,200}document\.cookie"
)
_PRIVATE = (
    r"(?:everything (?:we|i|you|that)|(?:whole |entire |full )?(?:conversation|chat)\b|"
    r"(?:chat |conversation |message )?history|previous messages|passwords?|secrets|credentials|"
    r"api keys?|contacts|(?:all |the user's |every )(?:\w{1,12} ){0,2}(?:data|files?|documents|"
    r"e-?mails|messages)|e-?mail address(?:es)?|"
    r"user's (?:\w{1,8} )?(?:questions?|messages?|names?|data)|"
    r"contents? of (?:the |all |my |your |every ){1,2}(?:files?|documents?|e-?mails)|"
    r"last \w{1,8} e-?mails|environment variables)"
)
_TO = r"(?:@[a-z0-9\-]{1,60}\.|(?:https?|ftp)://)"
_WIDE = r"[^\n]{0,100}?"
_REQUESTS: tuple[tuple[float, re.Pattern[str]], ...] = tuple(
    (weight, re.compile(pattern))
    for weight, pattern in (
        (
            0.75,
            rf"\b(?:send|forward|e-?mail|post|upload|submit|transmit|leak|exfiltrate|copy|write|contains?)\b{_WIDE}"
            rf"{_PRIVATE}{_WIDE}{_TO}",
        ),
        (
            0.75,
            rf"\b(?:append|add|encode|attach|include|insert|put|embed)\b{_WIDE}{_PRIVATE}{_WIDE}"
            r"\b(?:url|link|query|parameter|image|picture|pixel|path|https?:)",
        ),
        (0.7, rf"\bsummar\w{{2,8}} (?:the |this )?(?:chat|conversation)\b{_WIDE}{_TO}"),
        (0.7, r"(?:https?|ftp)://\S{1,300}[=?/] {1,3}(?:followed by|plus|and append)\b"),
    )
)
_SENDING = re.compile(r"://|@")
# parameters in which honest addresses carry words
_WORDS_IN = frozenset(
    (  # noqa: SIM905
        "q query search s text subject body title label url next return redirect redirect_uri "
        "state scope description name tex latex chl message caption alt"
    ).split()
)
_LEAST_WORDS = 5
_LEAST_SHOWN = 3  # words, in an address that a page loads by itself
_MAIL = re.compile(r"[\w.+\-]{1,64}@[\w\-]{1,63}\.\w")
_FILE = re.compile(r"\.[A-Za-z0-9]{2,5}$")


def find_exfiltration(text: str) -> list[Finding]:
    """Addresses that carry data out, and requests to make such."""
    if "://" not in text and "@" not in text and "}." not in text and ")." not in text:
        return []
    return [*_blanks(text), *_loaded(text), *_requests(text)]


def find_leaving(text: str) -> list[Finding]:
    """Addresses in a reply by which data leaves when it is shown, or a link is followed.

    What a page loads by itself counts from three words or one encoded text on, also in its path;
    a link that somebody has to follow from what :func:`find_exfiltration` asks for.
    """
    if "://" not in text:
        return []
    found = []
    for m in _URL.finditer(text):
        shown = _is_shown(text, m.start())
        score = max(_host_says(m[1]), _rest_says(m[2], shown))
        if score:
            found.append(Finding(EXFILTRATION, m.start(), m.end(), score))
    return found + [f for f in _blanks(text) if _is_shown(text, f.start)]


def _rest_says(rest: str, shown: bool) -> float:
    path, _, query = rest.partition("?")
    score = 0.0
    for pair in re.split("[&;]", query)[:50] if query else ():
        name, _, value = pair.partition("=")
        score = max(score, _value_says(name.lower(), value, shown))
        plain = unquote_plus(value or name)
        if shown and not plain.startswith(("http://", "https://", "{")):
            if _decoded(plain) is not None or _MAIL.search(plain):
                score = max(score, 0.7)
            if name.lower() not in _WORDS_IN and len(plain.split()) >= _LEAST_SHOWN:
                score = max(score, 0.7)
    if shown:
        for part in path.split("/"):
            plain = unquote_plus(part)
            if _FILE.search(plain):
                continue
            if (said := _decoded(plain)) is not None and " " in said:
                score = max(score, 0.8)
            elif len(plain.split()) > _LEAST_SHOWN:
                score = max(score, 0.6)
    return score


def _blanks(text: str) -> Iterator[Finding]:
    """Addresses with a place for what was said."""
    low = text.lower()
    low = low if len(low) == len(text) else text
    for m in _BLANK.finditer(low):
        shown = _is_shown(text, m.start())
        score = 0.85 if m[1] else 0.8 if shown else 0.6 if _in_link(text, m.start()) else 0.4
        yield Finding(EXFILTRATION, m.start(), _end(text, m.end()), score)
    for m in _CAPITALS.finditer(text):
        said = any(word in m[0] for word in ("QUESTION", "MESSAGE", "CHAT", "HISTORY"))
        if said or _is_shown(text, m.start()):
            yield Finding(EXFILTRATION, m.start(), m.end(), 0.7)
    for pattern, score in ((_BLANK_HOST, 0.7), (_SHELL_HOST, 0.7), (_SCRIPT, 0.8)):
        for m in pattern.finditer(low):
            yield Finding(EXFILTRATION, m.start(), m.end(), score)


def _loaded(text: str) -> Iterator[Finding]:
    """Addresses that hold a text, in a parameter or as names of hosts."""
    for m in _URL.finditer(text):
        host, rest = m[1], m[2]
        score = _host_says(host)
        _, _, query = rest.partition("?")
        shown = _is_shown(text, m.start())
        for pair in query.split("&")[:50] if query else ():
            name, _, value = pair.partition("=")
            score = max(score, _value_says(name.lower(), value, shown))
        if score:
            yield Finding(EXFILTRATION, m.start(), m.end(), score)


def _value_says(name: str, value: str, shown: bool) -> float:
    if len(value) < 24:
        return 0.0
    plain = unquote_plus(value)
    said = _decoded(plain)
    if said is not None and said.count(" ") >= 2:
        return 0.85
    if name in _WORDS_IN or plain.startswith(("http://", "https://", "{")):
        return 0.0
    words = plain.split()
    if (
        len(words) < _LEAST_WORDS
        or sum(w.strip(".,;:!?'").isalnum() for w in words) < len(words) / 2
    ):
        return 0.0
    return 0.75 if shown else 0.55


def _host_says(host: str) -> float:
    labels = [label for label in host.split(".")[:-2] if len(label) >= 16]
    if not labels:
        return 0.0
    if _decoded("".join(labels)) is not None:
        return 0.8
    return 0.0


def _decoded(value: str) -> str | None:
    """The text that a value says in base64, base32 or hex."""
    letters = value.strip().rstrip("=")
    if not re.fullmatch(r"[A-Za-z0-9+/_\-]{16,}", letters):
        return None
    for way in (from_base64, from_base32, bytes.fromhex):
        try:
            said = readable(way(letters))
        except ValueError:
            continue
        if said is not None:
            return said
    return None


def _requests(text: str) -> Iterator[Finding]:
    if not _SENDING.search(text):
        return
    low = text.lower()
    low = low if len(low) == len(text) else text
    for weight, pattern in _REQUESTS:
        for m in pattern.finditer(low):
            yield Finding(EXFILTRATION, m.start(), _end(text, m.end()), weight)


def _is_shown(text: str, at: int) -> bool:
    """Whether the address at ``at`` is loaded as soon as the text is shown."""
    line = text.rfind("\n", 0, at) + 1
    before = text[max(line, at - 250) : at]
    begun = [m.end() for m in _SHOWN.finditer(before)]
    return bool(begun) and not re.search(r"[)>\s]\S*\s", before[begun[-1] :])


def _in_link(text: str, at: int) -> bool:
    return _LINK.search(text[max(0, at - 12) : at]) is not None


def _end(text: str, at: int) -> int:
    """The end of the address in which ``at`` lies."""
    m = re.compile(r"[^\s\"')]{0,300}").match(text, at)
    return m.end() if m else at
