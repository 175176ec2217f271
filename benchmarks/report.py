"""One place that prints and writes: rows are dictionaries, one for each image measured."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from protocol import print_table

Row = dict[str, Any]

MEASURED, ALL = "measured", "all"
SCORES = ("psnr", "ssim", "noise_sigma", "evaluations", "seconds", "ratio")
# Of speed.py: cores that were busy, seconds of an evaluation, the network's part of them, bytes.
TIMES, BYTES = ("cores", "evaluation", "network"), ("memory", "before", "estimate")
COSTS = ("megapixels", "threads", *TIMES, *BYTES)
NUMBERS = (*SCORES, *COSTS)
# Columns of the CSV file. Where the case is "all", the row is a mean over so many cases, or for
# "images" a count of them. The source is "measured" or the publication that is quoted.
FIELDS = ("table", "set", "condition", "method", "source", "case", "cases", *NUMBERS, "images")
FIGURE_3, CURVE = "Figure 3", "Curve"
Printer = Callable[[str, list[Row]], list[Row]]
# Error ratios below which images are counted.
THRESHOLDS = (1.5, 2, 2.5, 3, 3.5, 4, 5)


def report(
    rows: Iterable[Row], file: Path | None = None, printers: dict[str, Printer] | None = None
) -> list[Row]:
    """Write every row as it comes, and print the tables of each set once they are complete."""
    printers = {FIGURE_3: print_ratios, CURVE: print_curves} | (printers or {})
    with writing(file, FIELDS) as write:
        return _report(rows, write, printers)


@contextmanager
def writing(file: Path | None, fields: Sequence[str]) -> Iterator[Callable[[Row], None]]:
    """Give a function that writes a row as it comes, floats with five digits; or nothing."""
    if file is None:
        yield lambda _: None
        return
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fields, restval="")
        writer.writeheader()

        def write(row: Row) -> None:
            short = {k: f"{v:.5g}" for k, v in row.items() if isinstance(v, float)}
            writer.writerow(row | short)
            stream.flush()

        yield write


def write_rows(rows: list[Row], file: Path | None) -> None:
    """Write rows of any fields, those of the first one."""
    with writing(file, list(rows[0])) as write:
        for row in rows:
            write(row)


def _report(
    rows: Iterable[Row], write: Callable[[Row], None], printers: dict[str, Printer]
) -> list[Row]:
    every: list[Row] = []
    for (table, name), group in groupby(rows, key=lambda r: (r["table"], r["set"])):
        found = []
        for row in group:
            write(row)
            found.append(row)
        summary = printers.get(table, print_scores)(f"{table}, {name}", found)
        for row in summary:
            write(row)
        every += found + summary
    return every


def read_cases(file: Path, table: str) -> list[Row]:
    """Read what `report` wrote of a table's single images."""
    with open(file, newline="", encoding="utf-8") as stream:
        rows = [r for r in csv.DictReader(stream) if r["table"] == table and r["case"] != ALL]
    return [{k: float(v) if k in NUMBERS else v for k, v in r.items() if v != ""} for r in rows]


def print_scores(title: str, rows: list[Row]) -> list[Row]:
    """Print quoted and measured PSNRs one after the other, then all scores; return the means."""
    for source, quoted in _split(rows, "source").items():
        if source != MEASURED:
            _print_psnr(title, _heading(source, quoted[0]["cases"]), rows, quoted)
    measured = [r for r in rows if r["source"] == MEASURED]
    if not measured:
        return []
    means = mean_rows(measured)
    most = max(r["cases"] for r in means)
    full = [r for r in means if r["cases"] == most]
    _print_psnr(title, _heading(MEASURED, most), rows, full)
    slow = {r["method"] for r in means if r["cases"] < most}
    if slow:
        # Means over other images cannot be compared: all methods on the few of the slow ones.
        few = {(r["condition"], r["case"]) for r in measured if r["method"] in slow}
        shared = mean_rows([r for r in measured if (r["condition"], r["case"]) in few])
        heading = f"{MEASURED}, {shared[0]['cases']} of these cases"
        _print_psnr(title, heading, rows, shared)
    _print_details(title, means)
    return means


