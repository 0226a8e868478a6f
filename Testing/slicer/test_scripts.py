"""Scripts: in Slicer's Python, and without its windows; what loads and saves files there is played by storage nodes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "BrainSegSAM" / "BrainSegSAMScripts" / "segment_volumes.py"


@pytest.fixture
def script(bench, module, scene, models, worker, monkeypatch):
    import slicer
    from BrainSegSAMWidgets import WorkerProcess

    def load(path):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", Path(path).name.partition(".")[0])
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(path)
        assert storage.ReadData(node)
        return node

    def save(node, path):
        storage = slicer.vtkMRMLSegmentationStorageNode()
        storage.SetFileName(path)
        return bool(storage.WriteData(node))

    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: ())
    monkeypatch.setattr(slicer.util, "loadVolume", load)
    monkeypatch.setattr(slicer.util, "saveNode", save)
    monkeypatch.setattr(WorkerProcess, "_shared", [worker("succeed")])
    spec = importlib.util.spec_from_file_location("segment_volumes", SCRIPT)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def case(tmp_path):
    import SimpleITK as sitk

    rng = np.random.default_rng(0)
    for name in ("flair", "t1ce"):
        image = sitk.GetImageFromArray(rng.normal(100, 20, (8, 10, 12)).astype(np.float32))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    return tmp_path


def arguments(case, **changed):
    given = {"--model": "toy", "--output": str(case / "result.seg.nrrd"), **changed}
    return [
        *[word for pair in given.items() for word in pair],
        "--volume", f"flair={case / 'flair.nrrd'}", "--volume", f"t1ce={case / 't1ce.nrrd'}",
    ]  # fmt: skip


def test_volumes_in_segmentation_out(script, case, capsys):
    from BrainSegSAMLib.segmentation_files import read_segmentation

    assert script.main(arguments(case)) == 0
    found = read_segmentation(case / "result.seg.nrrd")
    assert found.scheme.names == ("Whole", "Core")
    assert found.mask("Core").sum() == 2 * 3 * 3
    assert "Written" in capsys.readouterr().out


def test_a_failure_has_an_exit_code_and_a_sentence(script, case, worker, monkeypatch, capsys):
    from BrainSegSAMWidgets import WorkerProcess

    assert script.main(["--nonsense"]) == 2
    assert script.main(["--help"]) == 0
    for wrong in ("flair.nrrd", "=flair.nrrd", "flair="):
        assert script.main([*arguments(case), "--volume", wrong]) == 2
        assert f"'{wrong}' is not MODALITY=FILE" in capsys.readouterr().err
    assert script.main([*arguments(case), "--volume", f"flair={case / 't1ce.nrrd'}"]) == 2
    assert "'flair' is given twice" in capsys.readouterr().err
    assert script.main(arguments(case, **{"--model": "nonsense"})) == 1
    assert "There is no model 'nonsense'" in capsys.readouterr().err
    monkeypatch.setattr(WorkerProcess, "_shared", [worker("unhappy")])
    assert script.main(arguments(case)) == 1
    assert "The model's weights are damaged." in capsys.readouterr().err
    (case / "t1ce.nrrd").unlink()
    assert script.main(arguments(case)) == 1
    assert "There is no file" in capsys.readouterr().err
    assert not (case / "result.seg.nrrd").exists()


# ---- in Slicer's Python


def segmentations(scene):
    return [scene.GetNthNodeByClass(i, "vtkMRMLSegmentationNode")
            for i in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"))]


@pytest.fixture
def scripted(module, scene, volume, models, dialogs, worker, monkeypatch):
    """The logic as a script uses it, and two volumes."""
    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: ())
    logic = module.BrainSegSAMLogic()
    logic.worker = worker("succeed")
    return logic, {"flair": volume("a"), "t1ce": volume("b", seed=1)}


def test_a_script_is_told_when_it_does_not_wait(scripted, scene, bench, worker):
    from BrainSegSAMWidgets.WorkerProcess import Listener

    from BrainSegSAMLib.errors import InputError

    logic, nodes = scripted
    told = {"progress": [], "done": [], "failed": []}
    listener = Listener(told["progress"].append, onDone=told["done"].append, onFailed=told["failed"].append)
    job = logic.predict(nodes, model="toy", listener=listener)
    assert job.running
    assert segmentations(scene) == told["done"] == []
    with pytest.raises(InputError, match="running already"):
        logic.predict(nodes, model="toy", listener=listener)
    assert bench.wait_until(lambda: not logic.running)
    ((result,), failed) = told["done"], told["failed"]
    assert segmentations(scene) == [result.segmentationNode]
    assert [region["region"] for region in result.regions] == ["Whole", "Core"]
    assert failed == []
    assert "Segmenting" in [message["stage"] for message in told["progress"]]
    logic.worker = worker("unhappy")
    logic.predict(nodes, model="toy", listener=listener)
    assert bench.wait_until(lambda: not logic.running)
    assert [str(error) for error in told["failed"]] == ["The model's weights are damaged."]
    assert len(told["done"]) == 1


def test_a_script_adds_to_a_segmentation(scripted, scene):
    logic, nodes = scripted
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    node.CreateDefaultDisplayNodes()
    node.GetSegmentation().AddEmptySegment("old", "Old")
    assert logic.predict(nodes, model="toy", segmentationNode=node) is node
    contents = node.GetSegmentation()
    names = [contents.GetNthSegment(index).GetName() for index in range(contents.GetNumberOfSegments())]
    assert names == ["Old", "Whole", "Core"]
    assert segmentations(scene) == [node]
