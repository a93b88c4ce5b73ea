"""How well and how fast personal data is found, beside stock Presidio (goal G11).

    python -m benchmarks.guardrails [--texts 2000] [--rounds 5]

Both look for the same types in the same made texts, with the same threshold, the same spaCy
model and Presidio's recognizers; stock Presidio is its `AnalyzerEngine` as its tutorial makes it,
with the recognizers of the countries added. Where findings of two types overlap the surer one
counts for both, after ours has cut names at values that patterns find. Throughput is over texts of
about one kilobyte, each unlike all before.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from app.guardrails.entities import NER_ENTITIES, PATTERN_ENTITIES
from app.guardrails.findings import Finding, without_overlaps
from app.guardrails.names import NER_MODEL
from app.guardrails.pii import PiiDetector
from benchmarks import rig
from benchmarks.guardrails_texts import DEV, HELD, MAKE, Sample, samples
from benchmarks.report import table

THRESHOLD = 0.4
SEED = 5
NAMES = tuple(sorted(set(MAKE) & NER_ENTITIES))
PATTERNS = tuple(sorted(set(MAKE) - NER_ENTITIES))
A_ROUND = 40  # texts of a round
KILOBYTE = 1_000
USUAL = "patterns of the default policy"
TARGETS = {"patterns": 10.0, "with names": 3.0}
Detect = Callable[[str, Sequence[str]], list[Finding]]
COUNTRIES = (
    "NhsRecognizer",
    "UkNinoRecognizer",
    "InPanRecognizer",
    "AuAbnRecognizer",
    "SgFinRecognizer",
)


def stock() -> Detect:
    """Presidio's own engine."""
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry, predefined_recognizers
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    given = {"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": NER_MODEL}]}
    registry = RecognizerRegistry()
    registry.load_predefined_recognizers()
    present = {str(r.name) for r in registry.recognizers}  # type: ignore[has-type]
    for name in COUNTRIES:
        if name not in present:
            registry.add_recognizer(getattr(predefined_recognizers, name)())
    engine = AnalyzerEngine(
        registry=registry,
        nlp_engine=NlpEngineProvider(nlp_configuration=given).create_engine(),
        supported_languages=["en"],
    )

    def detect(text: str, entities: Sequence[str]) -> list[Finding]:
        found = engine.analyze(text, "en", entities=list(entities), score_threshold=THRESHOLD)
        return without_overlaps([Finding(r.entity_type, r.start, r.end, r.score) for r in found])

    return detect


def ours() -> Detect:
    """The gateway's detector."""
    detector = PiiDetector()
    return lambda text, entities: detector.detect(text, entities, lambda _: THRESHOLD)


def judge(
    detect: Detect, given: Sequence[Sample], entities: Sequence[str] = (*PATTERNS, *NAMES)
) -> dict[str, dict[str, float]]:
    """Precision, recall and F2 of each type.

    A value is found when findings of its type hold four fifths of its characters; a finding is
    right when half of it lies in values of its type.
    """
    known, hit, told, right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for sample in given:
        found = detect(sample.text, entities)
        for value in sample.values:
            known[value.entity] += 1
            spans = [(f.start, f.end) for f in found if f.entity == value.entity]
            covered = _covered(spans, value.start, value.end)
            hit[value.entity] += covered >= 0.8 * (value.end - value.start)
        for f in found:
            told[f.entity] += 1
            values = [(v.start, v.end) for v in sample.values if v.entity == f.entity]
            right[f.entity] += _covered(values, f.start, f.end) >= 0.5 * (f.end - f.start)
    out = {}
    for entity in entities:
        precision = right[entity] / told[entity] if told[entity] else 0.0
        recall = hit[entity] / known[entity] if known[entity] else 0.0
        both = 4 * precision + recall
        out[entity] = {
            "values": known[entity],
            "precision": round(precision, 4),
            "recall": round(recall, 4),
            "f2": round(5 * precision * recall / both, 4) if both else 0.0,
        }
    return out


def _covered(spans: Sequence[tuple[int, int]], start: int, end: int) -> int:
    return sum(max(0, min(b, end) - max(a, start)) for a, b in spans)


