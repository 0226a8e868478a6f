"""The report's plots, drawn by matplotlib as SVG whose colours the page decides, so that they suit light and dark.

Each plot is small and of one region: a page puts as many side by side as its width allows. Colours are drawn as
placeholders and then replaced by the page's CSS variables. Where points are few enough to tell apart they are drawn,
and in the plot of volumes each is a link to its case.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ..metrics import METRICS
from ..pictures import matplotlib_module
from ..statistics import difference

CASE_LINK: Final = "#case-"
_SIZE_INCHES: Final = (3.5, 2.4)
_PLACE: Final = (0.19, 0.155, 0.795, 0.82)
_INK, _LINE = "#010101", "#020202"
_MOST_POINTS: Final = 60
_HIGH_SHARE: Final = 0.95  # specificity hardly goes below
_FEWEST_FOR_BOX: Final = 4
_FEWEST_FOR_VIOLIN: Final = 8
_SETTINGS: Final = {
    "font.size": 8,
    "svg.fonttype": "none",  # letters, not outlines: the page's own font, and text that can be found and read aloud
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.5,
    "text.color": _INK,
    "text.parse_math": False,  # a name may hold dollar signs
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}
_USELESS: Final = re.compile(
    r"<metadata>.*?</metadata>|<style.*?</style>|(?<=<g) id=\"[^\"]*\"|font-family: [^;\"]*;? ?", re.DOTALL
)
_PLACES: Final = re.compile(r'(?<=\s)(?:d|x|y|x1|y1|x2|y2|points|transform|width|height)="[^"]*"')
_DECIMALS: Final = re.compile(r"(\.\d\d)\d+")
_ANCHOR: Final = re.compile(r'<a xlink:href="#case-(\d+)"(?: target="[^"]*")?>')

Cases = Sequence[Mapping[str, Any]]


def distribution(cases: Cases, methods: Sequence[str], region: str, metric: str) -> str:
    """Box plots of one metric, a box a method, with violins and points where they say something; "" without values.

    Args:
        cases: as in `metrics.json`.
        methods: names, in order.
        region: by name.
        metric: key.
    """
    groups = [_values(cases, method, region, metric) for method in methods]
    if not any(len(group) for group in groups):
        return ""

    def draw(axes: Any) -> None:
        for index, group in enumerate(groups):
            if not len(group):
                continue
            colour = _method_colour(index)
            if len(group) >= _FEWEST_FOR_VIOLIN and np.ptp(group) > 0:
                parts = axes.violinplot([group], positions=[index], widths=0.8, showextrema=False)
                for body in parts["bodies"]:
                    body.set(facecolor=colour, edgecolor="none", alpha=0.25)
            few = len(group) <= _MOST_POINTS
            line = {"color": colour, "linewidth": 1.1}
            if len(group) >= _FEWEST_FOR_BOX:
                axes.boxplot(
                    [group], positions=[index], widths=0.26, showfliers=not few, boxprops=line, whiskerprops=line,
                    capprops=line, medianprops={"color": _INK, "linewidth": 1.6},
                    flierprops={"marker": ".", "markersize": 3, "markerfacecolor": colour, "markeredgecolor": "none"},
                )  # fmt: skip
            if few:
                spread = (np.arange(len(group)) * 0.618034 % 1 - 0.5) * 0.34
                axes.scatter(index + spread, group, s=9, color=colour, alpha=0.75, linewidths=0)
        axes.set_xticks(range(len(methods)), [_short(name, 22 // len(methods) + 4) for name in methods])
        axes.set_xlim(-0.6, len(methods) - 0.4)
        axes.grid(axis="y")
        _limit(axes, metric)
        axes.set_ylabel(_with_unit(metric))

    return _svg(draw, f"distribution-{metric}-{region}", f"{METRICS[metric].title} of {region}")


def differences(
    cases: Cases, first: str, second: str, region: str, metric: str, *, colours: tuple[int, int] = (0, 1)
) -> str:
    """The difference first − second of every case, sorted: how often and by how much either is ahead; "" without any.

    It is `statistics.difference`, so that the bars and the paired comparison tell the same.

    Args:
        cases: as in `metrics.json`.
        first: a method.
        second: another.
        region: by name.
        metric: key.
        colours: numbers of the two methods.
    """
    better = METRICS[metric].better
    pairs = [(_value(case, first, region, metric), _value(case, second, region, metric)) for case in cases]
    apart = [difference(one, other, better) for one, other in pairs]
    found = np.sort([one for one in apart if one is not None])
    if not len(found):
        return ""
    ahead_above, ahead_below = colours if better == "higher" else colours[::-1]

    def draw(axes: Any) -> None:
        edges = np.arange(len(found) + 1)
        for values, colour in ((np.maximum(found, 0), ahead_above), (np.minimum(found, 0), ahead_below)):
            axes.stairs(values, edges, fill=True, color=_method_colour(colour), linewidth=0)
        axes.axhline(0, color=_INK, linewidth=0.8)
        axes.axhline(float(np.median(found)), color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlim(0, len(found))
        axes.xaxis.set_major_locator(matplotlib_module("ticker").MaxNLocator(integer=True, nbins=5))
        axes.grid(axis="y")
        axes.set_xlabel("cases, sorted")
        axes.set_ylabel(f"difference [{METRICS[metric].unit}]" if METRICS[metric].unit else "difference")

    about = f"{METRICS[metric].title} of {region}: {first} minus {second}, case by case"
    return _svg(draw, f"differences-{metric}-{region}-{first}-{second}", about)


def volumes(cases: Cases, method: str, region: str, *, colour: int = 0) -> str:
    """Bland and Altman's plot: the error of the volume over the mean of both, with bias and limits of agreement.

    Args:
        cases: as in `metrics.json`; the points are links to the cases by their place in it.
        method: by name.
        region: by name.
        colour: number of the method.

    Source: Bland and Altman 1986, Lancet 327(8476).
    """
    places, reference, found = [], [], []
    for place, case in enumerate(cases):
        measured = case["methods"][method]["regions"].get(region)
        if measured is not None and case["reference_ml"] is not None:
            places.append(place)
            reference.append(case["reference_ml"][region])
            found.append(measured["volume_ml"])
    if not places:
        return ""
    mean, error = (np.add(reference, found) / 2, np.subtract(found, reference))

    def draw(axes: Any) -> None:
        axes.axhline(0, color=_LINE, linewidth=0.8)
        points = axes.scatter(mean, error, s=14, color=_method_colour(colour), alpha=0.7, linewidths=0)
        points.set_urls([f"{CASE_LINK}{place}" for place in places])
        bias = float(error.mean())
        axes.axhline(bias, color=_INK, linewidth=1)
        if len(error) > 2:
            limit = 1.96 * float(error.std(ddof=1))
            for sign in (-1, 1):
                axes.axhline(bias + sign * limit, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.margins(x=0.06, y=0.12)
        axes.grid(axis="y")
        axes.set_xlabel("mean of both volumes [ml]")
        axes.set_ylabel("prediction − reference [ml]")

    svg = _svg(draw, f"volumes-{region}-{method}", f"Volumes of {region} by {method}, Bland and Altman")

    def named(match: re.Match[str]) -> str:
        # Out of the way of the Tab key: the table of cases has the same links.
        name = html.escape(str(cases[int(match[1])]["case_id"]))
        return f'<a href="{CASE_LINK}{match[1]}" tabindex="-1"><title>{name}</title>'

    return _ANCHOR.sub(named, svg)


def _svg(draw: Callable[[Any], None], salt: str, about: str) -> str:
    """A plot as SVG to put into a page, without anything that depends on when or how often it was drawn."""
    with matplotlib_module("pyplot").rc_context({**_SETTINGS, "svg.hashsalt": salt}):
        figure = matplotlib_module("figure").Figure(figsize=_SIZE_INCHES)
        figure.patch.set_visible(False)
        axes = figure.add_axes(_PLACE)
        axes.patch.set_visible(False)
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', _opening(about), _USELESS.sub("", text), count=1)
    text = _PLACES.sub(lambda match: _DECIMALS.sub(r"\1", match[0]), text)
    text = text.replace(_INK, "currentColor").replace(_LINE, "var(--line)")
    text = re.sub(r"#0300([0-9a-f]{2})", lambda match: f"var(--m{int(match[1], 16)})", text)
    return re.sub(r"\n\s*", "\n", text)


def _opening(about: str) -> Callable[[re.Match[str]], str]:
    label = html.escape(about, quote=True)
    return lambda match: (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{match[1]}" '
        f'role="img" aria-label="{label}">'
    )


def _value(case: Mapping[str, Any], method: str, region: str, metric: str) -> float | None:
    measured = case["methods"][method]["regions"].get(region)
    value: float | None = None if measured is None else measured["metrics"][metric]
    return value


def _values(cases: Cases, method: str, region: str, metric: str) -> Any:
    return np.array([v for case in cases if (v := _value(case, method, region, metric)) is not None])


def _limit(axes: Any, metric: str) -> None:
    """Shares end at 1, and begin at 0 unless all are high; where they are very high, just below the least.

    Lengths and counts begin at 0.
    """
    described = METRICS[metric]
    if described.lowest != 0:
        return
    low, _ = axes.get_ylim()
    if described.highest != 1:
        axes.set_ylim(bottom=0)
        return
    if low >= _HIGH_SHARE:
        axes.set_ylim(low, 1 + 0.03 * (1 - low))
        axes.yaxis.set_major_locator(matplotlib_module("ticker").MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axes.ticklabel_format(axis="y", useOffset=False)
        return
    start = 0.0 if low < 0.6 else float(np.floor(low * 10) / 10)
    step = 0.2 if start == 0 else 0.1 if start < 0.8 else 0.05
    axes.set_ylim(start - 0.03 * (1 - start), 1 + 0.03 * (1 - start))
    axes.set_yticks(np.arange(start, 1 + step / 2, step))


def _with_unit(metric: str) -> str:
    described = METRICS[metric]
    return f"{described.title} [{described.unit}]" if described.unit else described.title


def _method_colour(index: int) -> str:
    return f"#0300{index % 8:02x}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
