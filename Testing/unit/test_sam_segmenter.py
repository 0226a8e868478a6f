"""Masks of boxes and points against segment-anything's own predictor and MedSAM's published steps, and what is promised
of memory, order and errors.

The network is small and has random weights, made so large that every part of it matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from BrainSegSAMLib.backends import slice_features
from BrainSegSAMLib.backends.resizing import bilinear_matrix, spline_matrix
from BrainSegSAMLib.backends.sam import Marks, SamSegmenter
from BrainSegSAMLib.backends.sam_architecture import SamArchitecture
from BrainSegSAMLib.backends.sam_forward import SamForward
from BrainSegSAMLib.backends.sam_grid import prepare, to_slice, to_square
from BrainSegSAMLib.backends.sam_network import build
from BrainSegSAMLib.errors import InputError, ModelError
from Testing.Benchmarks.prompting import intersection_over_union, published_procedure

SMALL = SamArchitecture(
    image_size=128, embed_dim=32, depth=3, num_heads=2, global_att_blocks=(1,), window_size=3, width=32,
    decoder_heads=4, decoder_mlp_dim=64,
)  # fmt: skip
ROWS, COLUMNS, SLICES = 50, 60, 6
BOXES = np.array([[5.0, 5, 30, 30], [20.5, 10, 55, 44], [40, 2, 59.5, 12]])
POINTS, LABELS = np.array([[[10.0, 20], [50, 40]], [[30, 30], [2, 2]]]), np.array([[1, 0], [1, 1]])


def random_network(architecture: SamArchitecture) -> Any:
    """Random weights with which every part matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = build(architecture)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim == 1 or "embed" in name or "token" in name or "rel_pos" in name:
                value.add_(torch.randn(value.shape, generator=generator) * 0.3)
            else:
                value.copy_(torch.randn(value.shape, generator=generator) * 1.2 / value[0].numel() ** 0.5)
    return network


def smooth_noise(rows: int, columns: int) -> NDArray[np.uint8]:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(SLICES, 3, rows, columns)), (0, 0, 3, 3))
    return ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    return smooth_noise(ROWS, COLUMNS)


@pytest.fixture(scope="module")
def network() -> Any:
    return random_network(SMALL)


@pytest.fixture
def segmenter(network: Any) -> SamSegmenter:
    return SamSegmenter(network, SMALL)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are kept in 32 bits, so that the arithmetic alone is compared."""
    monkeypatch.setattr(slice_features, "STORED", "float32")


def found_on(segmenter: SamSegmenter, frames: NDArray[np.uint8], index: int, marks: Marks) -> NDArray[np.float32]:
    with segmenter.encode(frames) as features:
        ((found, logits),) = segmenter.find(features, {index: marks})
    assert found == index
    return logits


def predicted(network: Any, frame: NDArray[np.uint8], **prompt: Any) -> NDArray[np.float32]:
    """What segment-anything's own predictor says."""
    from segment_anything import SamPredictor

    predictor = SamPredictor(network)
    predictor.set_image(np.ascontiguousarray(frame.transpose(1, 2, 0)))
    logits: NDArray[np.float32] = predictor.predict(**prompt, multimask_output=False, return_logits=True)[0][0]
    return logits


# ---- against others -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("exact")
def test_equals_segment_anythings_predictor(network: Any, segmenter: SamSegmenter) -> None:
    """On slices that need no resizing, so that nothing is rounded on the way in."""
    frames = smooth_noise(96, 128)
    boxes, points = BOXES * 2, POINTS * 2
    theirs = [predicted(network, frames[1], box=box + 0.5) for box in boxes]
    np.testing.assert_allclose(found_on(segmenter, frames, 1, Marks(boxes)), theirs, atol=1e-3)
    assert min(np.abs(a - b).max() for a, b in ((theirs[0], theirs[1]), (theirs[1], theirs[2]))) > 0.1
    assert all(0.02 < (logits > 0).mean() < 0.98 for logits in theirs)
    for both in (None, boxes[:2]):
        given: list[dict[str, Any]] = [
            {"point_coords": p + 0.5, "point_labels": n} for p, n in zip(points, LABELS, strict=True)
        ]
        if both is not None:
            given = [{**prompt, "box": box + 0.5} for prompt, box in zip(given, both, strict=True)]
        theirs = [predicted(network, frames[1], **prompt) for prompt in given]
        np.testing.assert_allclose(found_on(segmenter, frames, 1, Marks(both, points, LABELS)), theirs, atol=1e-3)


