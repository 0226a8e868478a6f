"""The tracker against sam2's own video predictor, and what it promises of memory, order and errors.

The network is small and has random weights, made so large that every part of it matters: the object comes and goes, and
masks have thousands of pixels that depend on the memory. A comparison of empty masks would prove nothing, so the
fixtures are checked for that, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from BrainSegSAMLib.backends import slice_features
from BrainSegSAMLib.backends.sam2 import Sam2Tracker
from BrainSegSAMLib.backends.sam2_architecture import Sam2Architecture
from BrainSegSAMLib.backends.sam2_forward import Sam2Forward, prepare
from BrainSegSAMLib.backends.sam2_network import build
from BrainSegSAMLib.backends.sam2_session import PROMPT_LOGIT, Seed
from BrainSegSAMLib.backends.slice_features import SliceFeatures
from BrainSegSAMLib.errors import Cancelled, InputError, ModelError
from BrainSegSAMLib.progress import Progress
from Testing.Benchmarks.tracking import (
    Logits,
    intersection_over_union,
    reference_predictor,
    reference_track,
)

SMALL = Sam2Architecture(
    image_size=64, embed_dim=24, stages=(1, 1, 2, 1), global_att_blocks=(3,), window_spec=(8, 4, 4, 2), d_model=64,
    mem_dim=16, memory_attention_layers=2, dim_feedforward=128,
)  # fmt: skip
ROWS, COLUMNS, SLICES = 50, 60, 12
# At these the object is there on some slices and not on others, and on none is the score at the edge.
SCORE_BIAS = {"2.1": 0.36, "2": 1.0}


def square(top: int, left: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[top : top + side, left : left + side] = True
    return mask


LARGE, LITTLE = square(10, 20, 20), square(35, 5, 10)
SEEDS = [
    Seed(4, 1, mask=LARGE),
    Seed(4, -1, mask=LARGE),
    Seed(2, 1, box=(5.0, 5.0, 30.0, 30.0)),
    Seed(SLICES - 1, -1, points=((10.0, 10.0),), point_labels=(1,)),
    Seed(0, 1, mask=LITTLE),
    Seed(6, -1, points=((10.0, 10.0), (40.0, 20.0)), point_labels=(1, 0)),
]


@dataclass
class Tracked:
    """What came of some seeds: logits and object scores by slice, one dictionary a track."""

    logits: list[Logits]
    scores: list[dict[int, float]]


def random_network(architecture: Sam2Architecture, score_bias: float) -> Any:
    """Random weights with which the object comes and goes and the masks depend on everything."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = build(architecture)
    generator = torch.Generator().manual_seed(3)
    added = ("no_obj", "tpos", "pos_embed", "_token", "gamma")
    with torch.no_grad():
        for name, value in network.named_parameters():
            is_bias = value.ndim == 1 and name.endswith("bias")
            if is_bias or any(part in name for part in added) or ("embed" in name and value.ndim <= 3):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
            elif value.ndim >= 2:
                value.copy_(torch.randn(value.shape, generator=generator) * 1.5 / value[0].numel() ** 0.5)
        torch.nn.init.constant_(network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, score_bias)
    return network


def track(tracker: Sam2Tracker, frames: NDArray[np.uint8], seeds: list[Seed], **settings: Any) -> Tracked:
    found = Tracked([{} for _ in seeds], [{} for _ in seeds])
    with tracker.encode(frames, **settings) as features:
        session = tracker.begin(features, seeds)
        while steps := session.step():
            for step in steps:
                found.logits[step.track][step.slice_index] = step.logits
                found.scores[step.track][step.slice_index] = step.object_score
    return found


def smooth_noise(slices: int) -> NDArray[np.uint8]:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(slices, 3, ROWS, COLUMNS)), (1, 0, 3, 3))
    return ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    return smooth_noise(SLICES)


@pytest.fixture(scope="module")
def tracker() -> Sam2Tracker:
    return Sam2Tracker(random_network(SMALL, SCORE_BIAS["2.1"]), SMALL)


