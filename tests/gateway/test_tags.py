"""Tags of a call: read strictly, bounded, and those of a key hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.errors import BadRequest
from app.gateway.call import Principal
from app.gateway.tags import HEADER, tags_of
from tests.gateway.conftest import made_call

WHO = made_call().principal
FIXED = replace(WHO, tags=(("team", "search"),))


def test_a_header_gives_tags_and_its_absence_none() -> None:
    given = {HEADER: b"project=apollo, team=search,run=2026-11-28T10:00/a@b.c_d"}
    assert tags_of(WHO, given) == {
        "project": "apollo",
        "team": "search",
        "run": "2026-11-28T10:00/a@b.c_d",
    }
    assert tags_of(WHO, {}) == {}


@pytest.mark.parametrize(
    "header",
    [
        *(b"", b"project", b"project=", b"=x", b"Project=x", b"1a=x", b"a b=x", b"a=x y"),
        *(b"a==x", b"a=x,", b"a=x;b=y", b"a=\xe9", b"a='x", b"a=-x", b'a="x"', b"a=1,a=2"),
        *(b"a" * 33 + b"=x", b"a=" + b"x" * 65, b",".join(b"t%d=x" % n for n in range(9))),
    ],
)
def test_what_is_no_tag_is_refused_without_repeating_it(header: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        tags_of(WHO, {HEADER: header})
    assert (caught.value.code, caught.value.param) == ("invalid_tags", "x-ostiary-tags")
    assert b"x" * 65 not in caught.value.message.encode()


def test_the_tags_of_a_key_stay_and_may_be_said_again() -> None:
    assert tags_of(FIXED, {}) == {"team": "search"}
    assert tags_of(FIXED, {HEADER: b"project=p,team=search"}) == {"project": "p", "team": "search"}
    with pytest.raises(BadRequest, match="fixed for this key"):
        tags_of(FIXED, {HEADER: b"team=other"})


def test_eight_tags_are_the_most_with_those_of_the_key() -> None:
    seven = b",".join(b"t%d=x" % n for n in range(7))
    assert len(tags_of(FIXED, {HEADER: seven})) == 8
    with pytest.raises(BadRequest, match="8 tags"):
        tags_of(FIXED, {HEADER: seven + b",t7=x"})


def test_a_principal_that_is_kept_keeps_its_tags_and_older_ones_have_none() -> None:
    kept = FIXED.as_json()
    assert Principal.from_json({**kept, "tags": [["team", "search"]]}) == FIXED
    del kept["tags"]
    assert Principal.from_json(kept) == WHO