@pytest.mark.usefixtures("exact")
def test_resized_slices_agree_with_the_predictor(
    network: Any, segmenter: SamSegmenter, frames: NDArray[np.uint8]
) -> None:
    mine = found_on(segmenter, frames, 2, Marks(BOXES))
    theirs = np.stack([predicted(network, frames[2], box=box + 0.5) for box in BOXES])
    assert np.abs(mine - theirs).max() < 0.05 * theirs.std()
    assert min(intersection_over_union(a > 0, b > 0) for a, b in zip(mine, theirs, strict=True)) > 0.99


@pytest.mark.parametrize("shape", [(ROWS, COLUMNS), (150, 140)])
def test_equals_medsams_published_steps(network: Any, shape: tuple[int, int]) -> None:
    """Slices smaller and larger than the network's square, whose features are kept in 16 bits."""
    frames = smooth_noise(*shape)
    segmenter = SamSegmenter(network, replace(SMALL, pictures="medsam"))
    logits = found_on(segmenter, frames, 3, Marks(BOXES))
    for mine, box in zip(logits, BOXES, strict=True):
        theirs = published_procedure(network, frames[3].transpose(1, 2, 0), box + 0.5)
        assert 0.02 < (theirs > 0.5).mean() < 0.98
        np.testing.assert_allclose(1 / (1 + np.exp(-mine)), theirs, atol=5e-3)
        assert intersection_over_union(mine > 0, theirs > 0.5) > 0.99


