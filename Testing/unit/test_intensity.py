"""Windows over the brain: against numpy's own percentiles, and against what nothing can be seen in."""

from __future__ import annotations

import numpy as np
import pytest

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.intensity import as_frames, window, windowed


def brain(scale: float = 100.0, seed: int = 0) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    volume = np.zeros((6, 8, 10), dtype=np.float32)
    volume[1:5, 1:7, 1:9] = np.random.default_rng(seed).normal(500, scale, (4, 6, 8))
    return volume


def test_the_window_is_taken_over_the_brain_alone() -> None:
    volume = brain()
    picture = window(volume)
    low, high = np.percentile(volume[volume != 0], (0.5, 99.5))
    expected = np.clip((volume[volume != 0] - low) / (high - low) * 255, 0, 255)
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture[volume != 0], expected, atol=0.51)
    assert not picture[volume == 0].any()
    assert picture[volume != 0].max() == 255


def test_scale_and_offset_of_an_intensity_do_not_matter() -> None:
    volume = brain()
    other = np.where(volume != 0, volume * 7 + 1000, 0).astype(np.float32)
    assert np.abs(window(volume).astype(int) - window(other)).max() <= 1


def test_outside_the_skull_stays_black_where_the_brain_is_below_zero() -> None:
    volume = brain()
    volume[volume != 0] -= 2000
    picture = window(volume)
    assert not picture[volume == 0].any()
    assert picture.max() == 255


def test_a_small_object_in_an_even_volume_is_seen() -> None:
    volume = np.full((20, 20, 20), 10, dtype=np.float32)
    volume[5, 5, 5] = 20
    assert window(volume)[5, 5, 5] == 255
    assert window(volume)[0, 0, 0] == 0


@pytest.mark.parametrize(("value", "says"), [(0.0, "zero everywhere"), (7.0, "same value 7")])
def test_a_constant_volume_is_refused(value: float, says: str) -> None:
    with pytest.raises(InputError, match=says):
        window(np.full((3, 4, 5), value, dtype=np.float32))


@pytest.mark.parametrize(("lower", "upper"), [(99.0, 1.0), (-1.0, 50.0), (0.0, 101.0), (50.0, 50.0)])
def test_a_window_that_is_none_is_refused(lower: float, upper: float) -> None:
    with pytest.raises(InputError, match="use 0 to 100"):
        window(brain(), lower=lower, upper=upper)


def test_modalities_become_channels_in_their_order() -> None:
    channels = {"a": brain(seed=1), "b": brain(seed=2), "c": brain(seed=3)}
    alone = {name: window(volume) for name, volume in channels.items()}
    for names, expected in (
        (("a",), "aaa"), (("a", "b"), "abb"), (("c", "a", "b"), "cab"),
    ):
        np.testing.assert_array_equal(windowed(channels, names), np.stack([alone[name] for name in expected]))


@pytest.mark.parametrize(("names", "says"), [((), "One to 3"), (("a",) * 4, "One to 3"), (("a", "z"), "lacks z")])
def test_modalities_that_make_no_picture_are_refused(names: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        windowed({"a": brain()}, names)


@pytest.mark.parametrize(("plane", "shape"), [("axial", (6, 3, 8, 10)), ("coronal", (8, 3, 6, 10)),
                                              ("sagittal", (10, 3, 6, 8))])
def test_frames_are_slices_of_the_plane(plane: str, shape: tuple[int, ...]) -> None:
    channels = {"a": brain(seed=1), "b": brain(seed=2)}
    pictures = windowed(channels, ("a", "b"))
    made = as_frames(pictures, plane)
    assert made.shape == shape
    assert np.shares_memory(made, pictures)
    middle = {"axial": pictures[:, 2], "coronal": pictures[:, :, 2], "sagittal": pictures[:, :, :, 2]}[plane]
    np.testing.assert_array_equal(made[2], middle)
