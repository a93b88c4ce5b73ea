"""The word index."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import BadRequest, Unavailable
from app.retrieval.lexical import LexicalIndex, RebuildNeeded, Row
from app.retrieval.lexical_query import Boosts

ROWS: list[Row] = [
    (1, "f1", "Refunds", "terms.md", "Refunds are paid within fourteen days."),
    (2, "f1", "Shipping", "terms.md", "We are shipping parcels to Zürich."),
    (3, "f2", None, "orm.md", "The running costs of select_related() queries."),
]
CODE: list[Row] = [
    (10, "c", None, None, "xz was backdoored, see CVE-2024-3094."),
    (11, "c", None, None, "Of 3094 reports in 2024 one CVE was xz."),
    (12, "c", None, None, "Compare a column with django.db.models.F in a filter."),
    (13, "c", None, None, "The models of a db, an F for django."),
    (14, "c", None, None, "The page failed with ERR_CONN_RESET."),
    (15, "c", None, None, "Call foo_bar() or install with --no-deps."),
    (16, "c", None, None, "The bar of foo has no deps."),
    (17, "c", None, None, "Return an HttpResponse from the view."),
    (18, "c", None, None, "Templates in C++ and generics in C#."),
    (19, "c", None, None, "Vitamin C is good."),
]


def built(folder: Path, rows: list[Row], language: str = "en") -> LexicalIndex:
    index = LexicalIndex.open(folder, language)
    index.add(rows)
    index.commit()
    return index


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> LexicalIndex:
    return built(tmp_path_factory.mktemp("words"), ROWS)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> LexicalIndex:
    return built(tmp_path_factory.mktemp("code"), CODE)


def numbers(found: list[tuple[int, float]]) -> list[int]:
    return [number for number, _ in found]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("refund", 1),
        ("ship a parcel", 2),
        ("zurich", 2),
        ("Zu\u0308rich", 2),
        ("RUN COST", 3),
        ("select_related", 3),
        ("orm", 3),
    ],
)
def test_words_are_found_by_their_stem(shelf: LexicalIndex, query: str, first: int) -> None:
    found = shelf.search(query, 3)
    assert found[0][0] == first
    assert found[0][1] > 0


def test_search_stays_within_the_given_files(shelf: LexicalIndex) -> None:
    every = dict(shelf.search("refund queries", 5))
    assert set(every) == {1, 3}
    assert dict(shelf.search("refund queries", 5, {"f2"})) == {3: pytest.approx(every[3])}
    assert shelf.search("refund", 5, set()) == []


def test_a_query_of_common_words_only_still_searches(shelf: LexicalIndex) -> None:
    assert set(numbers(shelf.search("are", 5))) == {1, 2}


def test_names_in_capitals_are_no_common_words(tmp_path: Path) -> None:
    index = built(
        tmp_path, [(1, "f", None, None, "IT support"), (2, "f", None, None, "it is support")]
    )
    assert set(numbers(index.search("it support", 5))) == {1, 2}
    only_support = dict(index.search("it support", 5))
    with_it = dict(index.search("the IT support", 5))
    assert with_it[1] > only_support[1]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(query=st.text(st.characters(exclude_categories=()), max_size=200))
def test_no_query_text_raises(shelf: LexicalIndex, query: str) -> None:
    shelf.search(query, 3)
    shelf.search(query, 3, operators=False)
    shelf.unknown_words(query)
    assert shelf.permitted(query, [1, 2]) <= {1, 2}


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(query=st.text('ab+-"“” .:_\\/*()[]~^京', max_size=60))
def test_no_marks_in_any_order_raise(code: LexicalIndex, query: str) -> None:
    found = numbers(code.search(query, 20))
    assert set(found) <= code.permitted(query, found)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_text_can_be_added(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    index = built(tmp_path_factory.mktemp("any"), [(1, "f", text, text, text)])
    assert index.count == 1


@pytest.mark.parametrize(
    "query", ["", "   ", '"', "a AND (b OR", "text:[* TO", "~!@#$^&*()\\", "a" * 9000, "+ -"]
)
def test_other_syntax_means_nothing(shelf: LexicalIndex, query: str) -> None:
    assert shelf.search(query, 3) == [] or numbers(shelf.search(query, 3))


def test_a_long_query_is_searched_by_its_rarest_words(shelf: LexicalIndex) -> None:
    filler = " ".join(f"word{i}" for i in range(5000))
    assert shelf.search(f"{filler} fourteen", 3)[0][0] == 1


# Phrases, required and excluded words


def test_a_phrase_is_found_only_word_for_word(shelf: LexicalIndex) -> None:
    assert numbers(shelf.search('"fourteen days"', 5)) == [1]
    assert numbers(shelf.search("“running costs”", 5)) == [3]
    assert shelf.search('"days fourteen"', 5) == []
    assert shelf.search('"run cost"', 5) == []
    assert shelf.search('"refund"', 5) == []  # only Refunds is there


def test_a_phrase_does_not_reach_from_one_field_into_another(shelf: LexicalIndex) -> None:
    assert shelf.search('"fourteen days refunds"', 5) == []
    assert shelf.search('"days refunds"', 5) == []
    assert numbers(shelf.search('"refunds"', 5)) == [1]


def test_required_words_must_be_there_in_any_form_and_any_field(shelf: LexicalIndex) -> None:
    assert numbers(shelf.search("+refunded parcels", 5)) == [1]
    assert numbers(shelf.search("+shipping refunds", 5)) == [2]
    assert shelf.search("+elephant refunds", 5) == []


def test_excluded_words_must_not_be_there(shelf: LexicalIndex) -> None:
    assert numbers(shelf.search("refund parcel -zurich", 5)) == [1]
    assert numbers(shelf.search('are paid shipping -"fourteen days"', 5)) == [2]


def test_a_query_that_only_excludes_is_plain_text(shelf: LexicalIndex) -> None:
    assert numbers(shelf.search("-refunds", 5)) == [1]


@pytest.mark.parametrize("query", ["-5 days", "- parcel refund", "-m refund", "+49 refund"])
def test_signs_of_plain_text_are_no_operators(shelf: LexicalIndex, query: str) -> None:
    assert 1 in numbers(shelf.search(query, 5))


def test_without_operators_marks_are_plain_text(shelf: LexicalIndex) -> None:
    assert numbers(shelf.search('"days fourteen" -refunds', 5, operators=False)) == [1]


def test_what_others_found_is_held_against_the_marks(shelf: LexicalIndex) -> None:
    assert shelf.permitted("refund", [1, 2, 3, 99]) == {1, 2, 3, 99}
    assert shelf.permitted("refund -zurich", [1, 2, 3, 99]) == {1, 3}
    assert shelf.permitted('"fourteen days" zurich', [1, 2]) == {1}
    assert shelf.permitted("+parcel", [1, 2, 3]) == {2}
    assert shelf.permitted("+parcel", [1, 2, 3], operators=False) == {1, 2, 3}
    assert shelf.permitted("+parcel", []) == set()


def test_a_field_that_counts_nothing_is_still_held_against_marks(tmp_path: Path) -> None:
    index = LexicalIndex.open(tmp_path, boosts=Boosts(section=0, title=0))
    index.add(ROWS)
    index.commit()
    assert index.search("orm", 5) == []
    assert numbers(index.search("+orm running", 5)) == [3]


# Identifiers


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("CVE-2024-3094", 10),
        ("what is cve-2024-3094?", 10),
        ("django.db.models.F", 12),
        ("models.F", 12),
        ("ERR_CONN_RESET", 14),
        ("err_conn_reset when loading", 14),
        ("foo_bar()", 15),
        ("--no-deps", 15),
        ("HttpResponse", 17),
        ("http response", 17),
        ("C++", 18),
        ("C#", 18),
        ('"C++"', 18),
    ],
)
def test_identifiers_are_found_whole_before_their_parts(
    code: LexicalIndex, query: str, first: int
) -> None:
    found = code.search(query, 10)
    assert found[0][0] == first
    assert len(found) == 1 or found[0][1] > found[1][1]


def test_parts_of_identifiers_are_found_too(code: LexicalIndex) -> None:
    assert set(numbers(code.search("foo", 10))) == {15, 16}
    assert 14 in numbers(code.search("conn", 10))
    assert 10 in numbers(code.search("3094", 10))


def test_identifiers_can_be_required_and_excluded(code: LexicalIndex) -> None:
    assert numbers(code.search("xz +CVE-2024-3094", 10)) == [10]
    assert numbers(code.search("xz -CVE-2024-3094", 10)) == [11]
    assert numbers(code.search("bar foo -foo_bar", 10)) == [16]
    assert numbers(code.search("+C++ generics", 10)) == [18]


# Typing errors


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("refnds", 1),
        ("efunds", 1),
        ("frefunds", 1),
        ("fourtene", 1),
        ("shiping", 2),
        ("quereis", 3),
        ("forteenn", 1),
    ],
)
def test_a_misspelt_word_finds_the_word_that_was_meant(
    shelf: LexicalIndex, query: str, first: int
) -> None:
    assert numbers(shelf.search(query, 3)) == [first]
    assert shelf.search(query, 3, typos=False) == []


def test_a_misspelt_word_counts_less_than_the_right_one(shelf: LexicalIndex) -> None:
    assert shelf.search("parcls", 1)[0][1] < shelf.search("parcel", 1)[0][1]


@pytest.mark.parametrize("query", ["dys", "teh", "5024", "elephants", "rxfxnds"])
def test_short_words_numbers_and_far_words_are_not_guessed(shelf: LexicalIndex, query: str) -> None:
    assert shelf.search(query, 3) == []


def test_a_word_that_is_there_finds_no_near_words(tmp_path: Path) -> None:
    index = built(tmp_path, [(1, "f", None, None, "the form"), (2, "f", None, None, "the farm")])
    assert numbers(index.search("form", 5)) == [1]
    assert index.unknown_words("form frm fxrm elephant +fard") == {"frm", "fxrm", "elephant"}


# Languages


@pytest.mark.parametrize(
    ("language", "text", "query"),
    [
        ("de", "Die Häuser der Straße", "Haus"),
        ("de", "Die Häuser der Straße", "STRASSE"),
        ("fr", "Elles ont été mangées", "manger"),
        ("fr", "Elles ont été mangées", "mangees"),
        ("es", "Las canciones de España", "canción espana"),
        ("it", "Le case italiane", "casa"),
        ("pt", "As ligações telefônicas", "ligacoes"),
        ("nl", "De boeken van de bibliotheek", "boek"),
        ("sv", "Flickorna läser böckerna", "flicka"),
        ("no", "Bøkene på biblioteket", "bibliotek"),
        ("da", "Husene ved havet", "hus"),
        ("fi", "taloissa asutaan", "talo"),
        ("ru", "Новые книги в библиотеке", "книга"),
        ("hu", "a házak ablakai", "ház"),
        ("ro", "cărțile din bibliotecă", "carte"),
        ("tr", "Kitaplar masada", "kitap"),
        ("ar", "هذا الكتاب جديد", "كِتَاب"),
        ("el", "οι δρόμοι της Αθήνας", "ΑΘΗΝΑ"),
        ("ta", "மரங்கள் உயரமானவை", "மரங்கள்"),
        ("ja", "東京都の天気は晴れです", "天気"),
        ("zh", "北京的天气很好", "天气"),
        ("ko", "서울의 날씨가 좋다", "날씨"),
        ("th", "วันนี้อากาศดีมาก", "อากาศ"),
        ("und", "Dobrý den, přátelé", "pratele"),
    ],
)
def test_each_language_finds_its_word_forms(
    tmp_path: Path, language: str, text: str, query: str
) -> None:
    index = built(tmp_path, [(1, "f", None, None, text), (2, "f", None, None, "xyz")], language)
    assert numbers(index.search(query, 5, typos=False)) == [1]


def test_unspaced_scripts_are_searched_by_pairs_in_every_language(tmp_path: Path) -> None:
    index = built(
        tmp_path,
        [
            (1, "f", None, None, "Our office is in 東京都 near the station."),
            (2, "f", None, None, "京都 is another town; we like お茶."),
        ],
    )
    assert numbers(index.search("東京", 5)) == [1]
    assert numbers(index.search('"東京都"', 5)) == [1]
    assert numbers(index.search("茶", 5)) == [2]
    assert numbers(index.search("東", 5)) == [1]
    assert numbers(index.search("京都 -station", 5)) == [2]


def test_an_unknown_language_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"'xx'.*en, es.*'und' suits any other"):
        LexicalIndex.open(tmp_path, "xx")


def test_an_index_of_another_language_is_not_opened(tmp_path: Path) -> None:
    built(tmp_path, ROWS, "de")
    with pytest.raises(RebuildNeeded, match=r"'de' .* and 'en' .* is wanted") as refused:
        LexicalIndex.open(tmp_path, "en")
    assert refused.value.code == "word_index_rebuild_needed"
    assert LexicalIndex.open(tmp_path, "de").count == 3


def test_an_index_of_an_older_format_is_not_opened(tmp_path: Path) -> None:
    import tantivy

    schema = tantivy.SchemaBuilder().add_text_field("text").build()
    tantivy.Index(schema, path=str(tmp_path))
    with pytest.raises(RebuildNeeded, match="was made for an older format"):
        LexicalIndex.open(tmp_path)


def test_a_damaged_index_asks_to_be_rebuilt_and_can_be(tmp_path: Path) -> None:
    built(tmp_path, ROWS)
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(RebuildNeeded, match="is damaged"):
        LexicalIndex.open(tmp_path)
    shutil.rmtree(tmp_path)
    assert built(tmp_path, ROWS).count == 3


def test_a_missing_segment_asks_to_be_rebuilt(tmp_path: Path) -> None:
    built(tmp_path, ROWS)
    for file in tmp_path.glob("*.term"):
        file.unlink()
    with pytest.raises(RebuildNeeded, match="is damaged"):
        LexicalIndex.open(tmp_path)


# Writing


def test_rows_are_found_only_after_commit_and_survive_reopening(tmp_path: Path) -> None:
    index = LexicalIndex.open(tmp_path)
    index.add(ROWS)
    assert index.search("refund", 3) == []
    index.commit()
    assert LexicalIndex.open(tmp_path).count == 3
    assert numbers(LexicalIndex.open(tmp_path).search("refund", 3)) == [1]


def test_numbers_may_be_as_large_as_an_int64(tmp_path: Path) -> None:
    index = built(tmp_path, [(2**63 - 1, "f", None, None, "large"), (0, "f", None, None, "zero")])
    assert numbers(index.search("large", 3)) == [2**63 - 1]
    assert index.permitted("+zero", [0, 2**63 - 1]) == {0}


def test_adding_a_passage_again_replaces_it(tmp_path: Path) -> None:
    index = LexicalIndex.open(tmp_path)
    index.add(ROWS)
    index.add([(1, "f1", None, None, "Exchange instead.")])
    index.commit()
    assert index.count == 3
    assert index.search("refund", 3) == []
    assert numbers(index.search("exchange", 3)) == [1]


def test_a_deleted_file_is_not_found(tmp_path: Path) -> None:
    index = built(tmp_path, ROWS)
    index.delete_file("f1")
    index.commit()
    assert index.count == 1
    assert index.search("refund parcels", 3) == []
    assert index.permitted("+refunds", [1]) == set()


def test_closing_drops_what_was_not_committed(tmp_path: Path) -> None:
    with LexicalIndex.open(tmp_path) as index:
        index.add(ROWS)
    assert LexicalIndex.open(tmp_path).count == 0


def test_a_killed_writer_leaves_the_last_commit_and_no_lock(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from app.retrieval.lexical import LexicalIndex
index = LexicalIndex.open(Path(sys.argv[1]))
index.add({ROWS[:1]!r})
index.commit()
index.add({ROWS[1:]!r})
print("added", flush=True)
sys.stdin.read()
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "added\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    index = LexicalIndex.open(tmp_path)
    assert numbers(index.search("refunds parcels queries", 5)) == [1]
    index.add(ROWS[1:])
    index.commit()
    assert index.count == 3


def test_a_second_writer_is_told_to_wait_and_may_write_after_commit(tmp_path: Path) -> None:
    first, second = LexicalIndex.open(tmp_path), LexicalIndex.open(tmp_path)
    first.add(ROWS[:1])
    with pytest.raises(Unavailable, match="Another process"):
        second.add(ROWS[1:])
    first.commit()
    second.add(ROWS[1:])
    second.commit()
    assert LexicalIndex.open(tmp_path).count == 3


def test_searches_run_while_rows_are_added(tmp_path: Path) -> None:
    index = built(tmp_path, ROWS)
    with ThreadPoolExecutor(4) as pool:
        searches = [pool.submit(index.search, "refund", 3) for _ in range(200)]
        for i in range(20):
            index.add([(100 + i, "f9", None, None, "Something else entirely.")])
            index.commit()
        assert all(numbers(search.result()) == [1] for search in searches)
    assert index.count == 23
