"""What the trainer adds to nnU-Net's augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")

def test_bias_field_changes_brightness_smoothly_and_keeps_mean_and_spread() -> None:
    import torch

    from BrainSegSAMLib.nnunet_trainers.BrainSegTrainer import BiasFieldTransform

    torch.manual_seed(3)
    image = torch.randn(2, 16, 16, 16)
    image[:, :4] = 0
    changed = BiasFieldTransform(0.5)(image=image.clone())["image"]
    assert torch.equal(changed == 0, image == 0)
    inside = image[0] != 0
    assert float(changed[0][inside].mean()) == pytest.approx(float(image[0][inside].mean()), abs=1e-4)
    assert float(changed[0][inside].std()) == pytest.approx(float(image[0][inside].std()), abs=1e-4)
    assert not torch.allclose(changed, image, atol=0.05)


def test_mixed_lesions_are_where_the_loader_looks_for_them() -> None:
    from BrainSegSAMLib.nnunet_trainers.BrainSegTrainer import MixedLesions

    class Cases:
        identifiers = ("plain", "ill")

        def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
            labels = np.zeros((1, 20, 20, 20), dtype=np.int8)
            if identifier == "ill":
                labels[0, 5:12, 5:12, 5:12] = 3
            nowhere = {(1, 2, 3): np.zeros((0, 4)), (1,): np.zeros((0, 4))}
            return np.ones((2, 20, 20, 20), dtype=np.float32) * labels, labels, None, {"class_locations": nowhere}

    settings = {"transplant_probability": 1.0, "lesion_contrast": 0.2}
    mixed = MixedLesions(Cases(), [0.0, 1.0], settings)  # so the donor is always the one with a lesion
    np.random.seed(1)  # noqa: NPY002 - as the trainer seeds nnU-Net's loaders
    channels, labels, before, properties = mixed.load_case("plain")
    locations = properties["class_locations"]
    assert channels.shape == (2, 20, 20, 20)
    assert labels.shape == (1, 20, 20, 20)
    assert before is None
    assert (labels == 3).sum() > 200
    assert {tuple(row) for row in locations[1, 2, 3]} == {tuple(row) for row in np.argwhere(labels == 3)}
    assert len(locations[(1,)]) == 0
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(mixed.load_case("plain")[0], channels)
