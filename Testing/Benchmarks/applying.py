"""How long the interface computes while a result as large as a brain is shown and applied in the Segment Editor.

python Testing/Benchmarks/applying.py [--sizes 240x240x155 512x512x200] [--repeats 5]

Two overlapping regions are laid onto the segmentation's voxels, previewed and applied through the doors that our effects
use, on the test bench with Slicer's real Segment Editor logic; "finer" is a segmentation of twice the volume's voxels
along each axis. Beside ours stands the same region by region with Slicer's own calls (`SetBinaryLabelmapToSegment`,
`ModifySegmentByLabelmap`), as scripts do it. Milliseconds of the main thread's processor time, medians; of what is done
in parts, with a turn of the event loop after each, the longest part.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "bench"), str(ROOT / "Testing" / "Benchmarks")]

import application  # noqa: E402
import numpy as np  # noqa: E402
from interactive import make_editor  # noqa: E402

NAMES = ("Whole", "Core")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of this thread's processor time, and what the call gives."""
    begin = time.thread_time()
    found = call()
    return (time.thread_time() - begin) * 1000, found


def longest_part(steps: Any) -> tuple[float, Any]:
    """As `timed`, of work in parts: the longest of them."""
    longest = 0.0
    while True:
        begin = time.thread_time()
        try:
            next(steps)
        except StopIteration as end:
            return max(longest, (time.thread_time() - begin) * 1000), end.value
        longest = max(longest, (time.thread_time() - begin) * 1000)


def volume(size_ijk: Iterable[int], spacing_mm: float) -> Any:
    """A volume node in the scene; all of them have the same corner."""
    import slicer
    import vtk

    image = vtk.vtkImageData()
    image.SetDimensions(*size_ijk)
    image.AllocateScalars(vtk.VTK_SHORT, 1)
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetAndObserveImageData(image)
    node.SetSpacing(spacing_mm, spacing_mm, spacing_mm)
    node.SetOrigin(spacing_mm / 2, spacing_mm / 2, spacing_mm / 2)
    return slicer.mrmlScene.AddNode(node)


def brain(node: Any) -> tuple[Any, dict[str, Any]]:
    """A segmentation of two ellipsoids, the larger with axes of 84, 77 and 63 % of the volume's, and their boxes."""
    from BrainSegSAMLib import mrml
    from BrainSegSAMLib.components import bounding_box
    from BrainSegSAMLib.image import Segmentation, members
    from BrainSegSAMLib.labels import LabelScheme, Region

    geometry = mrml.volume_node_geometry(node)
    z, y, x = (np.linspace(-1, 1, size, dtype=np.float32) ** 2 for size in geometry.shape_zyx)
    radius = z[:, None, None] / 0.7 + y[:, None] / 0.6 + x / 0.4
    label_map = (radius < 1).astype(np.uint8) + (radius < 0.4)
    scheme = LabelScheme((Region(NAMES[0], (1, 2), (0, 255, 0)), Region(NAMES[1], (2,), (255, 0, 0))))
    boxes = {region.name: bounding_box(members(label_map, region.labels)) for region in scheme.regions}
    return Segmentation(geometry, scheme, label_map), boxes


