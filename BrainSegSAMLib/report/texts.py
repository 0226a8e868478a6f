"""The parts of the report that are plain HTML: they can be read without its script."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ..metrics import POLICY, LesionRules


def title(data: Mapping[str, Any]) -> str:
    """Of the page."""
    names = ", ".join(method["name"] for method in data["methods"])
    return f"Evaluation of {names}"


def header(data: Mapping[str, Any]) -> str:
    """What was evaluated, how many cases, and when."""
    cases = data["cases"]
    counted = []
    for method in data["methods"]:
        done = sum(case["methods"][method["name"]]["status"] == "evaluated" for case in cases)
        counted.append(f"<strong>{escape(method['name'])}</strong>: {done} of {len(cases)} cases")
    date = data["created"][:10]
    version = escape(data["versions"].get("brainsegsam", ""))
    return (
        f"<h1>{escape(title(data))}</h1>\n"
        f"<p>{' · '.join(counted)} · {escape(date)} · BrainSegSAM {version}</p>\n"
        '<p class="quiet">Research software. Not a medical device; not for clinical use.</p>'
    )


def problems(data: Mapping[str, Any]) -> str:
    """What a reader must know before the numbers: cases that are not in them, and warnings."""
    parts = []
    if data["problems"]:
        count = len({row["case_id"] for row in data["problems"]})
        subject = f"{count} of {len(data['cases'])} cases " + ("is" if count == 1 else "are")
        items = "".join(f"<li>{escape(_sentence(row))}</li>" for row in data["problems"])
        opened = " open" if len(data["problems"]) <= 5 else ""
        parts.append(
            f'<details class="notice bad"{opened}><summary>{subject} not evaluated by every method; the numbers below '
            f"are of the others</summary><ul>{items}</ul></details>"
        )
    said = [*data["doubts"], *data["warnings"]]
    if said:
        items = "".join(f"<li>{escape(text)}</li>" for text in said)
        parts.append(f'<div class="notice"><ul>{items}</ul></div>')
    return "\n".join(parts)


def _sentence(row: Mapping[str, str]) -> str:
    named = row["problem"] if row["case_id"] in row["problem"] else f"{row['case_id']}: {row['problem']}"
    return f"[{row['method']}] {named}" if row["method"] not in named else named


def all_metrics(data: Mapping[str, Any]) -> str:
    """Every metric's mean with its interval, a row a metric, a column for each method and region."""
    methods = [method["name"] for method in data["methods"]]
    regions = data["settings"]["regions"]
    found = {(row["metric"], row["method"], row["region"]): row for row in data["summary"]}
    first = "".join(f'<th scope="colgroup" colspan="{len(regions)}">{escape(name)}</th>' for name in methods)
    second = "".join(f'<th scope="col">{escape(region)}</th>' for _ in methods for region in regions)
    rows = []
    for metric in data["metrics"]:
        unit = f' <span class="quiet">[{escape(metric["unit"])}]</span>' if metric["unit"] else ""
        cells = "".join(f"<td>{_mean(found[metric['key'], m, r])}</td>" for m in methods for r in regions)
        rows.append(f'<tr><th scope="row">{escape(metric["title"])}{unit}</th>{cells}</tr>')
    return (
        f'<table class="numbers"><thead><tr><th rowspan="2" scope="col">Metric</th>{first}</tr>'
        f"<tr>{second}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _mean(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "–"
    interval = ""
    if row["ci_low"] is not None:
        interval = f'<br><span class="quiet">{number(row["ci_low"])} to {number(row["ci_high"])}</span>'
    return f"{number(row['mean'])}{interval}"


def number(value: float) -> str:
    """Three digits after the point below 10, fewer above."""
    size = abs(value)
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"


def about(data: Mapping[str, Any]) -> str:
    """What each metric says, the policy for empty masks, the statistics and the settings."""
    statistics, settings = data["statistics"], data["settings"]
    share = f"{100 * statistics['confidence']:g} %"
    rows = "".join(
        f'<tr><th scope="row">{escape(metric["title"])}</th><td>{escape(metric["meaning"])}</td>'
        f"<td>{_policy(metric['both_empty'])}</td><td>{_policy(metric['one_empty'])}</td>"
        f'<td class="quiet">{escape(metric["source"])}</td></tr>'
        for metric in data["metrics"]
    )
    labels = "".join(
        f"<li>{escape(entry['name'])}: {', '.join(map(str, entry['labels']))}</li>" for entry in settings["labels"]
    )
    places = [("Reference", data["reference"])] + [(method["name"], method["source"]) for method in data["methods"]]
    sources = "".join(f"<li>{escape(name)}: <code>{escape(place)}</code></li>" for name, place in places)
    read_as = ", ".join(f"{value} as {meant}" for value, meant in settings["label_values"].items())
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in data["versions"].items())
    return f"""
<h3>Metrics, and what empty masks count as</h3>
<div class="scroll" tabindex="0" role="region" aria-label="Metrics"><table class="words"><thead><tr>
<th scope="col">Metric</th><th scope="col">What a value says</th><th scope="col">Both empty</th>
<th scope="col">One empty</th><th scope="col">Source</th></tr></thead><tbody>{rows}</tbody></table></div>
<p>{escape(POLICY)} {escape(LesionRules(**settings["lesions"]).said)} The surface Dice's tolerance is
{settings["tolerance_mm"]:g} mm.</p>
<h3>Statistics</h3>
<p>Intervals are {share} bootstrap intervals of the mean, of {statistics["resamples"]} resamples (seed
{statistics["seed"]}) in which patients, not cases, are drawn. Two methods are compared on the same cases only, by the
two-sided Wilcoxon signed-rank test, in which a patient with several cases counts once, by the mean difference; p-values
of one metric (all regions and pairs of methods) are corrected together by Holm's method. The effect size is the
matched-pairs rank-biserial correlation: 1 where the first method is better for every patient, −1 where the second is.
Where nearer to zero is better, differences are those of the distances from zero.</p>
<h3>Settings</h3>
<ul>{sources}<li>Label values: <ul>{labels}</ul></li>
{f"<li>Label values of the references read otherwise: {escape(read_as)}</li>" if read_as else ""}
<li>Predictions whose voxels lie in other places than the reference's:
{"resampled (nearest neighbour)" if settings["resample"] else "refused"}. A case is measured on all voxels of reference
and predictions; beyond its own grid, each is empty.</li>
<li>Versions: {versions}</li></ul>
"""


def _policy(value: Any) -> str:
    if value is None:
        return "not defined"
    return "as counted" if value == "counted" else f"{value:g}"

