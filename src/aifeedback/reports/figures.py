"""Plots as inline SVG: data in, one string out. Text stays text, colours follow the page (light, dark, print).

Every plot is drawn twice by matplotlib: at the width of the page's column and at the width of a phone, so that its
text has the same size on both; style.css shows one of them. No global state: the same data give the same
bytes. Intervals are drawn wherever they are known; units are on the axes, n in the caption beside the plot.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from aifeedback.types import content_id

MINUS = "\u2212"
INK, FAINT, GRID, PAPER = "#1f2329", "#6a737d", "#d7dbe0", "#fdfdfe"
GREY = "#8b949e"
POLICIES = ("#3b82c4", "#12a3b4", "#9168c0", "#c9609a", "#6f7fd0", "#7f8f3a")
"""One colour per policy, the reference is grey. None of them is a colour of a status (green, amber, red)."""
EVALUATORS = ("#7a6a9e", "#b0785a", "#5f8793", "#94806a", "#8f5f6f", "#66788a")
"""One colour per evaluator or judge, none of them a policy's; the shape of the mark distinguishes them as well."""
MARKERS = "osD^vP"
PARTS = ("#c3cad1", "#4a5562", "#7d8894", "#e3e7eb")
"""Parts of a whole, in greys: what they mean is written beside them."""
WIDE, NARROW = 9.5, 3.75
"""Inches at 96 dots: the column of a page on a screen, and on a phone."""
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
    """One value with its interval; unknown ends are None."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Line(NamedTuple):
    """One labelled row of a dot plot: a mark per series, None where that series has none."""

    label: str
    marks: Sequence[Mark | None]
    colour: str = ""
    """Of the whole row; empty where each series has its own."""


class Curve(NamedTuple):
    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: str = GREY
    is_thin: bool = False


class Panel(NamedTuple):
    y_label: str
    curves: Sequence[Curve]


def shortened(text: str, most: int = 44) -> str:
    """A label that leaves room for what it labels; the text alternative has it whole."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def policy_colours(names: Sequence[str], reference: str) -> dict[str, str]:
    """Name → colour: grey for the reference, then one after the other."""
    others = [name for name in names if name != reference]
    return {reference: GREY} | {name: POLICIES[i % len(POLICIES)] for i, name in enumerate(others)}


def evaluator_colours(count: int) -> list[str]:
    return [EVALUATORS[i % len(EVALUATORS)] for i in range(count)]


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
    colours: Sequence[str] = (),
) -> str:
    """Values with intervals, one row per label.

    Rows with a colour of their own show their series as filled and hollow marks; else each series has its colour
    (``colours``) and shape. ``form`` writes the value beside its mark; ``scale`` turns the values into the axis's unit
    (100 for shares in %); ``reference`` and ``span`` are in values.
    """
    shown = [_Series(name, colours[i] if i < len(colours) else EVALUATORS[i % len(EVALUATORS)],
                     MARKERS[i % len(MARKERS)] if colours else "o") for i, name in enumerate(series)]  # fmt: skip
    is_by_row = any(line.colour for line in lines)

    def draw(figure: Any, is_narrow: bool) -> None:
        axes = figure.add_subplot()
        step = 0.62 / max(1, len(series)) * (0.75 if is_narrow else 1.0)
        down = 0.16 if is_narrow else 0.0  # on a phone the label is above its marks
        for row, line in enumerate(lines):
            for index, mark in enumerate(line.marks):
                if mark is None or mark.value is None:
                    continue
                y = row + down + (index - (len(series) - 1) / 2) * step
                _mark(axes, mark, y, scale, form, _Series("", line.colour, "o") if line.colour else shown[index],
                      is_hollow=bool(line.colour) and index > 0)  # fmt: skip
            if is_narrow:
                _label_above(axes, line.label, row - 0.28)
        if reference is not None:
            axes.axvline(reference * scale, color=FAINT, lw=1, ls=(0, (4, 3)), zorder=0)
            if reference_label:
                axes.annotate(reference_label, (reference * scale, len(lines) - 0.42), (4, 0),
                              textcoords="offset points", fontsize=8.5, color=FAINT, va="bottom")  # fmt: skip
        axes.set_yticks(range(len(lines)), ["" if is_narrow else shortened(line.label) for line in lines], color=INK)
        axes.set_ylim(len(lines) - 0.4, -0.65)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=5 if is_narrow else 10)
        if span:
            axes.set_xlim(span[0] * scale, span[1] * scale)
        else:
            axes.margins(x=0.1 if is_narrow else 0.05)
        if len(series) > 1:
            _dot_legend(axes, [_Series(s.label, INK, "o") for s in shown] if is_by_row else shown, is_by_row, is_narrow)

    rows = len(lines) * (1 + 0.35 * (len(series) - 1))
    legend = (0.0, 0.0) if len(series) < 2 else (0.3, 0.22 * len(series))
    return responsive(
        draw, 0.62 + 0.36 * rows + legend[0], 0.62 + 0.36 * rows + 0.26 * len(lines) + legend[1],
        alt=_dots_alt(lines, series, unit, scale),
    )  # fmt: skip


