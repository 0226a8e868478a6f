"""What commands on a single image say."""

from __future__ import annotations

from pathlib import Path

import pytest

from BrainSegSAMLib.labels import LabelScheme
from BrainSegSAMLib.models.store import NOT_CLINICAL, Model
from BrainSegSAMLib.single_image import caution

BUNDLED = "Demonstration, research and teaching; not for clinical use."


@pytest.mark.parametrize(
    ("title", "use", "said"),
    [
        ("Whole glioma from boxes (demonstration)", BUNDLED, f"Whole glioma from boxes: {BUNDLED}"),
        ("Glioma tracker (demonstration)", NOT_CLINICAL, f"Glioma tracker, a demonstration: {NOT_CLINICAL}"),
        ("Glioma tracker", NOT_CLINICAL, f"Glioma tracker, a demonstration: {NOT_CLINICAL}"),
    ],
)
def test_a_demonstration_is_called_one_once(title: str, use: str, said: str) -> None:
    scheme = LabelScheme.plain({"Tumour": 1})
    model = Model(
        Path(), "name", title, "sam", ("flair",), scheme, "MIT", demonstration=True, intended_use=use
    )  # fmt: skip
    assert caution(model) == (said,)


def test_of_other_models_nothing_is_said() -> None:
    assert caution(Model(Path(), "n", "T", "sam", ("flair",), LabelScheme.plain({"Tumour": 1}), "MIT")) == ()
