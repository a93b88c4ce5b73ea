"""Web addresses: Presidio's pattern takes seconds for a kilobyte of ``a.a.a.``, this one not."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from app.guardrails.patterns import Pattern, Recognizer

_NEEDS = re.compile(r"://|\w\.\w")
_REST = r"(?::\d{1,5})?(?:[/?#][^\s<>\"'`]*(?<![.,;:!?)\]]))?"
_LABEL = r"[^\W_](?:[\w\-]{0,61}[^\W_])?"
# a host is tried where it begins, and nowhere inside of it
_HOST = rf"(?<![\w.\-@])(?P<checked>(?:{_LABEL}\.){{1,20}}+[^\W\d_]{{2,24}})(?![\w\-]|\.\w)"
_SCHEME = r"(?<!\w)(?:https?|ftp)://[^\s<>\"'`/]{1,255}"


@cache
def url_recognizer() -> Recognizer:
    """Finds addresses with a scheme, and hosts that end in a public suffix with what follows."""
    import regex

    with_scheme = Pattern(regex.compile(_SCHEME + _REST, regex.IGNORECASE), 0.6)
    bare = Pattern(regex.compile(_HOST + _REST, regex.IGNORECASE), 0.5)
    context = ("url", "website", "link")
    return Recognizer("URL", [with_scheme, bare], context, _ends_publicly, needs=_NEEDS)


@cache
def suffixes() -> Any:
    """The list of public suffixes that comes with tldextract, which by default fetches it anew."""
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None)


def _ends_publicly(host: str) -> bool | None:
    if "://" in host:
        return None
    return None if suffixes()(host).top_domain_under_public_suffix else False
