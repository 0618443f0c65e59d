"""What was measured as a table for the terminal, a page in Markdown, a chart, and JSON."""

from __future__ import annotations

import datetime
import os
import platform
import re
import statistics
import subprocess
from pathlib import Path

from .rows import CPU, MEMORY_GOAL, ROWS, Row
from .sides import Figure

Rounds = dict[str, dict[str, list[Figure]]]
"""row -> label of a client -> a figure of each round."""

BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"


def medians(rounds: list[Figure]) -> Figure:
    return Figure(*(statistics.median(column) for column in zip(*rounds, strict=True)))


def spread(rounds: list[Figure]) -> float:
    """Half of what lies between the quarters of the rates, as a part of their median."""
    rates = [f.rate for f in rounds]
    if len(rates) < 3:
        return 0.0
    low, middle, high = statistics.quantiles(rates, n=4)
    return (high - low) / 2 / middle


def ratio(figures: dict[str, list[Figure]], ours: str, theirs: str) -> float:
    """How many times as fast as `theirs` `ours` is: the median over the rounds, which lie side by side in time."""
    pairs = zip(figures[ours], figures[theirs], strict=False)
    return statistics.median(a.rate / b.rate for a, b in pairs)


def amount(row: Row, rate: float) -> str:
    if row.unit == "ms":
        ms = 1000 / rate
        return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.1f} ms"
    return f"{rate:,.0f} {row.unit}"


def lines_of(rounds: Rounds, ours: str = "pyrbd", theirs: str = "librbd") -> list[list[str]]:
    """Cells: what, ours, theirs, ratio, goal."""
    out = []
    for name, figures in rounds.items():
        row = ROWS[name]
        cells = [row.text]
        for label in (ours, theirs):
            found = figures.get(label)
            cells.append(f"{amount(row, medians(found).rate)} ±{spread(found):.0%}" if found else "")
        if theirs in figures:
            is_ratio = ratio(figures, ours, theirs)
            cells += [f"{is_ratio:.2f}", f"{row.goal:g}{'' if is_ratio >= row.goal else ', missed'}"]
        else:
            cells += ["", f"{row.goal:g}"]
        out.append(cells)
    for name, text, most in CPU:
        figures = rounds.get(name, {})
        if ours in figures and theirs in figures:
            out.append(_part(text, medians(figures[ours]).cpu, medians(figures[theirs]).cpu, most, name))
    peaks = [
        (medians(f[ours]).memory / medians(f[theirs]).memory, name, medians(f[ours]).memory, medians(f[theirs]).memory)
        for name, f in rounds.items()
        if ours in f and theirs in f and medians(f[theirs]).memory
    ]
    if peaks:
        part, name, a, b = max(peaks)
        cells = [f"peak memory, worst row ({ROWS[name].text})", f"{a:,.0f} MiB", f"{b:,.0f} MiB", f"{part:.2f}"]
        out.append([*cells, f"at most {MEMORY_GOAL:g}{'' if part <= MEMORY_GOAL else ', missed'}"])
    return out


def _part(text: str, ours: float, theirs: float, most: float, name: str) -> list[str]:
    factor, unit = (1024 * 1000, "ms") if ROWS[name].unit == "MiB/s" else (1e6, "µs")
    part = ours / theirs
    goal = f"at most {most:g}{'' if part <= most else ', missed'}"
    return [text, f"{ours * factor:,.0f} {unit}", f"{theirs * factor:,.0f} {unit}", f"{part:.2f}", goal]


def show(rounds: Rounds, ours: str = "pyrbd", theirs: str = "librbd") -> None:
    """The table on the terminal."""
    table = [
        ["medians, ± half the distance of the quarters", ours, theirs, "ratio", "goal"],
        *lines_of(rounds, ours, theirs),
    ]
    widths = [max(len(cells[i]) for cells in table) for i in range(5)]
    for cells in table:
        print("  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]))


def write_page(page: Path, rounds: Rounds) -> None:
    """Puts the table between its marks in the page."""
    number = max(len(r) for f in rounds.values() for r in f.values())
    head = (
        f"Measured on {datetime.date.today():%Y-%m-%d}: {machine()}. Medians of {number} alternating rounds, ± half "
        "the distance of the quarters; the ratio is the median of those of the rounds."
    )
    table = ["| workload | pyrbd | librbd | ratio | goal |", "| --- | --- | --- | --- | --- |"]
    table += ["| " + " | ".join(cells) + " |" for cells in lines_of(rounds)]
    text = page.read_text()
    part = f"{BEGIN}\n{head}\n\n" + "\n".join(table) + f"\n{END}"
    page.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: part, text, flags=re.DOTALL))


def machine() -> str:
    """What it was measured on."""
    cpu = ""
    try:
        cpu = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].partition("\n")[0]
    except OSError:
        pass
    ceph = subprocess.run(["ceph-osd", "--version"], capture_output=True, text=True, check=False).stdout.split()
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} processors {cpu}, Python {platform.python_version()}, "
        f"Ceph {ceph[2] if len(ceph) > 2 else '?'}, clients and daemons on one machine, load {load:.1f} at the end"
    )


def write_chart(path: Path, rounds: Rounds) -> None:
    """Bars of the ratios, as SVG. Needs pygal (the extra `bench`)."""
    import pygal  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from pygal.style import CleanStyle  # type: ignore[import-not-found,import-untyped,unused-ignore]

    names = [n for n, f in rounds.items() if "pyrbd" in f and "librbd" in f and not n.startswith("secure_")]
    chart = pygal.HorizontalBar(
        style=CleanStyle,
        title="pyrbd beside librbd's Python binding: so many times as fast",
        width=900,
        height=120 + 34 * len(names),
        logarithmic=True,
        print_values=True,
        value_formatter=lambda v: f"{v:.2f}",
        show_legend=False,
        disable_xml_declaration=True,
        js=[],
    )
    chart.x_labels = [ROWS[n].text for n in reversed(names)]
    chart.add("ratio", [ratio(rounds[n], "pyrbd", "librbd") for n in reversed(names)])
    path.write_text(chart.render(is_unicode=True))
