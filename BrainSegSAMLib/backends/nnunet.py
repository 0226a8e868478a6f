"""Prediction with a trained nnU-Net v2, in process: the same numbers as `nnUNetv2_predict`, without its detours.

What is kept is everything that decides the result: nnU-Net's plans, normalisation, sliding window, mirroring, fold
average in half precision, and label conversion. What is left out is what costs a user time: worker processes that each
import torch again, temporary files, resampling of a mask that prediction never uses. Resampling itself is done
separably: nnU-Net calls `skimage.transform.resize` with splines, which is linear and separable, so three small
matrices, built from the same `scipy.ndimage.zoom` that skimage calls, give its result to rounding (Testing/methods
compares them).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ModelError
from ..progress import Progress
from .checkpoints import load_checkpoint

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.floating[Any]]
CHECKPOINT_NAME = "checkpoint_final.pth"
# nnU-Net scales its Gaussian importance map to this maximum, so that half-precision sums keep their digits.
_GAUSSIAN_MAXIMUM = 10
# nnU-Net's default trainer and its variants of other lengths: the network is the one that the plans describe.
_TRAINERS_OF_THE_PLANS_NETWORK = re.compile(r"nnUNetTrainer(_\d+epochs?)?|BrainSegTrainer")
_NNUNET_RESAMPLING = "resample_data_or_seg_to_shape"


def available_folds(folder: Path) -> tuple[str, ...]:
    """Names of the folds ("0", "1", …, or "all") whose final checkpoint lies in an nnU-Net trained-model folder."""
    names = [path.parent.name.removeprefix("fold_") for path in sorted(folder.glob(f"fold_*/{CHECKPOINT_NAME}"))]
    numbered = tuple(name for name in names if name != "all")
    return numbered or tuple(names)


class TrainedNNUNet:
    """An nnU-Net trained-model folder in memory; `predict` may be called for any number of images.

    Args:
        folder: holds `dataset.json`, `plans.json` and `fold_*/checkpoint_final.pth`.
        device: torch device name, e.g. "cpu", "cuda", "mps".
        folds: fold names to average; all that are there where None.
        mirroring: average over the mirror images that the training allowed (test-time augmentation).
        tile_step_size: step of the sliding window as a share of the patch, above 0, at most 1.
        trust: allow checkpoints that need arbitrary unpickling.

    Raises:
        ModelError: where the folder is incomplete or its weights do not fit its plans.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        folds: Sequence[str] | None = None,
        mirroring: bool = True,
        tile_step_size: float = 0.5,
        trust: bool = False,
    ) -> None:
        import torch
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        if not 0 < tile_step_size <= 1:
            raise InputError(f"The tile step is {tile_step_size}; it must be above 0 and at most 1.")
        self._device = torch.device(device)
        self._tile_step_size = tile_step_size
        self._dataset_json = _read_json(folder / "dataset.json")
        self._plans = PlansManager(_read_json(folder / "plans.json"))
        chosen = tuple(folds) if folds else available_folds(folder)
        if not chosen:
            raise ModelError(f"{folder} has no fold_*/{CHECKPOINT_NAME}; import or train the model again.")
        checkpoints = [load_checkpoint(folder / f"fold_{fold}" / CHECKPOINT_NAME, trust=trust) for fold in chosen]
        try:
            first = checkpoints[0]
            self._configuration = self._plans.get_configuration(first["init_args"]["configuration"])
            self._weights = [checkpoint["network_weights"] for checkpoint in checkpoints]
            trainer_name = str(first["trainer_name"])
        except KeyError as error:
            raise ModelError(f"{folder}: a checkpoint has no entry {error}; it is not one of nnU-Net v2.") from error
        allowed_axes = first.get("inference_allowed_mirroring_axes")
        self._mirror_axes = tuple(allowed_axes) if mirroring and allowed_axes else ()
        self._labels = self._plans.get_label_manager(self._dataset_json)
        self._network = _build_network(self._plans, self._configuration, self._dataset_json, trainer_name)
        self._loaded: int | None = None
        self._load_weights(0)
        self._network.to(self._device).eval()

    @property
    def heads(self) -> tuple[Any, ...]:
        """What each output channel stands for: label values, or tuples of them for regions."""
        return tuple(self._labels.foreground_regions if self._labels.has_regions else self._labels.all_labels)

    def predict(
        self,
        stack: NDArray[np.float32],
        spacing_zyx_mm: tuple[float, float, float],
        progress: Progress,
        *,
        probabilities: bool = False,
    ) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.float32] | None]:
        """Segment one image.

        Args:
            stack: float32 (C, z, y, x), channels in the order of `dataset.json`, in the voxel order of the training.
            spacing_zyx_mm: voxel spacing in mm.
            progress: gets a stage for preparing, one unit per forward pass, and a stage for resampling.
            probabilities: also give them.

        Returns:
            The label map, uint8 or uint16 (z, y, x), and float32 (heads, z, y, x) in 0..1 or None.

        Raises:
            InputError: where every voxel is zero.
            Cancelled: when the progress was cancelled; honoured between the layers of the network.
        """
        progress.stage("Preparing the image", until=0.08)
        data, properties = self._preprocess(stack, spacing_zyx_mm)
        logits = self._predict_logits(data, progress)
        progress.stage("Resampling the result", until=1.0)
        return self._export(logits, properties, probabilities)

    # ---- preprocessing --------------------------------------------------------------------------------------------

    def _preprocess(
        self, stack: NDArray[np.float32], spacing_zyx_mm: tuple[float, float, float]
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
        from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

        if not np.any(stack):
            raise InputError("Every voxel of the image is zero; there is nothing to segment.")
        preprocessor = self._configuration.preprocessor_class(verbose=False)
        properties: dict[str, Any] = {"spacing": list(spacing_zyx_mm)}
        if type(preprocessor) is not DefaultPreprocessor:
            data, _, properties = preprocessor.run_case_npy(
                stack, None, properties, self._plans, self._configuration, self._dataset_json
            )
            return data, properties
        forward = self._plans.transpose_forward
        data = stack.transpose(0, *[axis + 1 for axis in forward])
        spacing = [spacing_zyx_mm[axis] for axis in forward]
        properties["shape_before_cropping"] = data.shape[1:]
        data, outside, bounds = _crop_to_nonzero(data)
        properties["bbox_used_for_cropping"] = bounds
        properties["shape_after_cropping_and_before_resampling"] = data.shape[1:]
        target = list(self._configuration.spacing)
        if len(target) < 3:
            target = [spacing[0], *target]
        data = preprocessor._normalize(
            data, outside, self._configuration, self._plans.foreground_intensity_properties_per_channel
        )
        new_shape = compute_new_shape(data.shape[1:], spacing, target)
        return _resample(data, new_shape, spacing, target, self._configuration.resampling_fn_data), properties

    # ---- network --------------------------------------------------------------------------------------------------

    def _load_weights(self, fold: int) -> None:
        if self._loaded == fold:
            return
        try:
            self._network.load_state_dict(self._weights[fold])
        except RuntimeError as error:
            raise ModelError(
                f"The weights of fold number {fold + 1} do not fit the network in plans.json; "
                "the model folder mixes files of different trainings."
            ) from error
        self._loaded = fold

    def _predict_logits(self, data: NDArray[np.float32], progress: Progress) -> torch.Tensor:
        """float16 (heads, z, y, x) on the CPU: the mean over folds, as nnU-Net averages them."""
        import torch
        from acvl_utils.cropping_and_padding.padding import pad_nd_image

        patch = self._configuration.patch_size
        padded, unpad = pad_nd_image(torch.from_numpy(data), patch, "constant", {"value": 0}, True, None)
        tiles = _tiles(padded.shape[1:], patch, self._tile_step_size)
        passes = len(tiles) * 2 ** len(self._mirror_axes) * len(self._weights)
        progress.stage("Segmenting", total=passes, until=0.92)
        hooks = [
            module.register_forward_pre_hook(lambda *_: progress.check())
            for module in self._network.modules()
            if not list(module.children())
        ]
        total: torch.Tensor | None = None
        try:
            with torch.inference_mode():
                for fold in range(len(self._weights)):
                    self._load_weights(fold)
                    logits = self._slide(padded, tiles, progress)
                    total = logits if total is None else total.add_(logits)
                assert total is not None
                if len(self._weights) > 1:
                    total /= len(self._weights)
        finally:
            for hook in hooks:
                hook.remove()
        inside = (slice(None), *unpad[1:])
        result: torch.Tensor = total[inside]
        return result

    def _slide(self, data: torch.Tensor, tiles: list[tuple[Any, ...]], progress: Progress) -> torch.Tensor:
        """One fold over all tiles, summed in half precision with nnU-Net's Gaussian weights."""
        import torch
        from nnunetv2.inference.sliding_window_prediction import compute_gaussian

        cpu = torch.device("cpu")
        gaussian = compute_gaussian(
            tuple(self._configuration.patch_size), sigma_scale=1 / 8, value_scaling_factor=_GAUSSIAN_MAXIMUM, device=cpu
        )
        heads = self._labels.num_segmentation_heads
        logits = torch.zeros((heads, *data.shape[1:]), dtype=torch.half)
        weight = torch.zeros(data.shape[1:], dtype=torch.half)
        flips = [c for n in range(len(self._mirror_axes) + 1) for c in itertools.combinations(self._mirror_axes, n)]
        tasks = [(tile, axes) for tile in tiles for axes in flips]
        with contextlib.closing(self._forward(data, tasks)) as outputs:
            for tile in tiles:
                prediction = next(outputs)
                progress.advance()
                for _ in flips[1:]:
                    prediction += next(outputs)
                    progress.advance()
                if len(flips) > 1:
                    prediction /= len(flips)
                prediction = prediction[0].to(cpu)
                prediction *= gaussian
                logits[tile] += prediction
                weight[tile[1:]] += gaussian
        torch.div(logits, weight, out=logits)
        if bool(torch.isinf(logits).any()):
            raise ModelError("The network gave infinite values; its weights do not fit this kind of image.")
        return logits

    def _forward(
        self, data: torch.Tensor, tasks: Sequence[tuple[tuple[Any, ...], tuple[int, ...]]]
    ) -> Generator[torch.Tensor, None, None]:
        """The network's output for each (tile, axes to mirror), in order, mirrored back.

        On a CPU two forward passes run side by side, each with half of the cores: small networks keep threads waiting
        for each other.
        """
        import torch

        threads = torch.get_num_threads()
        side_by_side = 2 if self._device.type == "cpu" and threads > 1 else 1

        def pass_through(task: tuple[tuple[Any, ...], tuple[int, ...]]) -> torch.Tensor:
            tile, mirrored = task
            axes = [axis + 2 for axis in mirrored]
            if side_by_side > 1:
                torch.set_num_threads(max(1, threads // side_by_side))  # of this worker thread only
            with torch.inference_mode(), _autocast(self._device):
                patch = torch.clone(data[tile][None], memory_format=torch.contiguous_format).to(self._device)
                return torch.flip(self._network(torch.flip(patch, axes)), axes) if axes else self._network(patch)

        if side_by_side == 1:
            yield from map(pass_through, tasks)
            return
        with ThreadPoolExecutor(side_by_side, thread_name_prefix="network") as pool:
            for start in range(0, len(tasks), side_by_side):
                yield from pool.map(pass_through, tasks[start : start + side_by_side])

    # ---- back to the image's grid ---------------------------------------------------------------------------------

    def _export(
        self, logits: torch.Tensor, properties: dict[str, Any], probabilities: bool
    ) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.float32] | None]:
        import torch

        spacing = [properties["spacing"][axis] for axis in self._plans.transpose_forward]
        current = list(self._configuration.spacing)
        if len(current) < 3:
            current = [spacing[0], *current]
        shape = properties["shape_after_cropping_and_before_resampling"]
        resampling = self._configuration.resampling_fn_probabilities
        resampled = torch.from_numpy(np.asarray(_resample(logits.numpy(), shape, current, spacing, resampling)))
        crop = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
        channels_and_crop = (slice(None), *crop)
        before = properties["shape_before_cropping"]
        full_probabilities = None
        if probabilities:
            inside = self._labels.apply_inference_nonlin(resampled)
            cropped = self._labels.convert_probabilities_to_segmentation(inside)
            full_probabilities = np.zeros((inside.shape[0], *before), dtype=np.float32)
            if not self._labels.has_regions:
                full_probabilities[0] = 1.0
            full_probabilities[channels_and_crop] = inside.numpy()
            full_probabilities = full_probabilities.transpose(0, *[a + 1 for a in self._plans.transpose_backward])
        else:
            cropped = self._labels.convert_logits_to_segmentation(resampled)
        dtype = np.uint8 if len(self._labels.foreground_labels) < 255 else np.uint16
        label_map = np.zeros(before, dtype=dtype)
        label_map[crop] = np.asarray(cropped)
        return np.ascontiguousarray(label_map.transpose(self._plans.transpose_backward)), full_probabilities


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; the folder is not a trained nnU-Net.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object.")
    return content


def _build_network(plans: Any, configuration: Any, dataset_json: dict[str, Any], trainer_name: str) -> Any:
    """The network that the plans describe; a trainer with a network of its own is asked for it.

    nnU-Net looks every trainer class up by importing all of them, which takes seconds; only a trainer that is not one
    of nnU-Net's default ones or ours needs that.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    inputs = determine_num_input_channels(plans, configuration, dataset_json)
    outputs = plans.get_label_manager(dataset_json).num_segmentation_heads
    if _TRAINERS_OF_THE_PLANS_NETWORK.fullmatch(trainer_name):
        return get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            inputs,
            outputs,
            allow_init=False,
            deep_supervision=False,
        )
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        trainer = recursive_find_trainer_class_by_name(trainer_name)
    except RuntimeError as error:
        raise ModelError(
            f"The model was trained with the nnU-Net trainer '{trainer_name}', which is not installed here; "
            "add its folder to the environment variable nnUNet_extTrainer."
        ) from error
    return trainer.build_network_architecture(plans, configuration, inputs, outputs, enable_deep_supervision=False)


def _autocast(device: torch.device) -> Any:
    """Half precision on CUDA, as nnU-Net does; full precision elsewhere."""
    import torch

    return torch.autocast("cuda") if device.type == "cuda" else contextlib.nullcontext()


def _tiles(shape: Sequence[int], patch: Sequence[int], step: float) -> list[tuple[Any, ...]]:
    """Index tuples (channel, …) of the sliding window's tiles, in nnU-Net's order (2-D nets go slice by slice)."""
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    if len(patch) == len(shape):
        starts = compute_steps_for_sliding_window(shape, patch, step)
        lead: list[Any] = [None]
    else:
        starts = compute_steps_for_sliding_window(shape[1:], patch, step)
        lead = list(range(shape[0]))
    tiles = []
    for slice_index in lead:
        for corner in itertools.product(*starts):
            window = tuple(slice(start, start + size) for start, size in zip(corner, patch, strict=True))
            tiles.append((slice(None), *window) if slice_index is None else (slice(None), slice_index, *window))
    return tiles


def _crop_to_nonzero(data: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int8], list[list[int]]]:
    """Crop (C, a, b, c) to the box of voxels that are nonzero in any channel.

    Returns:
        The crop (a copy), int8 (1, a, b, c) that is 0 in the object with its holes filled and -1 outside (nnU-Net's way
        of carrying this mask), and the box as [[low, high], …].
    """
    from scipy import ndimage

    nonzero = np.any(data != 0, axis=0)
    bounds = []
    for axis in range(3):
        hits = np.flatnonzero(nonzero.any(axis=tuple(a for a in range(3) if a != axis)))
        bounds.append([int(hits[0]), int(hits[-1]) + 1])
    crop = tuple(slice(low, high) for low, high in bounds)
    channels_and_crop = (slice(None), *crop)
    # A hole is background that does not reach the border; labelling the background finds it far faster than
    # scipy's binary_fill_holes, with the same result.
    background, count = ndimage.label(~nonzero[crop])
    reaches_border = np.zeros(count + 1, dtype=bool)
    for axis in range(3):
        for end in (0, -1):
            reaches_border[np.unique(background.take(end, axis=axis))] = True
    reaches_border[0] = False
    outside = np.where(reaches_border[background], np.int8(-1), np.int8(0))
    return data[channels_and_crop].astype(np.float32, copy=True), outside[None], bounds


def _resample(
    data: NDArray[Any],
    shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    nnunet_function: Callable[..., Any],
) -> NDArray[Any]:
    """What nnU-Net's resampling function gives for (C, a, b, c), by separable matrices where it is its default one."""
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

    if tuple(data.shape[1:]) == tuple(int(n) for n in shape):
        return data
    settings = getattr(nnunet_function, "keywords", {})
    function = getattr(nnunet_function, "func", nnunet_function)
    separate, _ = determine_do_sep_z_and_axis(settings.get("force_separate_z", False), spacing, new_spacing)
    if function.__name__ != _NNUNET_RESAMPLING or separate or settings.get("is_seg", False):
        return np.asarray(nnunet_function(data, shape, spacing, new_spacing))
    order = int(settings.get("order", 3))
    matrices = [_zoom_matrix(int(n), int(m), order) for n, m in zip(data.shape[1:], shape, strict=True)]
    result = np.empty((data.shape[0], *(int(n) for n in shape)), dtype=data.dtype)
    for channel, source in zip(result, data, strict=True):
        values = source.astype(np.float64)
        low, high = values.min(), values.max()
        for axis, matrix in sorted(enumerate(matrices), key=lambda item: item[1].shape[0] / item[1].shape[1]):
            values = np.moveaxis(np.tensordot(matrix, values, axes=(1, axis)), 0, axis)
        np.clip(values, low, high, out=values)
        channel[...] = values
    return result


@functools.lru_cache(maxsize=64)
def _zoom_matrix(size: int, new_size: int, order: int) -> NDArray[np.float64]:
    """(new_size, size): what `skimage.transform.resize(mode="edge")` does to one axis, as a matrix."""
    from scipy import ndimage

    if size == new_size:
        return np.eye(size)
    columns = [
        ndimage.zoom(unit, new_size / size, order=order, mode="nearest", grid_mode=True) for unit in np.eye(size)
    ]
    matrix: NDArray[np.float64] = np.stack(columns, axis=1)
    return matrix
