"""Tells how far a run is, for people and for Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

STAGES = ("survey", "chunk", "match", "embed", "load")


@dataclass(slots=True)
class Progress:
    """Counts of one run; ``say`` gets a line at most every ``every_s`` seconds.

    Args:
        metrics_file: a JSON or, by the suffix ``.prom``, a Prometheus textfile to rewrite.
    """

    say: Callable[[str], None]
    every_s: float = 5.0
    metrics_file: Path | None = None
    clock: Callable[[], float] = time.monotonic

    stage: str = "survey"
    units_total: int = 0
    units_done: int = 0
    work_total: int = 0  # of the stage: files, bytes' worth of rows, bucket runs, passages
    work_done: int = 0
    work_before: int = 0  # done when the stage began: a resumed run's rate leaves it out
    passages: int = 0
    embedded: int = 0
    copied: int = 0
    errors: int = 0
    failed_units: int = 0
    began: float = 0.0
    _stage_began: float = field(default=0.0)
    _told: float = field(default=0.0)

    def start(self) -> None:
        self.began = self._stage_began = self.clock()
        self._told = self.began

    def enter(self, stage: str, work_total: int, work_done: int = 0) -> None:
        """Begin a stage of ``work_total`` rows, bucket runs or passages to embed."""
        self.stage, self.work_total = stage, work_total
        self.work_done = self.work_before = work_done
        self._stage_began = self.clock()
        self.tell(force=True)

    @property
    def rate(self) -> float:
        """Work of this stage in a second, since the stage began."""
        elapsed = self.clock() - self._stage_began
        return (self.work_done - self.work_before) / elapsed if elapsed > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the stage ends at this rate; None before anything is done."""
        rate = self.rate
        return (self.work_total - self.work_done) / rate if rate > 0 else None

    def line(self) -> str:
        what = ("files", "rows", "key ranges", "passages", "segments")
        unit = dict(zip(STAGES, what, strict=True))
        parts = [
            f"{self.stage}: {self.work_done:,} of {self.work_total:,} {unit[self.stage]}",
            f"{self.rate:,.1f}/s",
            f"{shown(self.left_s)} left",
            f"{self.units_done:,} of {self.units_total:,} shards",
        ]
        if self.copied:
            parts.append(f"{self.copied:,} copied")
        if self.errors or self.failed_units:
            parts.append(f"{self.errors:,} errors, {self.failed_units:,} failed shards")
        return ", ".join(parts)

    def tell(self, force: bool = False) -> None:
        """Say a line and rewrite the metrics, not too often."""
        now = self.clock()
        if force or now - self._told >= self.every_s:
            self._told = now
            self.say(self.line())
            self.write()

    def figures(self) -> dict[str, float]:
        left = self.left_s
        return {
            "units": self.units_total,
            "units_done": self.units_done,
            "units_failed": self.failed_units,
            "stage_work": self.work_total,
            "stage_work_done": self.work_done,
            "stage_rate_per_second": round(self.rate, 3),
            "stage_seconds_left": -1.0 if left is None else round(left, 1),
            "passages": self.passages,
            "passages_embedded": self.embedded,
            "passages_copied": self.copied,
            "errors": self.errors,
            "seconds": round(self.clock() - self.began, 3),
        }

    def write(self) -> None:
        """Rewrite the metrics file as a whole, so that a reader never sees half of it."""
        path = self.metrics_file
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".prom":
            from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

            registry = CollectorRegistry()
            for name, value in self.figures().items():
                Gauge(f"ostiary_pipeline_{name}", name.replace("_", " "), registry=registry).set(
                    value
                )
            stage = Gauge("ostiary_pipeline_stage", "1 for the stage", ["stage"], registry=registry)
            for each in STAGES:
                stage.labels(each).set(each == self.stage)
            write_to_textfile(str(path), registry)
            return
        scratch = path.with_name(f".{path.name}.tmp")
        scratch.write_text(json.dumps({"stage": self.stage, **self.figures()}) + "\n")
        scratch.replace(path)


def shown(seconds: float | None) -> str:
    """Write a span of time as people read it."""
    if seconds is None:
        return "unknown time"
    whole = round(seconds)
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