class _Series(NamedTuple):
    label: str
    colour: str
    marker: str


def _mark(axes: Any, mark: Mark, y: float, scale: float, form: str, series: _Series, *, is_hollow: bool) -> None:
    assert mark.value is not None
    if mark.low is not None and mark.high is not None:
        axes.plot([mark.low * scale, mark.high * scale], [y, y], color=series.colour, lw=2.2, solid_capstyle="butt")
    axes.plot([mark.value * scale], [y], series.marker, ms=7, mec=series.colour, mew=1.8,
              mfc=PAPER if is_hollow else series.colour)  # fmt: skip
    end = mark.value if mark.high is None else max(mark.high, mark.value)
    text = form.format(round(mark.value * scale, 6) + 0.0).replace("-", MINUS)
    axes.annotate(text, (end * scale, y), (6, 0), textcoords="offset points", va="center", fontsize=9)


def _label_above(axes: Any, label: str, y: float) -> None:
    text = axes.annotate(shortened(label), (0, y), xycoords=("axes fraction", "data"), fontsize=9.5, va="bottom")
    text.set_in_layout(False)


def curves(panels: Sequence[Panel], *, x_label: str) -> str:
    """Small multiples, a panel per unit; a label keeps its colour in all of them, so that courses can be compared.

    All share x, so that a course that ended early is seen to be shorter.
    """
    named = {curve.label: curve.colour for panel in panels for curve in panel.curves}

    def draw(figure: Any, is_narrow: bool) -> None:
        columns = 1 if is_narrow or len(panels) == 1 else 2
        rows = -(-len(panels) // columns)
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
        cells = [axes for row in grid for axes in row]
        for axes, panel in zip(cells, panels, strict=False):
            for curve in panel.curves:
                _curve(axes, curve)
            axes.set_title(shortened(panel.y_label), fontsize=9.5, fontweight="normal")
            axes.yaxis.get_major_locator().set_params(nbins=4)
            axes.xaxis.get_major_locator().set_params(integer=True)
        for axes in cells[len(panels) :]:
            axes.set_axis_off()
        for axes in cells[max(0, len(panels) - columns) : len(panels)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(x_label)
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], color=colour, lw=2, label=shortened(label)) for label, colour in named.items()]
        figure.legend(handles=handles, loc="outside upper left", labelcolor=INK, handlelength=1.4,
                      ncols=1 if is_narrow else columns_of(named))  # fmt: skip

    alt = "; ".join(f"{panel.y_label}: {', '.join(dict.fromkeys(c.label for c in panel.curves))}" for panel in panels)
    legend = -(-len(named) // columns_of(named)) * 0.28
    return responsive(draw, legend + 0.5 + 1.6 * -(-len(panels) // 2), 0.25 * len(named) + 0.5 + 1.55 * len(panels),
                      alt=f"Against {x_label}. {alt}")  # fmt: skip


def columns_of(names: Iterable[str]) -> int:
    """Columns of a legend that fit the width of the page."""
    longest = max((len(shortened(name)) for name in names), default=1)
    return max(1, min(4, 120 // (longest + 6)))


def _curve(axes: Any, curve: Curve) -> None:
    dot = "o" if len(curve.x) < 15 and not curve.is_thin else None
    width, alpha = (1.0, 0.45) if curve.is_thin else (1.8, 1.0)
    axes.plot(curve.x, curve.y, color=curve.colour, marker=dot, ms=4, lw=width, alpha=alpha)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.x, curve.low, curve.high, color=curve.colour, alpha=0.16, lw=0)


def reliability(tables: Mapping[str, Sequence[tuple[Any, ...]]]) -> str:
    """Calibration: mean stated probability against the share that people confirm, one colour per judge.

    Each table row is (mean p, share, n), or with the share's interval (…, low, high); dot areas grow with n; the
    diagonal is perfect calibration.
    """

    def draw(figure: Any, is_narrow: bool) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=FAINT, lw=1, ls=(0, (4, 3)))
        for index, (name, rows) in enumerate(tables.items()):
            known = [row for row in rows if row[2]]
            largest = max((row[2] for row in known), default=1)
            colour, shape = EVALUATORS[index % len(EVALUATORS)], MARKERS[index % len(MARKERS)]
            p, share = ([100 * row[k] for row in known] for k in (0, 1))
            axes.plot(p, share, color=colour, lw=1.2, label=shortened(name))
            axes.scatter(p, share, [12 + 90 * row[2] / largest for row in known], color=colour, marker=shape)
            bars = [row for row in known if len(row) > 3 and None not in row[3:5]]
            axes.vlines([100 * row[0] for row in bars], [100 * row[3] for row in bars], [100 * row[4] for row in bars],
                        color=colour, lw=1.4, alpha=0.5)  # fmt: skip
        axes.set(xlim=(-3, 103), ylim=(-3, 103))
        axes.set_xlabel("judge's P(first is better), %")
        axes.set_ylabel("people preferring the first, %")
        if len(tables) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=1 if is_narrow else 2, labelcolor=INK,
                        borderpad=0)  # fmt: skip

    many = len(tables) if len(tables) > 1 else 0
    return responsive(draw, 3.9 + 0.22 * ((many + 1) // 2), 3.6 + 0.22 * many,
                      alt="Reliability curve: " + ", ".join(tables))  # fmt: skip


def stacked(
    rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str], *, unit: str = "share of pairs, %"
) -> str:
    """Shares that add up to one, a bar per row (position bias: same response, first position twice, second twice)."""

    def draw(figure: Any, is_narrow: bool) -> None:
        axes = figure.add_subplot()
        for index, (label, shares) in enumerate(rows):
            left = 0.0
            for part, share in enumerate(shares):
                axes.barh(index, 100 * share, left=left, height=0.5, color=PARTS[part % len(PARTS)], lw=0)
                if share >= 0.06:
                    axes.text(left + 50 * share, index, f"{100 * share:.0f}", ha="center", va="center", fontsize=9,
                              color="#1f2328" if part % len(PARTS) in (0, 3) else "#ffffff")  # fmt: skip
                left += 100 * share
            if is_narrow:
                _label_above(axes, label, index - 0.3)
        axes.set_yticks(range(len(rows)), ["" if is_narrow else shortened(label) for label, _ in rows], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.75 if is_narrow else -0.5)
        axes.set_xlim(0, 100)
        axes.grid(visible=False)
        axes.set_xlabel(unit)
        from matplotlib.patches import Patch

        handles = [Patch(color=PARTS[i % len(PARTS)], label=part) for i, part in enumerate(parts)]
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2 if is_narrow else len(parts),
                    labelcolor=INK, handlelength=1, borderpad=0, columnspacing=1.2)  # fmt: skip

    alt = "; ".join(
        f"{label}: " + ", ".join(f"{p} {100 * s:.0f} %" for p, s in zip(parts, shares, strict=False))
        for label, shares in rows
    )
    return responsive(draw, 0.95 + 0.4 * len(rows), 1.25 + 0.66 * len(rows), alt=alt)


