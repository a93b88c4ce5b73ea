"""Measures agree with hand-computed cases and trec_eval; tests of difference tell chance apart."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.retrieval.quality import metrics
from app.retrieval.quality.judged import JudgedQuery, Judgement, load, load_documents
from app.retrieval.quality.matching import Returned, holds, match, same_file, words
from app.retrieval.quality.report import as_html, as_text
from app.retrieval.quality.score import MAIN, Measured, as_dict, compare_measured, row_of
from app.retrieval.quality.significance import (
    bootstrap_interval,
    compare,
    holm,
    paired_randomisation,
)

IDS = [f"d{n}" for n in range(12)]
rankings = st.permutations(IDS).flatmap(
    lambda ids: st.integers(0, len(ids)).map(lambda n: list(ids[:n]))
)
grades = st.dictionaries(st.sampled_from(IDS), st.integers(0, 3), min_size=1)


# -- measures ---------------------------------------------------------------------------


def test_ndcg_of_a_case_computed_by_hand() -> None:
    # gains 3, 0, 1 over log2 of 2, 3, 4; the ideal has 3, 1
    found = metrics.ndcg(["a", "x", "b"], {"a": 2, "b": 1})
    assert found == pytest.approx((3 + 1 / 2) / (3 + 1 / math.log2(3)))


def test_the_other_measures_of_a_case_computed_by_hand() -> None:
    ranking, judged = ["x", "a", "y", "b"], {"a": 1, "b": 2, "c": 1, "y": 0}
    assert metrics.recall(ranking, judged, 2) == pytest.approx(1 / 3)
    assert metrics.precision(ranking, judged, 4) == pytest.approx(2 / 4)
    assert metrics.precision(ranking, judged, 10) == pytest.approx(2 / 10)
    assert metrics.reciprocal_rank(ranking, judged) == pytest.approx(1 / 2)
    assert metrics.average_precision(ranking, judged) == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert metrics.success(ranking, judged, 2) == 1
    assert metrics.success(ranking, judged, 1) == 0


def test_where_nothing_is_relevant_every_measure_is_zero() -> None:
    for measure in (
        metrics.ndcg,
        metrics.recall,
        metrics.precision,
        metrics.success,
        metrics.reciprocal_rank,
        metrics.average_precision,
    ):
        assert measure(["a"], {"a": 0}) == 0
        assert measure([], {"a": 1}) == 0


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        metrics.ndcg(["a"], {"a": 1}, 0)
    with pytest.raises(ValueError, match="twice"):
        metrics.recall(["a", "a"], {"a": 1})
    with pytest.raises(ValueError, match="below 0"):
        metrics.ndcg(["a"], {"a": -1})


@given(rankings, grades, st.integers(1, 12))
@settings(deadline=None)
def test_every_measure_agrees_with_trec_eval(
    ranking: list[str], judged: dict[str, int], k: int
) -> None:
    wanted = {f"ndcg_cut.{k}", f"recall.{k}", f"P.{k}", f"success.{k}", "map", "recip_rank"}
    run = {"q": {i: float(len(ranking) - place) for place, i in enumerate(ranking)}}
    if not ranking:  # trec_eval leaves out queries without results
        run = {"q": {"unjudged": 1.0}}
    plain = pytrec_eval.RelevanceEvaluator({"q": judged}, wanted).evaluate(run)["q"]
    # trec_eval's gain is the grade itself, ours 2**grade - 1
    gains = {i: 2**g - 1 for i, g in judged.items()}
    ndcg = pytrec_eval.RelevanceEvaluator({"q": gains}, {f"ndcg_cut.{k}"}).evaluate(run)["q"]
    assert metrics.ndcg(ranking, judged, k) == pytest.approx(ndcg[f"ndcg_cut_{k}"])
    assert metrics.recall(ranking, judged, k) == pytest.approx(plain[f"recall_{k}"])
    assert metrics.precision(ranking, judged, k) == pytest.approx(plain[f"P_{k}"])
    assert metrics.success(ranking, judged, k) == pytest.approx(plain[f"success_{k}"])
    assert metrics.average_precision(ranking, judged) == pytest.approx(plain["map"])
    assert metrics.reciprocal_rank(ranking, judged, 12) == pytest.approx(plain["recip_rank"])


@given(rankings, grades)
def test_the_ideal_ranking_scores_one_and_none_scores_more(
    ranking: list[str], judged: dict[str, int]
) -> None:
    ideal = sorted(judged, key=lambda i: -judged[i])
    best = metrics.ndcg(ideal, judged)
    assert best == (pytest.approx(1) if any(judged.values()) else 0)
    assert 0 <= metrics.ndcg(ranking, judged) <= best + 1e-12


# -- differences ------------------------------------------------------------------------


def test_a_clear_difference_is_told_from_chance() -> None:
    random = np.random.default_rng(1)
    first = random.uniform(0, 0.6, 150)
    better = np.minimum(1, first + random.uniform(0, 0.3, 150))
    shuffled = random.permutation(first)
    assert paired_randomisation(first.tolist(), better.tolist()) < 0.001
    assert paired_randomisation(first.tolist(), shuffled.tolist()) > 0.05


def test_the_p_value_is_the_exact_one_where_it_can_be_counted() -> None:
    # of the 32 ways to swap, only all or none are as far apart: p = 2/32
    p = paired_randomisation([0.0] * 5, [0.1, 0.2, 0.3, 0.4, 0.5], draws=100_000)
    assert p == pytest.approx(2 / 32, abs=0.003)


def test_alike_rankers_differ_by_nothing() -> None:
    found = compare([0.5, 1.0], [0.5, 1.0])
    assert (found.p, found.difference, found.low, found.high, found.ties) == (1, 0, 0, 0, 2)


scores = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)


@given(scores)
@settings(max_examples=25, deadline=None)
def test_who_comes_first_changes_only_the_sign(pairs: list[tuple[float, float]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = compare(first, second), compare(second, first)
    assert there.p == back.p and 0 < there.p <= 1
    assert there.difference == pytest.approx(-back.difference)
    assert (there.wins, there.losses, there.ties) == (back.losses, back.wins, back.ties)
    assert there.low <= there.difference + 1e-9 and there.difference <= there.high + 1e-9
    assert compare(first, second) == there


def test_chance_is_called_a_difference_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    ps = [
        paired_randomisation(
            random.uniform(0, 1, 40).tolist(), random.uniform(0, 1, 40).tolist(), draws=400
        )
        for _ in range(300)
    ]
    assert 0.02 < float(np.mean(np.array(ps) < 0.05)) < 0.09


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(5).normal(0.5, 0.1, 400)
    low, high = bootstrap_interval(values.tolist())
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.001)


def test_holm_adjusts_in_the_order_given() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.9]) == [1, 1]
    assert holm([]) == []


def test_scores_that_do_not_pair_are_refused() -> None:
    for first, second in (([], []), ([1.0], [1.0, 0.0]), ([float("nan")], [1.0])):
        with pytest.raises(ValueError):
            compare(first, second)


# -- matching ---------------------------------------------------------------------------


def query(*judged: Judgement) -> JudgedQuery:
    return JudgedQuery("q", "how?", judged)


def test_a_quote_is_found_across_line_breaks_case_and_mark_up() -> None:
    assert holds(words("See **The  Quick**\nbrown `fox`."), words("the quick brown fox"))
    assert not holds(words("the quicker brown fox"), words("the quick brown fox"))
    assert not holds(words("anything"), "")


def test_a_quote_cut_by_the_end_of_a_passage_counts_from_half_of_it() -> None:
    quote = words("one two three four")
    assert holds("before one two three", quote)
    assert holds("three four after", quote)
    assert not holds("before one", quote)
    assert not holds("one before two", quote)


def test_files_are_the_same_by_name_last_part_or_stem() -> None:
    assert same_file("a/b.txt", "a/b.txt")
    assert same_file("b.txt", "a/b.txt")
    assert same_file("184", "184.txt")
    assert same_file("a/b", "a/b.txt")
    assert not same_file("c/b.txt", "a/b.txt")
    assert not same_file("18", "184.txt")


def test_without_a_quote_files_are_ranked_once_each() -> None:
    results = [Returned("x.txt", "1"), Returned("x.txt", "2"), Returned("a.txt", "3")]
    found = match(query(Judgement("a.txt")), results)
    assert len(found.ranking) == 2 and found.first == 2
    assert metrics.reciprocal_rank(found.ranking, found.grades) == 0.5


def test_with_a_quote_only_its_passage_counts_and_only_once() -> None:
    results = [
        Returned("a.txt", "another part"),
        Returned("a.txt", "the very words, here"),
        Returned("a.txt", "again the very words"),
        Returned("b.txt", "the very words"),
    ]
    found = match(query(Judgement("a.txt", "the very words")), results)
    assert found.first == 2
    assert sum(found.grades.get(i, 0) for i in found.ranking) == 1
    assert metrics.recall(found.ranking, found.grades) == 1


def test_a_passage_with_two_judged_quotes_is_a_perfect_answer() -> None:
    judged = query(Judgement("a.txt", "one two", 1), Judgement("a.txt", "three four", 2))
    found = match(judged, [Returned("a.txt", "one two and three four")])
    assert metrics.ndcg(found.ranking, found.grades) == 1
    apart = match(judged, [Returned("a.txt", "one two"), Returned("a.txt", "three four")])
    assert 0 < metrics.ndcg(apart.ranking, apart.grades) < 1


# -- judged sets ------------------------------------------------------------------------


def test_our_own_lines_are_read_in_each_form(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(
        '{"id": "a", "question": "q?", "kind": "typo", '
        '"judged": [{"file": "f.txt", "quote": "x y", "grade": 2}, {"file": "g.txt"}]}\n'
        "\n"
        '{"id": "b", "question": "r?", "file": "f.txt", "quote": "z"}\n'
        '{"id": "c", "question": "s?", "files": ["f.txt", "g.txt"], "quote": "z"}\n'
        '{"id": "d", "question": "t?", "files": [], "answerable": false}\n'
        '{"id": "e", "question": "u?", "unit": "document", "file": "f.txt", "quote": "z"}\n'
    )
    found = {q.id: q for q in load(file)}
    assert set(found) == {"a", "b", "c", "e"}
    assert found["a"].judged == (Judgement("f.txt", "x y", 2), Judgement("g.txt"))
    assert found["a"].kind == "typo"
    assert found["b"].judged == (Judgement("f.txt", "z"),)
    assert found["c"].judged == (Judgement("f.txt"), Judgement("g.txt"))
    assert found["e"].judged == (Judgement("f.txt"),)  # any passage of the file answers
    assert load(tmp_path) == list(found.values())


def test_a_beir_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td1\t0\n"
    )
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n{"_id": "q3", "text": "3"}\n'
    )
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "T", "text": "body"}\n')
    assert [q.id for q in load(tmp_path)] == ["q1"]  # nothing is relevant for q2, q3 is not judged
    assert load(tmp_path)[0].judged == (Judgement("d1"), Judgement("d2", None, 0))
    assert [(d.id, d.title, d.text) for d in load_documents(tmp_path)] == [("d1", "T", "body")]


def test_a_trec_folder_is_read_with_unclosed_tags(tmp_path: Path) -> None:
    (tmp_path / "topics.301-302").write_text(
        "<top>\n<num> Number: 301\n<title> International\nCrime\n<desc> Description:\nx\n</top>\n"
        "<top><num>052</num><title>Ships</title></top>"
    )
    (tmp_path / "qrels.txt").write_text("301 0 FBIS3-1 2\n301 0 FBIS3-2 -2\n52 0 D9 1\n")
    found = {q.id: q for q in load(tmp_path)}
    assert found["301"].text == "International Crime"
    assert found["301"].judged == (Judgement("FBIS3-1", None, 2), Judgement("FBIS3-2", None, 0))
    assert found["052"].judged == (Judgement("D9"),)


def test_a_cranfield_folder_counts_queries_in_order_and_turns_its_grades(tmp_path: Path) -> None:
    (tmp_path / "cran.qry").write_text(".I 001\n.W\nfirst\nline .\n.I 004\n.W\nsecond .\n")
    (tmp_path / "cranqrel").write_text("1 184 2 \n1 29 -1\n2 12 1\n")
    (tmp_path / "cran.all.1400").write_text(
        ".I 184\n.T\ntitle .\n.A\nsomebody\n.B\nj. 1\n.W\ntitle .\ntext .\n"
    )
    first, second = load(tmp_path)
    assert (first.id, first.text) == ("1", "first line .")
    assert first.judged == (Judgement("184", None, 3), Judgement("29", None, 0))
    assert second.judged == (Judgement("12", None, 4),)
    assert [(d.id, d.title, d.text) for d in load_documents(tmp_path)] == [
        ("184", "title .", "title . text .")
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1 of 'set.jsonl' is not JSON"),
        ("[1]", "not a JSON object"),
        ('{"question": "q?"}', "no 'file'"),
        ('{"file": "f"}', "no 'question'"),
        ('{"question": "q?", "judged": ["f"]}', "not a list of objects"),
        ('{"question": "q?", "file": "f", "unit": "page"}', "unit 'page'"),
        ('{"question": "q?", "judged": [{"file": "f", "grade": "high"}]}', "grade 'high'"),
        ('{"question": "q?", "judged": [{"file": "f", "grade": 0}]}', "no question with"),
        ('{"id": "a", "question": "q", "file": "f"}\n' * 2, "twice"),
        ("", "no question with"),
    ],
)
def test_a_malformed_set_says_where(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(line)
    with pytest.raises(BadRequest, match=says):
        load(file)


def test_what_is_no_judged_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no judged set"):
        load(tmp_path)
    with pytest.raises(BadRequest, match="Check the path"):
        load(tmp_path / "missing")
    with pytest.raises(BadRequest, match="no documents"):
        list(load_documents(tmp_path))
    binary = tmp_path / "set.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRequest, match="UTF-8"):
        load(binary)


# -- reports ----------------------------------------------------------------------------


def measured(name: str, *found: list[str]) -> Measured:
    rows = []
    for n, files in enumerate(found):
        asked = JudgedQuery(f"q{n}", f"<b>{n}?</b>", (Judgement("a.txt"),), "typo" if n else "")
        results = [Returned(f, f"text & <script>alert({n})</script>") for f in files]
        rows.append(row_of(asked, results, 10, 5.0 + n))
    return Measured(name, tuple(rows))


def test_the_page_escapes_everything_and_puts_regressions_first() -> None:
    good = measured("first <i>", ["a.txt"], ["a.txt", "<x>.txt"])
    bad = measured("second", ["a.txt"], ["<x>.txt", "a.txt"])
    page = as_html([good, bad], "set & co", {"second": {"ranker": "</pre><script>"}})
    assert "<script" not in page and "<x>" not in page and "<i>" not in page
    assert page.index("&lt;b&gt;1?") < page.index("&lt;b&gt;0?")
    assert "http" not in page  # nothing is loaded from elsewhere
    assert "No difference is shown" in page


def test_one_ranker_is_reported_alone() -> None:
    only = measured("only", ["b.txt"], ["a.txt"])
    assert "nDCG@10" in as_text([only]) and "0.500" in as_text([only])
    page = as_html([only], "set", {})
    assert page.index("&lt;b&gt;0?") < page.index("&lt;b&gt;1?")
    assert "not found" in page


def test_a_failed_search_scores_nothing_and_is_named() -> None:
    asked = JudgedQuery("q", "?", (Judgement("a.txt"),))
    failed = Measured("m", (row_of(asked, (), 10, error="HTTP 500 <oops>"),))
    assert failed.mean(MAIN) == 0 and "1 searches failed" in as_text([failed])
    assert "&lt;oops&gt;" in as_html([failed], "set", {})
    assert as_dict(failed)["rows"]


def test_measures_deeper_than_the_search_are_left_out() -> None:
    asked = JudgedQuery("q", "?", (Judgement("a.txt"),))
    assert "recall@20" not in row_of(asked, (), 10).scores
    assert "recall@20" in row_of(asked, (), 20).scores
    assert MAIN in row_of(asked, (), 3).scores


def test_rankers_asked_different_questions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same questions"):
        compare_measured(measured("a", ["a.txt"]), measured("b", ["a.txt"], ["a.txt"]))
