"""What is said of a model wherever it is offered."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from slicer.i18n import tr as _

from .Fields import readableSize


def methodTitle(method: str) -> str:
    """What a method is called for people."""
    titles = {
        "nnunet": "nnU-Net v2",
        "ssnet": _("SSNet: nnU-Net, then SAM 2 on what it found"),
        "yolo_medsam": _("YOLO boxes, then MedSAM"),
        "yolo": _("YOLO detector"),
        "yolo_detector": _("YOLO detector"),
        "sam": _("SAM / MedSAM: masks from boxes"),
        "medsam": _("MedSAM: masks from boxes"),
        "sam2_tracker": _("SAM 2 tracker"),
    }
    return titles.get(method, method)


def noticeOf(model: Any) -> str:
    """The sentence that must be read: what it is for, and whether it is a demonstration only."""
    use = model.intended_use
    return _("Demonstration model.") + " " + use if model.demonstration and "emonstration" not in use else str(use)


def factsOf(model: Any) -> str:
    """Method, licence and size in a line."""
    size = readableSize(sum(file.size for file in model.weights))
    version = _("version {version}").format(version=model.version)
    return " · ".join((methodTitle(model.method), model.licence, size, version))


def modelPage(model: Any) -> str:
    """All that there is to say of an installed model, as HTML."""
    rows = [
        (_("Method"), methodTitle(model.method)),
        (_("Needs"), ", ".join(name.upper() for name in model.modalities)),
        (_("Gives"), ", ".join(model.scheme.names)),
        (_("Licence"), model.licence),
        (_("Size"), readableSize(sum(file.size for file in model.weights))),
        (_("Version"), model.version),
        (_("Folder"), str(model.folder)),
        ("SHA-256", model.sha256),
    ]
    return _page(model.title, noticeOf(model), model.description, rows, model.citations) + _results(model.results)


def entryPage(entry: Any) -> str:
    """All that there is to say of a model of the catalogue that is not installed, as HTML."""
    size = readableSize(entry.file.size) if entry.file is not None and entry.file.size else _("not published")
    checksum = entry.file.sha256 if entry.file is not None and entry.file.sha256 else _("not published")
    rows = [
        (_("Method"), methodTitle(entry.method)),
        (_("Needs"), ", ".join(name.upper() for name in entry.modalities)),
        (_("Licence"), entry.licence),
        (_("Size"), size),
        ("SHA-256", checksum),
        *([(_("From"), entry.file.url)] if entry.file is not None else []),
    ]
    return _page(entry.title, "", entry.notes, rows, entry.citations)


def brokenPage(name: str, problem: str) -> str:
    """What is said of a model folder that cannot be read, as HTML."""
    return f"<h3>{html.escape(name)}</h3><p>{html.escape(problem)}</p>"


def _page(
    title: str, notice: str, description: str, rows: Sequence[tuple[str, str]], citations: Sequence[str]
) -> str:
    cells = "".join(
        f"<tr><td style='padding-right:10px'><b>{html.escape(name)}</b></td><td>{html.escape(text)}</td></tr>"
        for name, text in rows
    )
    cite = "".join(f"<li>{html.escape(citation)}</li>" for citation in citations)
    return (
        f"<h3>{html.escape(title)}</h3>"
        + (f"<p><b>{html.escape(notice)}</b></p>" if notice else "")
        + (f"<p>{html.escape(description)}</p>" if description else "")
        + f"<table>{cells}</table>"
        + (f"<p><b>{html.escape(_('Please cite'))}</b></p><ul>{cite}</ul>" if cite else "")
    )


def _results(results: Any) -> str:
    tables = []
    for title, table in results.items():
        body = "".join(_row(values) for values in (table["columns"], *table["rows"]))
        note = f"<p>{html.escape(table['note'])}</p>" if table.get("note") else ""
        tables.append(f"<p><b>{html.escape(title)}</b></p><table>{body}</table>{note}")
    return "".join(tables)


def _row(values: Sequence[Any]) -> str:
    cells = "".join(f"<td style='padding-right:8px'>{html.escape(_cell(value))}</td>" for value in values)
    return f"<tr>{cells}</tr>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
