"""The report of an evaluation: one HTML file that needs nothing else, neither a network nor a server.

The page's parts lie beside this file (`report.html`, `report.css`, `report.js`) and are put together here. What would
make it slow to open is text until it is looked at: the plots of other metrics, and the pictures of cases.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..files import atomic_path
from . import charts, texts

_PARTS: Final = Path(__file__).parent
_DIGITS: Final = 5  # significant ones, of numbers that the page shows

Picture = Callable[[str], Mapping[str, Any] | None]


def write_report(data: Mapping[str, Any], path: Path, *, picture: Picture) -> None:
    """Write the page, whole or not at all.

    Args:
        data: content of `metrics.json`.
        path: of the page.
        picture: gives what `overlays.overlay` drew for a case id, or None; asked once for each case, so that they need
            not be in memory together.

    Raises:
        OutputError: where it cannot be written.
        DependencyError: where matplotlib is not installed.
    """
    parts = {
        "title": html.escape(texts.title(data)),
        "style": (_PARTS / "report.css").read_text(encoding="utf-8"),
        "regions-style": _region_rules(data),
        "header": texts.header(data),
        "problems": texts.problems(data),
        "all-metrics": texts.all_metrics(data),
        "about": texts.about(data),
        "version": html.escape(__version__),
        "script": (_PARTS / "report.js").read_text(encoding="utf-8"),
    }
    page = (_PARTS / "report.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    streamed: dict[str, Iterator[str]] = {
        "<!--charts-->": _charts(data),
        "<!--data-->": iter([_json(_page_data(data))]),
        "<!--pictures-->": _pictures(data, picture),
    }
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as out:
        for marker, pieces in streamed.items():
            before, page = page.split(marker)
            out.write(before)
            for piece in pieces:
                out.write(piece)
        out.write(page)


def _page_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's script shows, without names that repeat in every case."""
    regions, metrics = data["settings"]["regions"], [metric["key"] for metric in data["metrics"]]
    methods = [method["name"] for method in data["methods"]]
    colours = {entry["name"]: entry["colour_rgb"] for entry in data["settings"]["labels"]}
    shown = ("key", "title", "unit", "better", "lowest", "highest", "meaning")
    return {
        "methods": methods,
        "regions": [{"name": name, "colour": "rgb({},{},{})".format(*colours[name])} for name in regions],
        "metrics": [{key: metric[key] for key in shown} for metric in data["metrics"]],
        "cases": [_page_case(case, methods, regions, metrics) for case in data["cases"]],
        "summary": [_rounded(row) for row in data["summary"]],
        "comparisons": [_rounded(row) for row in data["comparisons"]],
    }


def _page_case(
    case: Mapping[str, Any], methods: Sequence[str], regions: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    found = []
    for name in methods:
        method = case["methods"][name]
        measured = [method["regions"].get(region) for region in regions]
        found.append(
            {
                "status": method["status"],
                "problem": method["problem"],
                "notes": method["notes"],
                "ml": [None if one is None else _round(one["volume_ml"]) for one in measured],
                "values": [
                    None if one is None else [_round(one["metrics"][key]) for key in metrics] for one in measured
                ],
            }
        )
    reference = case["reference_ml"]
    return {
        "id": case["case_id"],
        "patient": case["patient"] if case["patient"] != case["case_id"] else "",
        "notes": case["notes"],
        "ml": None if reference is None else [_round(reference[region]) for region in regions],
        "methods": found,
    }


def _charts(data: Mapping[str, Any]) -> Iterator[str]:
    """Each plot as text that a browser does not look into: names in it are escaped, so none can end the element."""
    cases, regions = data["cases"], data["settings"]["regions"]
    methods = [method["name"] for method in data["methods"]]

    def plot(kind: str, metric: str, region: str, which: str, svg: str) -> str:
        names = {"chart": kind, "metric": metric, "region": region, "which": which}
        said = " ".join(f'data-{key}="{html.escape(value, quote=True)}"' for key, value in names.items())
        return f'<script type="image/svg+xml" {said}>{svg}</script>\n' if svg else ""

    for region in regions:
        for index, name in enumerate(methods):
            svg = charts.volumes(cases, name, region, colour=index)
            yield plot("volumes", "", region, name if len(methods) > 1 else "", svg)
    for metric in (metric["key"] for metric in data["metrics"]):
        for region in regions:
            yield plot("distribution", metric, region, "", charts.distribution(cases, methods, region, metric))
            for row in data["comparisons"]:  # what was not measured on the same cases is not drawn either
                if (row["metric"], row["region"]) == (metric, region):
                    first, second = row["first"], row["second"]
                    colours = methods.index(first), methods.index(second)
                    svg = charts.differences(cases, first, second, region, metric, colours=colours)
                    yield plot("differences", metric, region, f"{first} − {second}", svg)


def _pictures(data: Mapping[str, Any], picture: Picture) -> Iterator[str]:
    for place, case in enumerate(data["cases"]):
        drawn = picture(str(case["case_id"]))
        if drawn is not None:
            yield f'<script type="application/json" id="picture-{place}">{_json(drawn)}</script>\n'


def _region_rules(data: Mapping[str, Any]) -> str:
    """What switches a region off in all pictures at once."""
    return "".join(f".hide-r{i} .r{i}{{display:none}}" for i in range(len(data["settings"]["regions"])))


def _json(data: Any) -> str:
    """JSON that may stand in a script element: no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _round(value) if isinstance(value, float) else value for key, value in row.items()}


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
