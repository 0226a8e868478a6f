"""How long the interface computes while a result as large as a brain is shown and applied in the Segment Editor.

python Testing/Benchmarks/applying.py [--sizes 240x240x155 512x512x200] [--repeats 5]

Two overlapping regions are laid onto the segmentation's voxels, previewed and applied through the doors that our
effects use, on the test bench with Slicer's real Segment Editor logic; "finer" is a segmentation of twice the volume's
voxels along each axis. Beside ours stands the same region by region with Slicer's own calls
(`SetBinaryLabelmapToSegment`, `ModifySegmentByLabelmap`), as scripts do it. Milliseconds of the main thread's processor
time, medians; of what is done in parts, with a turn of the event loop after each, the longest part.
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


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of this thread's processor time."""
    begin = time.thread_time()
    call()
    return (time.thread_time() - begin) * 1000


def longest_part(steps: Any) -> tuple[float, Any]:
    """Milliseconds of the longest part of some work, and what the work gives."""
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
    from BrainSegSAMLib.image import Segmentation, bounding_box, members
    from BrainSegSAMLib.labels import LabelScheme, Region

    geometry = mrml.volume_node_geometry(node)
    z, y, x = (np.linspace(-1, 1, size, dtype=np.float32) ** 2 for size in geometry.shape_zyx)
    radius = z[:, None, None] / 0.7 + y[:, None] / 0.6 + x / 0.4
    label_map = (radius < 1).astype(np.uint8) + (radius < 0.4)
    scheme = LabelScheme((Region("Whole", (1, 2), (0, 255, 0)), Region("Core", (2,), (255, 0, 0))))
    boxes = {region.name: bounding_box(members(label_map, region.labels)) for region in scheme.regions}
    return Segmentation(geometry, scheme, label_map), boxes


class Case:
    """A Segment Editor with a result for it.

    Args:
        size_ijk: of the volume.
        finer: whether the segmentation has twice the volume's voxels along each axis.
    """

    def __init__(self, size_ijk: tuple[int, int, int], *, finer: bool) -> None:
        import slicer
        from BrainSegSAMEffects.EffectResult import Target

        slicer.mrmlScene.Clear(True)
        source = volume(size_ijk, 1.0)
        self.editor = make_editor(slicer.mrmlScene, source)
        self.node = self.editor.segmentationNode()
        if finer:
            self.node.SetReferenceImageGeometryParameterFromVolumeNode(volume([2 * side for side in size_ijk], 0.5))
        self.editor.setActiveEffectByName("BrainSegSAM nnU-Net")
        self.host = self.editor.activeEffect()
        self.new, self.into = Target.of(self.host, perSegment=False), Target.of(self.host)
        self.segmentation, self.boxes = brain(source)
        self.results: list[tuple[Any, Any]] = []

    def close(self) -> None:
        """Take the editor away."""
        self.editor.setActiveEffect(None)
        self.editor.destroy_effects()

    def lay_out(self) -> float:
        """Make the labelmaps; milliseconds of the longest part."""
        self.results, longest = [], 0.0
        for region in self.segmentation.scheme.regions:
            taken, labelmap = longest_part(self.new.labelmapInParts(self.segmentation, region, self.boxes[region.name]))
            self.results.append((region, labelmap))
            longest = max(longest, taken)
        return longest

    # ---- ours

    def show(self) -> float:
        """Preview both, and take it away again; milliseconds of the first."""
        from BrainSegSAMEffects.Preview import Preview

        preview = Preview()
        outlines = [(region.colour_rgb, labelmap) for region, labelmap in self.results]
        taken = timed(lambda: preview.show(self.node, outlines))
        preview.clear()
        return taken

    def add_both(self) -> None:
        """As new segments."""
        from BrainSegSAMEffects.EffectResult import addSegments

        addSegments(self.host, self.new, self.results)

    def fill(self, *, add: bool = False) -> None:
        """The selected segment with the larger region."""
        from BrainSegSAMEffects.EffectResult import fillSegment

        fillSegment(self.host, self.into, self.results[0][1], add=add)

    # ---- with Slicer's own calls

    def show_as_scripts_do(self) -> float:
        """In a node of its own; milliseconds without making that."""
        import slicer

        logic = slicer.vtkSlicerSegmentationsModuleLogic
        shown = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        ids = [shown.GetSegmentation().AddEmptySegment("", region.name) for region, _labelmap in self.results]
        taken = timed(lambda: [
            logic.SetBinaryLabelmapToSegment(labelmap, shown, segment_id, logic.MODE_REPLACE)
            for segment_id, (_region, labelmap) in zip(ids, self.results, strict=True)
        ])  # fmt: skip
        slicer.mrmlScene.RemoveNode(shown)
        return taken

    def add_both_as_scripts_do(self) -> None:
        """Region by region: the second cuts a hole into the first."""
        import slicer

        self.host.saveStateForUndo()
        for region, labelmap in self.results:
            segment_id = self.node.GetSegmentation().AddEmptySegment("", region.name)
            mode = slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeAdd
            self.host.modifySegmentByLabelmap(self.node, segment_id, labelmap, mode)

    def fill_as_scripts_do(self) -> None:
        """On the whole of the grid."""
        import slicer

        modifier, resample = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageDataResample
        whole = self.host.defaultModifierLabelmap()
        resample.ResampleOrientedImageToReferenceOrientedImage(self.results[0][1], whole, modifier, False, False)
        self.host.saveStateForUndo()
        mode = slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeSet
        self.host.modifySelectedSegmentByLabelmap(modifier, mode)


def measure(size_ijk: tuple[int, int, int], *, finer: bool, repeats: int) -> None:
    """Print a row for each thing that is done."""
    case = Case(size_ijk, finer=finer)
    case.lay_out()
    case.fill()  # so that there is something to be replaced and to give way

    def undone(call: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            taken = timed(call)
            case.editor.undo()
            return taken

        return run

    rows: dict[str, tuple[Callable[[], float], Callable[[], float] | None]] = {
        "longest part of laying a region out": (case.lay_out, None),
        "preview of both": (case.show, case.show_as_scripts_do),
        "add both as new segments": (undone(case.add_both), undone(case.add_both_as_scripts_do)),
        "replace what is in a segment": (undone(case.fill), undone(case.fill_as_scripts_do)),
        "add to what is in a segment": (undone(lambda: case.fill(add=True)), None),
    }
    print(f"\n{'x'.join(map(str, size_ijk))}{', segmentation on a finer grid' if finer else ''}")
    for what, (ours, scripts) in rows.items():
        taken = [(ours(), scripts() if scripts else 0.0) for _ in range(repeats + 1)][1:]  # first: fresh memory
        mine, theirs = (statistics.median(column) for column in zip(*taken, strict=True))
        beside = f"   with Slicer's calls {theirs:5.0f} ms   ratio {mine / theirs:.2f}" if theirs else ""
        print(f"  {what:36}{mine:6.1f} ms{beside}")
    case.close()


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