def rates(
    detectors: dict[str, Detect], entities: Sequence[str], rounds: int, seed: int
) -> dict[str, list[float]]:
    """Kilobytes a second of each detector, in turn, on texts that none has seen."""
    seen: dict[str, list[float]] = {name: [] for name in detectors}
    for number in range(rounds + 1):
        texts = [s.text for s in samples(A_ROUND, DEV + HELD, seed + number, KILOBYTE)]
        for name, detect in detectors.items():
            began = time.perf_counter()
            for text in texts:
                detect(text, entities)
            took = time.perf_counter() - began
            if number:  # the first loads what is loaded late
                seen[name].append(round(sum(map(len, texts)) / KILOBYTE / took, 1))
    return seen


def run(texts: int = 2_000, rounds: int = 5) -> dict[str, Any]:
    """Measure both detectors."""
    detectors = {"ours": ours(), "stock Presidio": stock()}
    result: dict[str, Any] = {
        "machine": rig.machine(),
        "versions": rig.versions("presidio-analyzer", "spacy", "python-stdnum"),
        "texts": texts,
        "rounds": rounds,
        "quality": {
            split: {
                name: judge(detect, samples(texts // 2, templates, SEED + place))
                for name, detect in detectors.items()
            }
            for place, (split, templates) in enumerate((("dev", DEV), ("held", HELD)))
        },
        "rate": {
            USUAL: rates(detectors, sorted(PATTERN_ENTITIES), rounds, 3_000 + SEED),
            "patterns": rates(detectors, PATTERNS, rounds, 1_000 + SEED),
            "with names": rates(detectors, [*PATTERNS, *NAMES], rounds, 2_000 + SEED),
        },
    }
    return judged(result)


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """The result with its verdict on G11."""
    lower = [
        entity
        for found in result["quality"].values()
        for entity in found["ours"]
        if found["ours"][entity]["f2"] < found["stock Presidio"][entity]["f2"]
    ]
    value = [ratio(result["rate"][what]) for what in TARGETS]
    target = list(TARGETS.values())
    holds = not lower and all(v >= t for v, t in zip(value, target, strict=True))
    return result | {"lower_f2": lower, "value": value, "target": target, "holds": holds}


def ratio(seen: dict[str, list[float]]) -> float:
    """Our throughput over that of stock Presidio."""
    ours, theirs = (rig.median(seen[name], 2) for name in ("ours", "stock Presidio"))
    return round(ours / theirs, 2)


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    machine = result["machine"]
    parts = [
        "# Finding personal data, beside stock Presidio\n",
        f"{machine['cpu']}, {machine['cores']} cores; load average before: "
        f"{machine['load_before']}; "
        + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        + f". {result['texts']:,} made texts, threshold {THRESHOLD}, the same spaCy model.\n",
    ]
    for split, found in result["quality"].items():
        told = "written apart, never tuned on" if split == "held" else "at hand while working"
        rows = [
            [
                entity,
                ours["values"],
                *(f"{ours[k]:.3f}" for k in ("precision", "recall", "f2")),
                *(
                    f"{found['stock Presidio'][entity][k]:.3f}"
                    for k in ("precision", "recall", "f2")
                ),
            ]
            for entity, ours in found["ours"].items()
        ]
        parts += [
            f"## Templates: {split} ({told})\n",
            table(
                ["type", "values", "precision", "recall", "F2", "stock: precision", "recall", "F2"],
                rows,
            ),
        ]
    rows = []
    for what, seen in result["rate"].items():
        value, target = ratio(seen), TARGETS.get(what)
        rows.append(
            [
                what,
                rig.median(seen["ours"], 1),
                rig.median(seen["stock Presidio"], 1),
                f"{value:.1f} ×",
                f"≥ {target:g} ×" if target else "",
                "" if not target else "yes" if value >= target else "**no**",
            ]
        )
    parts += [
        f"## Throughput\n\nTexts of about one kilobyte, full of values and numbers, {A_ROUND} a "
        f"round, {len(PATTERNS)} types by patterns and {len(NAMES)} names; medians of "
        f"{result['rounds']} rounds in turn, one thread.\n",
        table(["types", "ours, KB/s", "stock, KB/s", "ratio", "target", "holds"], rows),
        "No type has a lower F2 than with stock Presidio.\n"
        if not result["lower_f2"]
        else f"Lower F2 than with stock Presidio: {', '.join(result['lower_f2'])}.\n",
    ]
    return "\n".join(parts)


def main() -> int:
    """Read the command line, measure, and write JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--texts", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    result = run(given.texts, given.rounds)
    text = as_markdown(result)
    rig.write_result("guardrails", result, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
