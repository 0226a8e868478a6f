"""Tests for Slicer itself: the module, the effects in a real Segment Editor, and the sample data.

CTest runs them where the extension is built; `run_self_tests.py` runs them in a Slicer that was downloaded; and the
bench under Testing/slicer runs them, unchanged.
"""

from __future__ import annotations

import importlib.util
import unittest
from typing import Any

import BrainSegSAMEffects
import numpy as np
import qt
import SampleData
import slicer
from BrainSegSAMEffects.EffectResult import Target, fillSegment
from BrainSegSAMWidgets.WorkerProcess import Listener, newWorker
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

import BrainSegSAM
from BrainSegSAMLib import mrml

MODEL = "glioma-nnunet-tiny"
PACKAGES = ("torch", "nnunetv2")


class BrainSegSAMSelfTest(ScriptedLoadableModuleTest):
    """Runs in Slicer 5.10 and later; what needs model packages is left out where they are not installed."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()
        BrainSegSAM.registerWithSlicer()  # Slicer may not have told us yet that it has started; twice does no harm
        self.editor: Any = None

    def tearDown(self) -> None:
        if self.editor is not None:
            self.editor.setActiveEffectByName("")
            self.editor.close()
            self.editor.deleteLater()
            self.editor = None
            slicer.app.processEvents()
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All of them, as Slicer's "Reload and Test" asks."""
        for name in unittest.defaultTestLoader.getTestCaseNames(type(self)):
            self.setUp()
            try:
                getattr(self, name)()
            except unittest.SkipTest as reason:
                self.delayDisplay(f"{name} was left out: {reason}")
            finally:
                self.tearDown()

    # ---- helpers

    def openEditor(self, volumeNode: Any) -> Any:
        """A Segment Editor on a volume, with one empty segment "A" selected; gives the segmentation."""
        segmentationNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        segmentationNode.CreateDefaultDisplayNodes()
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        segmentationNode.GetSegmentation().AddEmptySegment("A", "A")
        self.editor = slicer.qMRMLSegmentEditorWidget()
        self.editor.setMRMLScene(slicer.mrmlScene)
        self.editor.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
        self.editor.setSegmentationNode(segmentationNode)
        self.editor.setSourceVolumeNode(volumeNode)
        self.editor.setCurrentSegmentID("A")
        self.editor.show()
        slicer.app.processEvents()
        return segmentationNode

    def nodes(self) -> set[str]:
        """Ids of all nodes of the scene."""
        return {slicer.mrmlScene.GetNthNode(index).GetID() for index in range(slicer.mrmlScene.GetNumberOfNodes())}

    # ---- tests

    def test_effects_are_registered_once(self) -> None:
        """Each effect is known under its name, with an icon, and has a class in the place where Slicer looks for it."""
        registered = slicer.qSlicerSegmentEditorEffectFactory.instance().registeredEffects()
        names = [effect.name for effect in registered]
        ours = [name for name in names if name.startswith("BrainSegSAM")]
        self.assertEqual(len(ours), len(BrainSegSAMEffects.EFFECTS))
        self.assertEqual(len(names), len(set(names)))

    def test_every_effect_opens_and_leaves_nothing(self) -> None:
        """Choosing an effect shows its options; leaving it takes back whatever it put into the scene."""
        volumeNode = SampleData.downloadSamples("SyntheticGlioma")[0]
        self.openEditor(volumeNode)
        before = self.nodes()
        names = [effect.name for effect in slicer.qSlicerSegmentEditorEffectFactory.instance().registeredEffects()]
        for name in (name for name in names if name.startswith("BrainSegSAM")):
            self.editor.setActiveEffectByName(name)
            slicer.app.processEvents()
            effect = self.editor.activeEffect()
            self.assertIsNotNone(effect, name)
            self.assertEqual(effect.name, name)
            self.assertTrue(effect.self().helpText())
            self.assertFalse(effect.self().icon().isNull())
            self.assertTrue(effect.optionsFrame().isVisibleTo(effect.optionsFrame().parent()))
            self.editor.setActiveEffectByName("")
            slicer.app.processEvents()
            self.assertEqual(self.nodes(), before, name)

    def test_a_result_goes_through_the_editors_own_path(self) -> None:
        """Written voxels are those of the mask within the editable intensities, and Undo takes them back."""
        volumeNode = SampleData.downloadSamples("SyntheticGlioma")[0]
        segmentationNode = self.openEditor(volumeNode)
        self.editor.setActiveEffectByName("BrainSegSAM nnU-Net")
        host = self.editor.activeEffect()
        array, geometry = mrml.read_volume_node(volumeNode)
        mask = np.zeros(array.shape, dtype=bool)
        mask[20:60, 30:90, 30:90] = True
        low, high = (float(value) for value in np.percentile(array[array > 0], (40, 80)))
        parameters = self.editor.mrmlSegmentEditorNode()
        parameters.SetSourceVolumeIntensityMask(True)
        parameters.SetSourceVolumeIntensityMaskRange(low, high)
        target = Target.of(host)
        fillSegment(host, target, target.labelmap(mask, target.sourceGeometry))
        expected = mask & (array >= low) & (array <= high)
        found = mrml.node_to_segmentation(segmentationNode, geometry=geometry).mask("A")
        self.assertGreater(int(expected.sum()), 0)
        self.assertTrue(np.array_equal(found, expected))
        self.editor.undo()
        self.assertFalse(mrml.node_to_segmentation(segmentationNode, geometry=geometry).mask("A").any())

    def test_the_panel_opens(self) -> None:
        """The module's panel is made and taken away without an error, and the sample's volumes are matched."""
        nodes = SampleData.downloadSamples("SyntheticGlioma")
        logic = BrainSegSAM.BrainSegSAMLogic()
        matched = logic.matchVolumes(("flair", "t1", "t1ce", "t2"))
        self.assertEqual([matched[name].GetID() for name in matched], [node.GetID() for node in nodes])
        parent = slicer.qMRMLWidget()
        parent.setLayout(qt.QVBoxLayout())
        parent.setMRMLScene(slicer.mrmlScene)
        widget = BrainSegSAM.BrainSegSAMWidget(parent)
        widget.setup()
        parent.show()
        slicer.app.processEvents()
        widget.cleanup()
        parent.close()
        parent.deleteLater()
        slicer.app.processEvents()

    def test_the_worker_starts_and_answers(self) -> None:
        """Slicer's Python runs the worker, and the two understand each other; what is asked for needs no package."""
        worker, errors = newWorker(), []
        worker.request("no such thing", {}, Listener(onFailed=errors.append)).wait()
        self.assertIn("no such thing", str(errors[0]))
        self.assertGreater(worker.pid, 0)
        worker.quit(wait=True)
        self.assertEqual(worker.pid, 0)

    def test_the_demonstration_model_finds_the_lesion(self) -> None:
        """The bundled model, by the real worker process: the lesion of the sample, about where it is."""
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise unittest.SkipTest(f"{', '.join(missing)} is not installed")
        nodes = SampleData.downloadSamples("SyntheticGlioma")
        volumes = dict(zip(("flair", "t1", "t1ce", "t2"), nodes, strict=True))
        node = BrainSegSAM.BrainSegSAMLogic().predict(volumes, model=MODEL, device="cpu")
        found = mrml.node_to_segmentation(node)
        self.assertEqual(len(found.scheme.regions), 3)
        volumes_ml = [found.volume_ml(region.name) for region in found.scheme.regions]
        for volume_ml, expected_ml in zip(volumes_ml, EXPECTED_ML, strict=True):
            self.assertAlmostEqual(volume_ml, expected_ml, delta=0.15 * expected_ml)


EXPECTED_ML = (81.6, 34.6, 19.2)
"""Whole tumour, core and enhancing tumour that the model finds in the sample on a CPU."""
