"""Figures as inline SVG: data in, one string out. Text stays text, colours follow the page (light, dark, print).

Every figure is drawn by matplotlib with its own settings and no global state; the same data give the same bytes.
Intervals are drawn wherever they are known; units stand on the axes, n in the caption beside the figure.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from aifeedback.errors import MissingExtra
from aifeedback.records import content_id

INK, FAINT, GRID, PAPER = "#1f2329", "#6a737d", "#d7dbe0", "#fdfdfe"
BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#2f7dc1", "#d9822b", "#2a9d74", "#8e63b8", "#cf4a4a", "#8b949e"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, GREY)
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--grid)", PAPER: "var(--paper)"}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}


class Mark(NamedTuple):
    """One value with its interval; ends that are not known are None."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Line(NamedTuple):
    """One labelled row of a dot plot: a mark per series, None where that series has none."""

    label: str
    marks: Sequence[Mark | None]


class Curve(NamedTuple):
    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def dots(
    lines: Sequence[Line],
    series: Sequence[str],
    *,
    unit: str,
    reference: float | None = None,
    span: tuple[float, float] | None = None,
    scale: float = 100.0,
    reference_label: str = "",
    form: str = "{:.0f}",
) -> str:
    """Values with intervals, one row per label, one colour per series; the first series is filled, others hollow.

    ``form`` writes the value beside its mark; ``scale`` turns the values into the axis's unit (100 for shares in %);
    ``reference`` and ``span`` are in values.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        step = 0.62 / max(1, len(series))
        for row, line in enumerate(lines):
            for index, mark in enumerate(line.marks):
                if mark is None or mark.value is None:
                    continue
                y = row + (index - (len(series) - 1) / 2) * step
                colour = SERIES[index % len(SERIES)]
                if mark.low is not None and mark.high is not None:
                    axes.plot(
                        [mark.low * scale, mark.high * scale], [y, y], color=colour, lw=2.2, solid_capstyle="butt"
                    )
                axes.plot(
                    [mark.value * scale], [y], "o", ms=7, mec=colour, mew=1.8, mfc=colour if index == 0 else PAPER
                )
                axes.annotate(
                    form.format(round(mark.value * scale, 6) + 0.0),
                    ((mark.value if mark.high is None else max(mark.high, mark.value)) * scale, y),
                    (6, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
        if reference is not None:
            axes.axvline(reference * scale, color=FAINT, lw=1, ls=(0, (4, 3)))
            if reference_label:
                axes.annotate(
                    reference_label, (reference * scale, -0.62), (4, 0), textcoords="offset points", fontsize=8.5,
                    color=FAINT, va="bottom",
                )  # fmt: skip
        axes.set_yticks(range(len(lines)), [line.label for line in lines], color=INK)
        axes.set_ylim(len(lines) - 0.4, -0.65)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if span:
            axes.set_xlim(span[0] * scale, span[1] * scale)
        else:
            axes.margins(x=0.08)
        if len(series) > 1:
            _dot_legend(axes, series)

    height = 0.62 + 0.36 * len(lines) * (1 + 0.35 * (len(series) - 1)) + (0.3 if len(series) > 1 else 0)
    return drawn(draw, width=6.6, height=height, alt=_dots_alt(lines, series, unit, scale))


class Panel(NamedTuple):
    y_label: str
    curves: Sequence[Curve]


def curves(columns: Sequence[tuple[str, Sequence[Panel]]], *, x_label: str) -> str:
    """Small multiples: one column per (title, panels), one row per unit; rows share their axis, units never do.

    All share x, so that a course that ended early is seen to be shorter.
    """
    rows = _merged([[panel.y_label for panel in panels] for _, panels in columns])

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(rows), len(columns), sharex=True, sharey="row", squeeze=False)
        for c, (title, panels) in enumerate(columns):
            by_unit = {panel.y_label: panel for panel in panels}
            for r, unit in enumerate(rows):
                axes = grid[r][c]
                for index, curve in enumerate(by_unit[unit].curves if unit in by_unit else ()):
                    _curve(axes, curve, SERIES[(index + r) % len(SERIES)], thin=index > 0)
                if unit not in by_unit:
                    axes.set_axis_off()
                elif all(unit not in [p.y_label for p in before] for _, before in columns[:c]):
                    axes.set_ylabel(unit)
                if r == 0:
                    axes.set_title(title)
                    if len(by_unit.get(unit, Panel("", ())).curves) > 1 and c == 0:
                        axes.legend(loc="best", labelcolor=INK, fontsize=8)
            grid[-1][c].set_xlabel(x_label)

    told = "; ".join(f"{title}: {', '.join(p.y_label for p in panels)}" for title, panels in columns)
    width = min(9.4, 1.2 + 2.7 * len(columns))
    return drawn(draw, width=width, height=0.7 + 1.3 * len(rows), alt=f"Against {x_label}. {told}")


def _merged(lists: Sequence[Sequence[str]]) -> list[str]:
    """Every name once, each list in its own order as far as the lists before it allow."""
    rows: list[str] = []
    for names in lists:
        at = 0
        for name in names:
            if name not in rows:
                rows.insert(at, name)
            at = rows.index(name) + 1
    return rows


def _curve(axes: Any, curve: Curve, colour: str, *, thin: bool) -> None:
    dot = "o" if len(curve.x) < 15 else None
    width, alpha = (1.0, 0.55) if thin else (1.8, 1.0)
    axes.plot(curve.x, curve.y, color=colour, label=curve.label, marker=dot, ms=4, lw=width, alpha=alpha)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, lw=0)


def reliability(tables: Mapping[str, Sequence[tuple[Any, ...]]]) -> str:
    """Calibration: mean stated probability against the share that people confirm, one colour per judge.

    Each table row is (mean p, share, n), or with the share's interval (…, low, high); dot areas grow with n; the
    diagonal is perfect calibration.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=FAINT, lw=1, ls=(0, (4, 3)))
        for index, (name, rows) in enumerate(tables.items()):
            known = [row for row in rows if row[2]]
            largest = max((row[2] for row in known), default=1)
            colour = SERIES[index % len(SERIES)]
            p, share = ([100 * row[k] for row in known] for k in (0, 1))
            axes.plot(p, share, color=colour, lw=1.2, label=name)
            axes.scatter(p, share, [12 + 90 * row[2] / largest for row in known], color=colour)
            bars = [row for row in known if len(row) > 3 and None not in row[3:5]]
            axes.vlines([100 * row[0] for row in bars], [100 * row[3] for row in bars], [100 * row[4] for row in bars],
                        color=colour, lw=1.4, alpha=0.5)  # fmt: skip
        axes.set(xlim=(-3, 103), ylim=(-3, 103), aspect="equal")
        axes.set_xlabel("judge's P(first is better), %")
        axes.set_ylabel("people preferring the first, %")
        if len(tables) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, labelcolor=INK, borderpad=0)

    height = 3.9 + (0.22 * ((len(tables) + 1) // 2) if len(tables) > 1 else 0)
    return drawn(draw, width=4.1, height=height, alt="Reliability curve: " + ", ".join(tables))


def stacked(
    rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str], *, unit: str = "share of pairs, %"
) -> str:
    """Shares that add up to one, a bar per row (position bias: same answer, first slot twice, second slot twice)."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for index, (_, shares) in enumerate(rows):
            left = 0.0
            for part, share in enumerate(shares):
                axes.barh(index, 100 * share, left=left, height=0.56, color=_PARTS[part % len(_PARTS)], lw=0)
                if share >= 0.06:
                    axes.text(
                        left + 50 * share,
                        index,
                        f"{100 * share:.0f}",
                        ha="center",
                        va="center",
                        fontsize=9,
                        color="#ffffff",
                    )
                left += 100 * share
        axes.set_yticks(range(len(rows)), [label for label, _ in rows], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.grid(visible=False)
        axes.set_xlabel(unit)
        from matplotlib.patches import Patch

        handles = [Patch(color=_PARTS[i % len(_PARTS)], label=part) for i, part in enumerate(parts)]
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(parts), labelcolor=INK,
                    handlelength=1, borderpad=0, columnspacing=1.2)  # fmt: skip

    told = "; ".join(
        f"{label}: " + ", ".join(f"{p} {100 * s:.0f} %" for p, s in zip(parts, shares, strict=False))
        for label, shares in rows
    )
    return drawn(draw, width=6.6, height=0.95 + 0.4 * len(rows), alt=told)


_PARTS = (GREEN, ORANGE, PURPLE, GREY)


def drawn(draw: Callable[[Any], None], *, width: float, height: float, alt: str) -> str:
    """Runs ``draw(figure)`` and returns the SVG element; ``alt`` is read aloud. Inches at 96 dots per inch."""
    with _settings(alt):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        draw(figure)
        for axes in figure.axes:
            axes.set_facecolor("none")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), alt)


@contextmanager
def _settings(salt: str) -> Iterator[None]:
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("matplotlib", "stats") from None
    with matplotlib.rc_context(cast(Any, {**_STYLE, "svg.hashsalt": salt})), warnings.catch_warnings():
        # a glyph that DejaVu lacks is only measured with it: the page's own fonts draw the text
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def _inline(svg: str, alt: str) -> str:
    """The bare <svg> element: ids made unique within the page, colours as the page's variables, a title for readers."""
    svg = svg[svg.index("<svg") :]
    prefix = "f" + content_id(svg)[:8]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'\1="#{prefix}-\2"', svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--sans)", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg ([^>]*?)width="([\d.]+)pt" height="([\d.]+)pt"', r'<svg \1data-width="\2"', svg, count=1)
    title = alt.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    width = re.search(r'data-width="([\d.]+)"', svg)
    size = f' style="max-width:{float(width[1]) * 4 / 3:.0f}px"' if width else ""
    return re.sub(r"^<svg ([^>]*)>", rf'<svg role="img"{size} \1><title>{_literal(title)}</title>', svg, count=1)


def _literal(text: str) -> str:
    return text.replace("\\", r"\\")


def _dot_legend(axes: Any, series: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", ms=7, lw=2.2, color=SERIES[i % len(SERIES)], mew=1.8, label=name,
               mfc=SERIES[i % len(SERIES)] if i == 0 else PAPER)
        for i, name in enumerate(series)
    ]  # fmt: skip
    ncols = len(series) if sum(len(name) + 6 for name in series) <= 72 else 2
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=ncols, labelcolor=INK,
                borderpad=0, columnspacing=1.6)  # fmt: skip


def _dots_alt(lines: Sequence[Line], series: Sequence[str], unit: str, scale: float) -> str:
    told = []
    for line in lines:
        for name, mark in zip(series, line.marks, strict=False):
            if mark is not None and mark.value is not None:
                ends = (
                    ""
                    if mark.low is None or mark.high is None
                    else f" ({mark.low * scale:.0f} to {mark.high * scale:.0f})"
                )
                told.append(f"{line.label}, {name}: {mark.value * scale:.0f}{ends}")
    return f"{unit}. " + "; ".join(told)