def test_medsams_pictures_are_those_of_its_script(frames: NDArray[np.uint8]) -> None:
    from skimage.transform import resize

    dark = frames[:2] // 2 + 20
    made = prepare(dark, replace(SMALL, pictures="medsam")).numpy()
    for mine, frame in zip(made, dark, strict=True):
        picture = frame.transpose(1, 2, 0)
        stretched = resize(picture, (128, 128), order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
        theirs = (stretched - stretched.min()) / (stretched.max() - stretched.min())
        # A value that is a whole number but for rounding errors may fall to either side.
        assert np.mean(np.abs(mine - theirs.transpose(2, 0, 1)) > 1e-6) < 1e-3
        assert (mine.min(), mine.max()) == (0, 1)


def test_a_blank_slice_has_a_finite_picture() -> None:
    for pictures in ("sam", "medsam", "window"):
        made = prepare(np.full((1, 3, 40, 30), 7, np.uint8), replace(SMALL, pictures=pictures))
        assert made.shape == (1, 3, 128, 128)
        assert torch.isfinite(made).all()


def test_windowed_slices_keep_their_brightness(frames: NDArray[np.uint8]) -> None:
    """What is half as bright stays half as bright, on whatever slice it lies."""
    made = prepare(np.stack([frames[0], frames[0] // 2]), replace(SMALL, pictures="window"))
    assert made.max() <= 1
    torch.testing.assert_close(made[0] / 2, made[1], atol=0.01, rtol=0)


def test_resizing_by_matrices_is_resizing() -> None:
    values = np.random.default_rng(0).normal(size=(30, 40))
    zoomed = ndimage.zoom(values, (64 / 30, 64 / 40), order=3, mode="mirror", grid_mode=True)
    np.testing.assert_allclose(spline_matrix(30, 64).numpy() @ values @ spline_matrix(40, 64).numpy().T, zoomed)
    logits = torch.randn(2, 32, 32)
    large = torch.nn.functional.interpolate(logits[None], (128, 128), mode="bilinear", align_corners=False)
    back = torch.nn.functional.interpolate(large[..., :107, :], (50, 60), mode="bilinear", align_corners=False)[0]
    found = bilinear_matrix(32, (128, 107), (50, 50)) @ logits @ bilinear_matrix(32, (128, 128), (60, 60)).T
    torch.testing.assert_close(found, back, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(to_slice(logits, (ROWS, COLUMNS), SMALL), back, atol=1e-5, rtol=1e-5)


def test_gradients_flow_back_from_slices_though_masks_were_made_before() -> None:
    """Matrices that a prediction made, and left behind, serve training too."""
    logits = torch.randn(1, 32, 32, requires_grad=True)
    with torch.inference_mode():
        to_slice(logits.detach(), (41, 43), SMALL)
    to_slice(logits, (41, 43), SMALL).sum().backward()
    assert logits.grad is not None


def test_a_sliver_of_a_slice_is_not_lost() -> None:
    architecture = replace(SMALL, pictures="sam")
    assert prepare(smooth_noise(2, 700)[:1], architecture).abs().max() > 0
    assert to_slice(torch.zeros(1, 32, 32), (2, 700), architecture).shape == (1, 2, 700)


# ---- boxes as masks -------------------------------------------------------------------------------------------------


def test_a_box_as_mask_tells_each_place_where_in_the_box_it_lies(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = replace(SMALL, box_as_mask=True)
    given: list[torch.Tensor] = []
    monkeypatch.setattr(network.prompt_encoder, "_embed_masks", lambda masks: given.append(masks) or torch.zeros(1))
    # 128 pixels are 32 logits: the second box is narrower than one.
    SamForward(network, architecture).decode(torch.zeros(2, 32, 8, 8), torch.tensor([[8.0, 16, 48, 64], [5, 4, 7, 8]]))
    (masks,) = given
    assert masks.shape == (2, 1, 32, 32)
    ellipse = masks[0, 0] > 0
    assert ellipse.any(0).nonzero().flatten().tolist() == list(range(2, 12))
    assert ellipse.any(1).nonzero().flatten().tolist() == list(range(4, 16))
    assert int(ellipse.sum()) == pytest.approx(10 * 12 * torch.pi / 4, abs=3)
    assert float(masks[0].max()) == pytest.approx(1, abs=0.05)
    assert set(masks[0, 0, 0].tolist()) == {-1.0}
    assert (masks[1] > 0).nonzero().tolist() == [[0, 1, 1]]


def test_a_box_as_mask_changes_what_is_found(network: Any, frames: NDArray[np.uint8]) -> None:
    plain = found_on(SamSegmenter(network, SMALL), frames, 0, Marks(BOXES))
    dense = found_on(SamSegmenter(network, replace(SMALL, box_as_mask=True)), frames, 0, Marks(BOXES))
    assert np.abs(plain - dense).max() > 0.1


# ---- what is promised -----------------------------------------------------------------------------------------------


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of slices in the passes of the encoder."""
    passes: list[int] = []
    original: Callable[..., torch.Tensor] = SamForward.encode_images

    def counting(self: SamForward, images: torch.Tensor) -> torch.Tensor:
        passes.append(len(images))
        return original(self, images)

    monkeypatch.setattr(SamForward, "encode_images", counting)
    return passes


def test_each_slice_is_encoded_once_and_background_never(
    segmenter: SamSegmenter, frames: NDArray[np.uint8], encoded: list[int]
) -> None:
    with segmenter.encode(frames, batch_size=2) as features:
        first = dict(segmenter.find(features, {index: Marks(BOXES[:1]) for index in (5, 0, 3)}))
        again = dict(segmenter.find(features, {3: Marks(BOXES), 0: Marks(None, POINTS, LABELS)}))
    assert encoded == [2, 1]
    assert list(first) == [0, 3, 5]
    assert (again[3].shape, again[0].shape) == ((3, ROWS, COLUMNS), (2, ROWS, COLUMNS))
    np.testing.assert_allclose(again[3][0], first[3][0], atol=1e-3)


def test_many_objects_are_found_as_each_alone(segmenter: SamSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = smooth_noise(ROWS, COLUMNS)
    monkeypatch.setattr("BrainSegSAMLib.backends.sam._TOKENS", 2 * 8 * 8)  # passes of two
    together = found_on(segmenter, frames, 1, Marks(BOXES))
    for logits, box in zip(together, BOXES, strict=True):
        np.testing.assert_allclose(logits, found_on(segmenter, frames, 1, Marks(box[None]))[0], atol=1e-3)


def test_a_little_memory_gives_the_same(segmenter: SamSegmenter, frames: NDArray[np.uint8]) -> None:
    marks = {index: Marks(BOXES) for index in range(SLICES)}
    with segmenter.encode(frames) as features:
        much = dict(segmenter.find(features, marks))
    with segmenter.encode(frames, memory_budget_bytes=1, batch_size=1) as features:
        dict(segmenter.find(features, marks))
        little = dict(segmenter.find(features, marks))
        assert features.bytes_in_memory == features.bytes_per_slice == 2 * 32 * 8 * 8
        assert features.bytes_on_disk == SLICES * features.bytes_per_slice
    for index in marks:
        np.testing.assert_allclose(little[index], much[index], atol=1e-3)


def test_mixed_precision_changes_little(network: Any, segmenter: SamSegmenter, frames: NDArray[np.uint8]) -> None:
    exactly = found_on(segmenter, frames, 4, Marks(BOXES))
    roughly = found_on(SamSegmenter(network, SMALL, precision="bf16"), frames, 4, Marks(BOXES))
    assert np.abs(roughly - exactly).max() > 0
    assert min(intersection_over_union(a > 0, b > 0) for a, b in zip(exactly, roughly, strict=True)) > 0.9


def test_mixed_precision_keeps_more_digits_of_features_than_autocast(network: Any, frames: NDArray[np.uint8]) -> None:
    images = prepare(frames, SMALL)
    with torch.inference_mode():
        exact, ours = (SamForward(network, SMALL, precision=p).encode_images(images) for p in ("fp32", "bf16"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            theirs = network.image_encoder(images).float()
    assert (ours - exact).square().mean() < 0.5 * (theirs - exact).square().mean()


def test_places_are_counted_from_the_first_pixels_centre() -> None:
    """The whole slice, from edge to edge, is the whole content of the square."""
    whole = np.array([[-0.5, -0.5, COLUMNS - 0.5, ROWS - 0.5]])
    assert to_square(whole, (ROWS, COLUMNS), SMALL).tolist() == [[0, 0, 128, 107]]
    assert to_square(whole, (ROWS, COLUMNS), replace(SMALL, pictures="window")).tolist() == [[0, 0, 128, 128]]


def test_gradients_flow_through_the_decoder(network: Any) -> None:
    forward = SamForward(network, SMALL)
    forward.decode(torch.randn(2, 32, 8, 8), torch.tensor([[8.0, 0, 16, 128], [6, 4, 12, 8]])).sum().backward()
    assert network.mask_decoder.mask_tokens.weight.grad.abs().max() > 0
    network.zero_grad(set_to_none=True)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "marks", "complaint"),
    [
        (6, Marks(BOXES), "slice 6, but there are slices 0 to 5"),
        (0, Marks(np.array([[5.0, 5, 30, 50]])), r"the box \(5, 5, 30, 50\), which leaves the slice"),
        (0, Marks(np.array([[30.0, 5, 5, 30]])), "0 before 1"),
        (0, Marks(np.array([[5.0, 5, 5, 30]])), "0 before 1"),
        (0, Marks(np.array([[5.0, 5, np.nan, 30]])), "0 before 1"),
        (0, Marks(None, np.array([[[70.0, 3]]]), np.array([[1]])), r"point \(70, 3\) .* outside the slice"),
    ],
)
def test_marks_that_do_not_fit_are_refused_before_anything_is_encoded(
    segmenter: SamSegmenter, frames: NDArray[np.uint8], encoded: list[int], index: int, marks: Marks, complaint: str
) -> None:
    with segmenter.encode(frames) as features, pytest.raises(InputError, match=complaint):
        segmenter.find(features, {1: Marks(BOXES), index: marks})
    assert encoded == []


@pytest.mark.parametrize(
    "given",
    [(), (np.zeros((0, 4)),), (BOXES[:, :3],), (None, POINTS), (None, None, LABELS), (None, POINTS, LABELS[:1]),
     (None, POINTS, LABELS + 1), (BOXES, POINTS, LABELS)],
)  # fmt: skip
def test_marks_that_contradict_themselves_are_refused(given: tuple[Any, ...]) -> None:
    with pytest.raises(InputError):
        Marks(*given)


def test_damaged_weights_are_noticed(frames: NDArray[np.uint8]) -> None:
    for part in ("image_encoder.neck", "mask_decoder.iou_token"):
        network = random_network(SMALL)
        with torch.no_grad():
            next(network.get_submodule(part).parameters()).fill_(float("nan"))
        with pytest.raises(ModelError, match="damaged"):
            found_on(SamSegmenter(network, SMALL), frames, 0, Marks(BOXES))
