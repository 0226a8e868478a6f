"""Writes metrics.json: what outside packages say of the cases in `Testing/metric_cases.py`.

Needs, in an environment of their own, monai, surface-distance, medpy, panoptica, pysodmetrics, pycocotools, gudhi,
connected-components-3d, nibabel and scikit-learn, and a checkout of github.com/rachitsaluja/BraTS-2023-Metrics (commit
43c9052). Run from the project's root: `python -m Testing.golden.make_metrics BRATS-CHECKOUT`.
Every number is recorded under the package, its version and the call.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage

from Testing import metric_cases
from Testing.metric_cases import Pair

OUTPUT = Path(__file__).with_name("metrics.json")
PACKAGES = ("monai", "surface-distance", "medpy", "panoptica", "pysodmetrics", "pycocotools", "gudhi", "scikit-learn",
            "numpy", "scipy", "scikit-image")


def main() -> None:
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {"versions": {name: importlib.metadata.version(name) for name in PACKAGES}}
    found["masks"] = {
        name: {**by_monai(pair), **by_surface_distance(pair), **by_medpy(pair), **by_panoptica(pair), **by_gudhi(pair)}
        for name, pair in metric_cases.pairs().items()
    }
    found["lesions"] = {name: by_brats(pair, Path(sys.argv[1])) for name, pair in metric_cases.pairs().items()}
    found["maps"] = {name: by_pysodmetrics(*pair) for name, pair in metric_cases.maps().items()}
    found["maps, stretched"] = {
        name: by_pysodmetrics(reference, (soft - soft.min()) / (soft.max() - soft.min()))
        for name, (reference, soft) in metric_cases.maps().items()
    }
    found["brier"] = {name: by_sklearn(*pair) for name, pair in metric_cases.maps().items()}
    found["boxes"] = by_pycocotools()
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def by_monai(pair: Pair) -> dict[str, float]:
    import torch
    from monai import metrics

    prediction, reference = (torch.from_numpy(mask)[None, None].float() for mask in (pair.prediction, pair.reference))
    both = {"y_pred": prediction, "y": reference, "include_background": True}
    placed = {**both, "spacing": pair.spacing_zyx_mm}
    matrix = metrics.get_confusion_matrix(**both)
    return {
        "dice = monai.metrics.compute_dice": float(metrics.compute_dice(**both)),
        "iou = monai.metrics.compute_iou": float(metrics.compute_iou(**both)),
        "precision = monai confusion matrix": float(metrics.compute_confusion_matrix_metric("precision", matrix)),
        "recall = monai confusion matrix": float(metrics.compute_confusion_matrix_metric("sensitivity", matrix)),
        "specificity = monai confusion matrix": float(metrics.compute_confusion_matrix_metric("specificity", matrix)),
        "f1 = monai confusion matrix": float(metrics.compute_confusion_matrix_metric("f1 score", matrix)),
        "hd = monai.metrics.compute_hausdorff_distance": float(metrics.compute_hausdorff_distance(**placed)),
        "hd95 = monai.metrics.compute_hausdorff_distance(percentile=95)": float(
            metrics.compute_hausdorff_distance(**placed, percentile=95)
        ),
        "asd = monai.metrics.compute_average_surface_distance": float(
            metrics.compute_average_surface_distance(**placed)
        ),
        "assd = monai.metrics.compute_average_surface_distance(symmetric=True)": float(
            metrics.compute_average_surface_distance(**placed, symmetric=True)
        ),
        "nsd = monai.metrics.compute_surface_dice(use_subvoxels=True)": float(
            metrics.compute_surface_dice(**placed, class_thresholds=[pair.tolerance_mm], use_subvoxels=True)
        ),
    }


def by_surface_distance(pair: Pair) -> dict[str, float]:
    from surface_distance import metrics

    # It calls names that scipy and numpy have dropped since.
    np.Inf = np.inf  # noqa: NPY201
    old = types.SimpleNamespace(
        filters=types.SimpleNamespace(correlate=scipy.ndimage.correlate),
        morphology=types.SimpleNamespace(distance_transform_edt=scipy.ndimage.distance_transform_edt),
    )
    metrics.ndimage = old
    distances = metrics.compute_surface_distances(pair.reference, pair.prediction, pair.spacing_zyx_mm)
    return {
        "nsd = surface_distance.compute_surface_dice_at_tolerance": float(
            metrics.compute_surface_dice_at_tolerance(distances, pair.tolerance_mm)
        )
    }


def by_medpy(pair: Pair) -> dict[str, float]:
    from medpy.metric import binary

    masks = (pair.prediction, pair.reference)
    return {
        "dice = medpy.metric.binary.dc": float(binary.dc(*masks)),
        "iou = medpy.metric.binary.jc": float(binary.jc(*masks)),
        "precision = medpy.metric.binary.precision": float(binary.precision(*masks)),
        "recall = medpy.metric.binary.recall": float(binary.recall(*masks)),
        "specificity = medpy.metric.binary.specificity": float(binary.specificity(*masks)),
        "hd = medpy.metric.binary.hd": float(binary.hd(*masks, pair.spacing_zyx_mm)),
        "asd = medpy.metric.binary.asd": float(binary.asd(*masks, pair.spacing_zyx_mm)),
    }


def by_panoptica(pair: Pair) -> dict[str, float]:
    from panoptica.metrics.cldice import _compute_centerline_dice_coefficient

    if not (pair.reference & pair.prediction).any():
        return {}  # not a number there
    return {"cl_dice = panoptica clDSC": float(_compute_centerline_dice_coefficient(pair.reference, pair.prediction))}


def by_gudhi(pair: Pair) -> dict[str, float]:
    import gudhi

    def components(mask: Any) -> int:
        cells = gudhi.CubicalComplex(top_dimensional_cells=np.where(mask, 0.0, 1.0))
        cells.compute_persistence()
        return int(cells.persistent_betti_numbers(0.0, 0.5)[0])

    error = abs(components(pair.prediction) - components(pair.reference))
    return {"betti0_error = gudhi.CubicalComplex": float(error)}


def by_brats(pair: Pair, checkout: Path) -> dict[str, float]:
    """From `get_LesionWiseScores`; what follows it there, for adult glioma, is written out here."""
    import importlib.util

    import nibabel

    # Its own copy of surface_distance calls dropped names too, for numbers that are not asked for here.
    spec = importlib.util.spec_from_file_location("brats_metrics", checkout / "metrics.py")
    brats = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(brats)
    brats.surface_distance = types.SimpleNamespace(
        compute_surface_distances=lambda *_: None, compute_robust_hausdorff=lambda *_: 0.0
    )
    affine = np.diag([*pair.spacing_zyx_mm[::-1], 1.0])
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, mask in (("prediction", pair.prediction), ("reference", pair.reference)):
            files.append(f"{folder}/{name}.nii")
            nibabel.save(nibabel.Nifti1Image(mask.T.astype(np.int16) * 3, affine), files[-1])
        _, _, false_positives, _, rows, *_ = brats.get_LesionWiseScores(*files, "ET", 3)
    counted = [row for row in rows if row[2] > 50]
    found = [row for row in counted if len(row[0])]
    number = len(counted) + len(false_positives)
    return {
        "lesion_dice": float(sum(row[3] for row in counted) / number) if number else 1.0,
        "lesion_false_positives": float(len(false_positives)),
        "lesion_false_negatives": float(len(counted) - len(found)),
        "lesions": float(len(counted)),
    }


def by_pysodmetrics(reference: Any, soft: Any) -> dict[str, float]:
    import py_sod_metrics as sod

    measures = {"mae": sod.MAE(), "s": sod.Smeasure(), "e": sod.Emeasure(), "wf": sod.WeightedFmeasure()}
    many = sod.FmeasureV2(
        {
            "f": sod.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3),
            "dice": sod.DICEHandler(with_dynamic=True, with_adaptive=False),
            "iou": sod.IOUHandler(with_dynamic=True, with_adaptive=False),
        }
    )
    for measure in (*measures.values(), many):
        measure.step(soft, reference, normalize=False)
    found = {name: measure.get_results() for name, measure in measures.items()}
    curves = many.get_results()
    return {
        "s_measure": float(found["s"]["sm"]),
        "weighted_f": float(found["wf"]["wfm"]),
        "adaptive_f": float(curves["f"]["adaptive"]),
        "mean_f": float(curves["f"]["dynamic"].mean()),
        "adaptive_e": float(found["e"]["em"]["adp"]),
        "mean_e": float(found["e"]["em"]["curve"].mean()),
        "mae": float(found["mae"]["mae"]),
        "mean_dice": float(curves["dice"]["dynamic"].mean()),
        "mean_iou": float(curves["iou"]["dynamic"].mean()),
    }


def by_sklearn(reference: Any, soft: Any) -> float:
    from sklearn.metrics import brier_score_loss

    return float(brier_score_loss(reference.ravel(), soft.ravel(), labels=[False, True]))


def by_pycocotools() -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    known, found = [], []
    for number, (index, kind, confidence, (x0, y0, x1, y1)) in enumerate(metric_cases.boxes(), start=1):
        row = {"id": number, "image_id": index, "category_id": kind, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        if confidence:
            found.append({**row, "score": confidence})
        else:
            known.append({**row, "area": (x1 - x0) * (y1 - y0), "iscrowd": 0})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": index} for index in range(40)], "annotations": known,
            "categories": [{"id": 0}, {"id": 1}],
        }  # fmt: skip
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes(found), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return {"map50_95": float(scored.stats[0]), "map50": float(scored.stats[1])}


if __name__ == "__main__":
    main()