@pytest.fixture(scope="module")
def tracked(tracker: Sam2Tracker, frames: NDArray[np.uint8]) -> Tracked:
    return track(tracker, frames, SEEDS)


@pytest.mark.parametrize("version", ["2.1", "2"])
def test_equals_sam2s_video_predictor(
    version: str, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each object and direction in a fresh state of sam2's predictor, all of ours together.

    Features are kept in 32 bits here, so that the arithmetic alone is compared.
    """
    monkeypatch.setattr(slice_features, "STORED", "float32")
    architecture = replace(SMALL, version=version)
    network = random_network(architecture, SCORE_BIAS[version])
    mine = track(Sam2Tracker(network, architecture), frames, SEEDS)
    predictor = reference_predictor(network, architecture)
    images = prepare(frames, architecture.image_size)
    compared = absent = 0
    areas = set()
    for seed, logits, scores in zip(SEEDS, mine.logits, mine.scores, strict=True):
        theirs = reference_track(predictor, images, (ROWS, COLUMNS), seed)
        assert sorted(logits) == sorted(theirs)
        for index in theirs:
            if index == seed.slice_index and seed.mask is not None:
                continue
            assert abs(scores[index]) > 0.005, "the object is at the edge of being there; choose another bias"
            assert intersection_over_union(theirs[index], logits[index]) >= 0.998
            np.testing.assert_allclose(logits[index], theirs[index], atol=0.02)
            compared, absent = compared + 1, absent + (scores[index] <= 0)
            areas.add(int((theirs[index] > 0).sum()))
    assert compared > 35
    assert 3 < absent < compared - 10
    assert len(areas) > 8


def test_equals_sam2_where_the_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Object pointers of 16 slices are attended to; only longer tracks forget any."""
    monkeypatch.setattr(slice_features, "STORED", "float32")
    frames = smooth_noise(20)
    network = random_network(SMALL, 1.0)  # the object is always there
    seed = Seed(0, 1, mask=LARGE)
    mine = track(Sam2Tracker(network, SMALL), frames, [seed]).logits[0]
    theirs = reference_track(reference_predictor(network, SMALL), prepare(frames, 64), (ROWS, COLUMNS), seed)
    for index in range(15, 20):
        np.testing.assert_allclose(mine[index], theirs[index], atol=0.005)
        assert (theirs[index] > 0).any()


def test_keeping_features_in_16_bits_changes_little(
    tracker: Sam2Tracker, frames: NDArray[np.uint8], tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slice_features, "STORED", "float32")
    exact = track(tracker, frames, SEEDS)
    pairs = [(one[i], other[i]) for one, other in zip(exact.logits, tracked.logits, strict=True) for i in one]
    assert np.mean([intersection_over_union(one, other) for one, other in pairs]) > 0.995
    assert min(intersection_over_union(one, other) for one, other in pairs) > 0.97


def test_memory_matters_in_the_comparison(tracked: Tracked) -> None:
    """Tracks that differ in their prompt alone give different masks on the same slice."""
    first, third = tracked.logits[0], tracked.logits[2]
    shared = [index for index in first if index in third and index > 4]
    assert min(intersection_over_union(first[index], third[index]) for index in shared) < 0.95


def test_a_mask_prompt_returns_itself(tracked: Tracked) -> None:
    for number, mask in ((0, LARGE), (1, LARGE), (4, LITTLE)):
        logits = tracked.logits[number][SEEDS[number].slice_index]
        np.testing.assert_array_equal(logits, np.where(mask, PROMPT_LOGIT, -PROMPT_LOGIT))


def test_directions_do_not_see_each_other(tracker: Sam2Tracker, frames: NDArray[np.uint8], tracked: Tracked) -> None:
    """Each of two directions of one prompt gives alone what it gave beside the other, and four tracks more."""
    for number, slices in ((0, range(4, SLICES)), (1, range(5))):
        alone = track(tracker, frames, [SEEDS[number]])
        assert sorted(alone.logits[0]) == list(slices)
        for index, logits in alone.logits[0].items():
            np.testing.assert_allclose(logits, tracked.logits[number][index], atol=0.05)


def test_a_flipped_volume_gives_the_flipped_result(
    tracker: Sam2Tracker, frames: NDArray[np.uint8], tracked: Tracked
) -> None:
    last = SLICES - 1
    seeds = [replace(seed, slice_index=last - seed.slice_index, direction=-seed.direction) for seed in SEEDS]
    flipped = track(tracker, frames[::-1], seeds)
    for one, other in zip(flipped.logits, tracked.logits, strict=True):
        assert sorted(one) == sorted(last - index for index in other)
        for index, logits in one.items():
            np.testing.assert_allclose(logits, other[last - index], atol=0.05)


def test_first_and_last_slice(tracker: Sam2Tracker, frames: NDArray[np.uint8]) -> None:
    """A track that leaves the volume at once still gives its own slice; so does a volume of one slice."""
    seeds = [Seed(0, -1, mask=LARGE), Seed(SLICES - 1, 1, mask=LARGE)]
    assert [list(found) for found in track(tracker, frames, seeds).logits] == [[0], [SLICES - 1]]
    single = track(tracker, frames[:1], [Seed(0, 1, mask=LARGE), Seed(0, -1, mask=LARGE)])
    assert [list(found) for found in single.logits] == [[0], [0]]


def test_a_stopped_track_ends_and_leaves_the_others_alone(
    tracker: Sam2Tracker, frames: NDArray[np.uint8], tracked: Tracked
) -> None:
    with tracker.encode(frames) as features:
        session = tracker.begin(features, SEEDS[:2])
        assert [step.track for step in session.step()] == [0, 1]
        session.stop(0)
        session.stop(0)
        steps = session.step()
        assert [(step.track, step.slice_index) for step in steps] == [(1, 3)]
        np.testing.assert_allclose(steps[0].logits, tracked.logits[1][3], atol=0.05)
        session.stop(1)
        assert session.step() == []


# ---- image features -------------------------------------------------------------------------------------------------


def test_each_slice_is_encoded_once(
    tracker: Sam2Tracker, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    original = Sam2Forward.encode_images

    def counting(self: Sam2Forward, images: torch.Tensor) -> Any:
        encoded.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Sam2Forward, "encode_images", counting)
    with tracker.encode(frames, batch_size=3) as features:
        for seeds in (SEEDS[:1], SEEDS):  # a correction later on uses the same features
            session = tracker.begin(features, seeds)
            while session.step():
                pass
    assert sum(encoded) == SLICES
    assert max(encoded) <= 3


def test_only_slices_that_are_needed_are_encoded(tracker: Sam2Tracker, frames: NDArray[np.uint8]) -> None:
    with tracker.encode(frames) as features:
        session = tracker.begin(features, SEEDS[:2])
        session.step()
        session.step()
        assert features.bytes_in_memory == 3 * features.bytes_per_slice


def test_spilling_changes_nothing_and_leaves_nothing(
    tracker: Sam2Tracker, frames: NDArray[np.uint8], tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    budget = 3 * SliceFeatures(Sam2Forward(tracker.network), frames).bytes_per_slice
    with tracker.encode(frames, memory_budget_bytes=budget) as features:
        session = tracker.begin(features, SEEDS)
        while steps := session.step():
            assert features.bytes_in_memory <= budget
            for step in steps:
                np.testing.assert_allclose(step.logits, tracked.logits[step.track][step.slice_index], atol=0.05)
        assert features.bytes_on_disk == SLICES * features.bytes_per_slice
    assert features.bytes_in_memory == features.bytes_on_disk == 0
    assert list(tmp_path.iterdir()) == []


def test_features_are_freed_when_tracking_is_cancelled(tracker: Sam2Tracker, frames: NDArray[np.uint8]) -> None:
    progress = Progress()
    with tracker.encode(frames, progress=progress) as features:
        session = tracker.begin(features, SEEDS[:2])
        session.step()
        progress.cancel()
        with pytest.raises(Cancelled):
            session.step()
    assert features.bytes_in_memory == 0


def test_cancelling_is_noticed_when_everything_is_encoded(tracker: Sam2Tracker, frames: NDArray[np.uint8]) -> None:
    """One step of many objects takes long, and later corrections encode nothing."""
    progress = Progress()
    with tracker.encode(frames[:2], progress=progress) as features:
        features.gather([0, 1])
        session = tracker.begin(features, [Seed(0, 1, mask=LARGE)])
        progress.cancel()
        with pytest.raises(Cancelled):
            session.step()


def test_slices_are_resized_as_sam2_resizes_frames(frames: NDArray[np.uint8]) -> None:
    """Pillow's default is what sam2 reads video frames with; the last grey level may differ by rounding."""
    from PIL import Image as PillowImage

    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    for size in (32, 64, 128):
        ours = prepare(frames[:2], size).numpy() * std[:, None, None] + mean[:, None, None]
        pictures = [PillowImage.fromarray(frame.transpose(1, 2, 0)).resize((size, size)) for frame in frames[:2]]
        theirs = np.stack([np.array(picture) for picture in pictures]).transpose(0, 3, 1, 2)
        assert np.abs(ours * 255 - theirs).max() < 1.01


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_automatic_precision_is_what_the_processor_multiplies_natively(
    tracker: Sam2Tracker, monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, check, lambda: native, raising=False)
    assert Sam2Tracker(tracker.network, SMALL, precision="auto").precision == expected
    assert Sam2Tracker(tracker.network, SMALL, precision="fp32").precision == "fp32"


def test_mixed_precision_gives_nearly_the_same(frames: NDArray[np.uint8], tracker: Sam2Tracker) -> None:
    """On the prompted slice alone: with random weights differences grow from slice to slice."""
    mixed = Sam2Tracker(tracker.network, SMALL, precision="bf16")
    for seed in (SEEDS[3], SEEDS[5]):
        one = track(mixed, frames[: seed.slice_index + 1], [replace(seed, direction=1)]).logits[0][seed.slice_index]
        other = track(tracker, frames[: seed.slice_index + 1], [replace(seed, direction=1)]).logits[0][seed.slice_index]
        assert intersection_over_union(one, other) > 0.95
        assert one.dtype == np.float32


def test_mixed_precision_keeps_more_digits_of_features_than_autocast(
    frames: NDArray[np.uint8], tracker: Sam2Tracker
) -> None:
    images = prepare(frames, SMALL.image_size)
    with torch.inference_mode():
        exact, ours = (Sam2Forward(tracker.network, precision=p).encode_images(images)[2] for p in ("fp32", "bf16"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            theirs = tracker.network.image_encoder(images)["backbone_fpn"][-1].float()
    assert (ours - exact).square().mean() < 0.9 * (theirs - exact).square().mean()


# ---- prompts --------------------------------------------------------------------------------------------------------


def test_a_mask_of_one_pixel_does_not_vanish(tracker: Sam2Tracker) -> None:
    """On a grid finer than the network's, half of a pixel is never covered; sam2 would see an empty mask."""
    mask = np.zeros((256, 256), bool)
    mask[100, 100] = True
    images = np.zeros((1, 3, 256, 256), np.uint8)
    with tracker.encode(images) as features:
        session = tracker.begin(features, [Seed(0, 1, mask=mask)])
        prompted = session._mask_input(Seed(0, 1, mask=mask))
        assert prompted is not None
        assert 1 <= int(prompted.sum()) <= 4
        assert session.step()[0].object_score > 0


def test_a_mask_is_brought_to_the_networks_grid_as_sam2_does(tracker: Sam2Tracker) -> None:
    """Also a small one, which covers no pixel of that grid whole."""
    with tracker.encode(np.zeros((1, 3, 200, 200), np.uint8)) as features:
        for side in (4, 5, 9, 40):
            mask = np.zeros((200, 200), bool)
            mask[100 : 100 + side, 50 : 50 + side] = True
            seed = Seed(0, 1, mask=mask)
            prompted = tracker.begin(features, [seed])._mask_input(seed)
            whole = torch.from_numpy(mask).float()[None, None]
            resized = torch.nn.functional.interpolate(whole, (64, 64), mode="bilinear", antialias=True)
            assert float(resized.max()) >= 0.5
            torch.testing.assert_close(prompted, (resized >= 0.5).float())


@pytest.mark.parametrize(
    ("seed", "complaint"),
    [
        (Seed(12, 1, mask=LARGE), "slices 0 to 11"),
        (Seed(-1, 1, mask=LARGE), "slices 0 to 11"),
        (Seed(0, 0, mask=LARGE), "must be 1 or -1"),
        (Seed(0, 1), "exactly one"),
        (Seed(0, 1, mask=LARGE, box=(0, 0, 5, 5)), "exactly one"),
        (Seed(0, 1, mask=np.zeros((ROWS, COLUMNS), bool)), "is empty"),
        (Seed(0, 1, mask=LARGE.T), "must be bool"),
        (Seed(0, 1, mask=LARGE.astype(np.uint8)), "must be bool"),
        (Seed(0, 1, box=(5, 5, 70, 30)), "within the slice of 60 columns"),
        (Seed(0, 1, box=(30, 5, 10, 30)), "not ordered"),
        (Seed(0, 1, box=(5, 5, float("nan"), 30)), "within the slice"),
        (Seed(0, 1, points=((61.0, 3.0),), point_labels=(1,)), "outside the slice"),
        (Seed(0, 1, points=((3.0, 3.0),), point_labels=(0,)), "one of them 1"),
        (Seed(0, 1, points=((3.0, 3.0),)), "one of them 1"),
        (Seed(0, 1, points=((3.0, 3.0),), point_labels=(2,)), "one of them 1"),
        (Seed(0, 1, points=()), "one of them 1"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(
    tracker: Sam2Tracker, frames: NDArray[np.uint8], seed: Seed, complaint: str
) -> None:
    with tracker.encode(frames) as features, pytest.raises(InputError, match=complaint):
        tracker.begin(features, [SEEDS[0], seed])


def test_other_wrong_input_is_refused(tracker: Sam2Tracker, frames: NDArray[np.uint8]) -> None:
    with tracker.encode(frames) as features, pytest.raises(InputError, match="at least one prompt"):
        tracker.begin(features, [])
    for wrong in (frames.astype(np.float32), frames[:, :1], frames[0], frames[:0]):
        with pytest.raises(InputError, match="must be uint8"):
            tracker.encode(wrong)
    with pytest.raises(InputError, match="fp32, bf16"):
        Sam2Tracker(tracker.network, SMALL, precision="fp16")


def test_weights_that_give_no_numbers_are_an_error(frames: NDArray[np.uint8]) -> None:
    network = random_network(SMALL, 0.0)
    torch.nn.init.constant_(network.image_encoder.neck.convs[1].conv.bias, float("nan"))
    with Sam2Tracker(network, SMALL).encode(frames) as features, pytest.raises(ModelError, match="not finite"):
        features.gather([0])


@pytest.mark.parametrize(
    "damaged", ["sam_mask_decoder.mask_tokens.weight", "sam_mask_decoder.output_upscaling.0.bias", "obj_ptr_proj"]
)
@pytest.mark.parametrize("seed", [Seed(4, 1, mask=SEEDS[0].mask), Seed(4, 1, box=(10.0, 8.0, 40.0, 30.0))])
def test_a_decoder_that_gives_no_numbers_is_an_error(frames: NDArray[np.uint8], damaged: str, seed: Seed) -> None:
    """Where the score is no number, the object would look absent; where logits are not, its mask would be empty."""
    network = random_network(SMALL, 9.0)
    for name, parameter in network.named_parameters():
        if name.startswith(damaged):
            torch.nn.init.constant_(parameter, float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        track(Sam2Tracker(network, SMALL), frames, [seed])