def print_ratios(title: str, rows: list[Row]) -> list[Row]:
    """Print error ratios, and how many images lie below each threshold; return the counts."""
    measured = [r for r in rows if r["source"] == MEASURED]
    lines = [
        [r["case"], f"{r['ratio']:.2f}", f"{r['evaluations']:g}", f"{r['seconds']:.1f}"]
        for r in measured
    ]
    print_table(title, ["measured", "error ratio", "evaluations", "s/image"], lines)
    counts = count_rows(measured)
    conditions = [below(t) for t in THRESHOLDS]
    for source, found in _split([r for r in (*rows, *counts) if "images" in r], "source").items():
        images = {r["condition"]: str(r["images"]) for r in found}
        print_table(
            f"{title}: images by error ratio",
            [_heading(source, found[0]["cases"]), *conditions],
            [[found[0]["method"], *(images.get(c, "-") for c in conditions)]],
        )
    return counts


def print_curves(title: str, rows: list[Row]) -> list[Row]:
    """Print where each solver ends."""
    lines = [
        [method, f"{points[-1]['psnr']:.2f}", f"{points[-1]['evaluations']:g}"]
        for method, points in _split(rows, "method").items()
    ]
    print_table(title, ["measured", "PSNR", "evaluations"], lines)
    return []


def mean_rows(rows: list[Row]) -> list[Row]:
    """Means over the images, by condition and method."""
    return [
        group[0]
        | {"case": ALL, "cases": len(group)}
        | {k: _mean([r[k] for r in group]) for k in SCORES if k in group[0]}
        for by_method in _split(rows, "condition").values()
        for group in _split(by_method, "method").values()
    ]


def count_rows(rows: list[Row]) -> list[Row]:
    """How many images lie below each threshold."""
    place = {k: rows[0][k] for k in ("table", "set", "method", "source")}
    place |= {"case": ALL, "cases": len(rows)}
    return [
        place | {"condition": below(t), "images": sum(r["ratio"] < t for r in rows)}
        for t in THRESHOLDS
    ]


def below(threshold: float) -> str:
    """Name the condition of a count."""
    return f"< {threshold:g}"


def _print_psnr(title: str, heading: str, every: list[Row], rows: list[Row]) -> None:
    """One line a method, one column a condition of the whole set."""
    figures = {(r["method"], r["condition"]): f"{r['psnr']:.2f}" for r in rows}
    conditions = list(_split(every, "condition"))
    lines = [
        [method, *(figures.get((method, c), "-") for c in conditions)]
        for method in _split(rows, "method")
    ]
    print_table(f"{title}: PSNR in dB", [heading, *conditions], lines)


def _print_details(title: str, means: list[Row]) -> None:
    """One line a condition and method."""
    lines = [
        [
            f"{r['condition']}: {r['method']}",
            str(r["cases"]),
            f"{r['psnr']:.2f}",
            f"{r['ssim']:.4f}",
            "-" if r["noise_sigma"] is None else f"{r['noise_sigma']:.2f}",
            f"{r['evaluations']:g}",
            f"{r['seconds']:.2f}",
        ]
        for r in means
    ]
    header = ["measured", "cases", "PSNR", "SSIM", "noise assumed", "evaluations", "s/image"]
    print_table(title, header, lines)


def _heading(source: str, cases: int) -> str:
    """Say where figures come from and over how many images."""
    origin = source if source == MEASURED else f"paper, quoted: {source}"
    return f"{origin}, {cases} {'case' if cases == 1 else 'cases'}"


def _split(rows: list[Row], key: str) -> dict[str, list[Row]]:
    """Group rows, in the order of the first of each group."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
