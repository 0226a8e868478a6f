"""Whatever the interface says can be translated: in BrainSegSAM/, sentences stand inside `_(…)` or `translate(…)`.

Sentences of the library, errors among them, are English everywhere.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in (".", "BrainSegSAMWidgets", "BrainSegSAMEffects")
               for path in (ROOT / "BrainSegSAM" / folder).glob("*.py"))  # fmt: skip
NAMES = {"BrainSegSAM contributors", "BrainSegSAM preview", "BrainSegSAM MedSAM box", "BrainSegSAM nnU-Net",
         "BrainSegSAM SAM tracking", "nnU-Net v2", "Test passed"}  # fmt: skip
"""Names, by which effects and nodes are found as well, and what a self-test says."""
PHRASE = re.compile(r"[^\W\d_]{2,}[,;]? [^\W\d_]+")
TAG = re.compile(r"<[^<>]*>?")


def untranslated(code: str) -> Iterator[tuple[int, str]]:
    """Line and text of each literal that reads like words for people and is not marked for translation."""
    yield from _search(ast.parse(code))


def _search(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "translate"):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and PHRASE.search(TAG.sub("", node.value)):
        yield node.lineno, node.value
    for child in ast.iter_child_nodes(node):
        yield from _search(child)


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_words_of_the_interface_can_be_translated(path: Path) -> None:
    found = [(line, text) for line, text in untranslated(path.read_text(encoding="utf-8")) if text not in NAMES]
    assert found == []


def test_what_is_not_marked_is_found() -> None:
    code = '''
"""A docstring of some words."""
label.text = "Choose a volume."
label.text = _("Choose a volume.").format(name="x")
label.text = f"{count} volumes are here"
label.text = {"jumped": "its area jumped"}["jumped"]
combo.addItem("<b>Choose this</b>")
page = f"<td style='padding right'>{text}</td>"
parent.categories = [translate("context", "Two words")]
'''
    assert [line for line, _text in untranslated(code)] == [3, 5, 6, 7]