def measure(size: tuple[int, int, int], *, finer: bool, repeats: int) -> None:
    """Print one row for each thing that is done."""
    import slicer
    from BrainSegSAMEffects.EffectResult import Target, addSegments, fillSegment
    from BrainSegSAMEffects.Preview import Preview

    slicer.mrmlScene.Clear(True)
    source = volume(size, 1.0)
    editor = make_editor(slicer.mrmlScene, source)
    if finer:
        fine = volume([2 * side for side in size], 0.5)
        editor.segmentationNode().SetReferenceImageGeometryParameterFromVolumeNode(fine)
    editor.setActiveEffectByName("BrainSegSAM nnU-Net")
    host, node = editor.activeEffect(), editor.segmentationNode()
    segmentation, boxes = brain(source)
    logic, mode = slicer.vtkSlicerSegmentationsModuleLogic, slicer.qSlicerSegmentEditorAbstractEffect
    times: dict[str, list[float]] = {}

    def note(what: str, taken: tuple[float, Any]) -> Any:
        times.setdefault(what, []).append(taken[0])
        return taken[1]

    def script_preview(shown: Any) -> None:
        for (_region, labelmap), segmentID in zip(results, shown.GetSegmentation().GetSegmentIDs(), strict=True):
            logic.SetBinaryLabelmapToSegment(labelmap, shown, segmentID, logic.MODE_REPLACE)

    def script_apply() -> None:
        host.saveStateForUndo()
        for region, labelmap in results:
            segmentID = node.GetSegmentation().AddEmptySegment("", region.name)
            host.modifySegmentByLabelmap(node, segmentID, labelmap, mode.ModificationModeAdd)

    def script_fill() -> None:
        whole = host.defaultModifierLabelmap()
        modifier = slicer.vtkOrientedImageData()
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
            results[0][1], whole, modifier, False, False
        )
        host.saveStateForUndo()
        host.modifySelectedSegmentByLabelmap(modifier, mode.ModificationModeSet)

    for number in range(repeats + 1):  # the first one meets memory that was never touched
        target = note("where it goes", timed(lambda: Target.of(host, perSegment=False)))
        results = []
        for region in segmentation.scheme.regions:
            steps = target.labelmapInParts(segmentation, region, boxes[region.name])
            results.append((region, note(f"longest part of laying out {region.name}", longest_part(steps))))
        preview = Preview()
        outlines = [(region.colour_rgb, labelmap) for region, labelmap in results]
        note("preview", timed(lambda preview=preview, outlines=outlines: preview.show(node, outlines)))
        preview.clear()
        shown = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        for name in NAMES:
            shown.GetSegmentation().AddEmptySegment("", name)
        note("preview, script", timed(lambda shown=shown: script_preview(shown)))
        slicer.mrmlScene.RemoveNode(shown)
        into = Target.of(host)
        if number == 0:  # so that there is something to be replaced and overwritten
            fillSegment(host, into, results[0][1])
        for what, call in (
            ("add both", lambda target=target, results=results: addSegments(host, target, results)),
            ("add both, script", script_apply),
            ("replace", lambda into=into, results=results: fillSegment(host, into, results[0][1])),
            ("replace, script", script_fill),
            ("keep and add", lambda into=into, results=results: fillSegment(host, into, results[0][1], add=True)),
        ):
            note(what, timed(call))
            editor.undo()
    editor.setActiveEffect(None)
    editor.destroy_effects()
    print(f"\n{'x'.join(map(str, size))}{', segmentation on a finer grid' if finer else ''}")
    for what, taken in times.items():
        if not what.endswith("script"):
            ours = statistics.median(taken[1:])
            theirs = statistics.median(times.get(f"{what}, script", [0, 0])[1:])
            beside = f"   with Slicer's calls {theirs:5.0f} ms   ratio {ours / theirs:.2f}" if theirs else ""
            print(f"  {what:32}{ours:6.1f} ms (first {taken[0]:.0f}){beside}")


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["240x240x155", "512x512x200"])
    parser.add_argument("--finer", nargs="*", default=["240x240x155"], help="sizes of volumes under a finer grid")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    application.start()
    import BrainSegSAMEffects
    import slicer
    import views

    layout = views.LayoutManager(slicer.mrmlScene)
    slicer.app.setLayoutManager(layout)
    BrainSegSAMEffects.registerEffects()
    for finer, sizes in ((False, options.sizes), (True, options.finer)):
        for size in sizes:
            i, j, k = (int(side) for side in size.split("x"))
            measure((i, j, k), finer=finer, repeats=options.repeats)
    slicer.app.setLayoutManager(None)
    layout.close()


if __name__ == "__main__":
    main()