def responsive(draw: Callable[[Any, bool], None], height: float, narrow_height: float, *, alt: str) -> str:
    """``draw(figure, is_narrow)`` for the column of a page and for a phone; style.css shows one of the two."""
    wide = drawn(lambda figure: draw(figure, False), width=WIDE, height=height, alt=alt)
    narrow = drawn(lambda figure: draw(figure, True), width=NARROW, height=narrow_height, alt=alt)
    return f'<div class="plot wide-plot">{wide}</div><div class="plot narrow-plot">{narrow}</div>'


def drawn(draw: Callable[[Any], None], *, width: float, height: float, alt: str) -> str:
    """Run ``draw(figure)`` and return the SVG element; ``alt`` is read aloud. Inches at 96 dots per inch."""
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
def _settings(salt: str) -> Generator[None]:
    import matplotlib

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
    return re.sub(r"^<svg ([^>]*)>", rf'<svg role="img" \1><title>{_literal(title)}</title>', svg, count=1)


def _literal(text: str) -> str:
    return text.replace("\\", r"\\")


def _dot_legend(axes: Any, series: Sequence[_Series], is_by_row: bool, is_narrow: bool) -> None:
    """``is_by_row``: the colours are the rows', the series are distinguished by filled and hollow marks."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker=one.marker, ms=7, lw=2.2, color=one.colour, mew=1.8, label=shortened(one.label),
               mfc=PAPER if is_by_row and i > 0 else one.colour)
        for i, one in enumerate(series)
    ]  # fmt: skip
    fits = sum(len(shortened(one.label)) + 6 for one in series) <= 110
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), labelcolor=INK, borderpad=0,
                ncols=1 if is_narrow else len(series) if fits else 2, columnspacing=1.6)  # fmt: skip


def _dots_alt(lines: Sequence[Line], series: Sequence[str], unit: str, scale: float) -> str:
    marks = []
    for line in lines:
        for name, mark in zip(series, line.marks, strict=False):
            if mark is not None and mark.value is not None:
                ends = (
                    ""
                    if mark.low is None or mark.high is None
                    else f" ({mark.low * scale:.0f} to {mark.high * scale:.0f})"
                )
                marks.append(f"{line.label}, {name}: {mark.value * scale:.0f}{ends}")
    return f"{unit}. " + "; ".join(marks)
