"""One segmentation without the panel: what ends it, what is refused before it starts, and that nothing stays behind."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest


@pytest.fixture
def logic(module, scene, models, dialogs, worker, monkeypatch):
    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: ())
    logic = module.BrainSegSAMLogic()
    logic.worker = worker("succeed")
    return logic


@pytest.fixture
def volumes(volume, scene):
    return {"flair": volume("a"), "t1ce": volume("b", seed=1)}


@pytest.fixture
def request_(volumes):
    from BrainSegSAMWidgets.PredictionJob import Request

    return Request(volumes, "toy")


class Ends(list):
    """How work ended, and its listener."""

    def __init__(self):
        from BrainSegSAMWidgets.WorkerProcess import Listener

        self.stages = []
        self.listener = Listener(
            onProgress=lambda message: self.stages.append(message["stage"]), onDone=self.append, onFailed=self.append
        )


@pytest.fixture
def asked(logic, monkeypatch):
    """Kinds of what the worker was asked for."""
    kinds = []
    real = type(logic.worker).request

    def request(self, kind, arguments, listener):
        kinds.append(kind)
        return real(self, kind, arguments, listener)

    monkeypatch.setattr(type(logic.worker), "request", request)
    return kinds


def segmentations(scene):
    return [scene.GetNthNodeByClass(i, "vtkMRMLSegmentationNode")
            for i in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"))]  # fmt: skip


def left_in_memory():
    return list(Path("/dev/shm").glob(f"brainsegsam-{os.getpid()}-*"))


# ---- what nobody foresaw


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("fault", [MemoryError(), KeyError("surprise"), None])
def test_what_fails_on_the_way_into_the_scene_is_said_and_the_next_works(
    logic, request_, bench, scene, worker, monkeypatch, caplog, fault, blocking
):
    from BrainSegSAMLib import mrml
    from BrainSegSAMLib.errors import WorkerError

    before = scene.GetNumberOfNodes()
    with monkeypatch.context() as broken:
        if fault is None:  # an answer that lacks what it should have
            logic.worker = worker("echo")
        else:
            broken.setattr(mrml, "segmentation_to_node_in_parts", lambda *a, **k: (_ for _ in ()).throw(fault))
        ends = Ends()
        job = logic.start(request_, ends.listener)
        if blocking:
            job.wait()
        assert bench.wait_until(lambda: ends)
    (error,) = ends
    assert isinstance(error, WorkerError)
    assert ("not enough memory" if isinstance(fault, MemoryError) else "not foreseen (KeyError") in str(error)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "Traceback" in caplog.text
    assert scene.GetNumberOfNodes() == before
    assert not logic.running
    logic.worker = worker("succeed")
    again = Ends()
    logic.start(request_, again.listener)
    assert bench.wait_until(lambda: again)
    assert segmentations(scene) == [again[0].segmentationNode]


def test_what_fails_while_volumes_are_read_is_said(logic, request_, bench, monkeypatch, caplog):
    from BrainSegSAMWidgets.Volumes import VolumeReader

    monkeypatch.setattr(VolumeReader, "proceed", lambda self: 1 // 0)
    ends = Ends()
    logic.start(request_, ends.listener)
    assert bench.wait_until(lambda: ends)
    assert "not foreseen (ZeroDivisionError" in str(ends[0])
    assert not logic.running


def test_after_a_failure_nothing_is_asked_any_more(logic, volumes, bench, asked, monkeypatch):
    """A script's segmentation that found no memory leaves no turn of the event loop behind that would try again."""
    from BrainSegSAMLib import wire
    from BrainSegSAMLib.errors import InputError

    def full(name, size):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as small:
        small.setattr(wire, "_create", full)
        with pytest.raises(InputError, match="no memory"):
            logic.predict(volumes, model="toy")
    bench.wait_until(lambda: False, seconds=0.2)
    assert asked == []
    assert not logic.worker.busy
    assert left_in_memory() == []


def test_closing_while_volumes_are_read_gives_the_memory_back(logic, request_, bench, asked, monkeypatch):
    from BrainSegSAMWidgets import Volumes

    monkeypatch.setattr(Volumes, "_TURN_S", 0.0)
    ends = Ends()
    logic.start(request_, ends.listener)
    assert bench.wait_until(left_in_memory)
    logic.abort()
    assert left_in_memory() == []
    bench.wait_until(lambda: False, seconds=0.1)
    assert (ends, asked) == ([], [])


# ---- refused before anything starts


@pytest.mark.parametrize("kind", ["bent", "surface"])
def test_a_segmentation_that_takes_no_segments_is_refused_at_once(logic, volumes, scene, asked, kind):
    from BrainSegSAMLib.errors import InputError

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    if kind == "bent":
        warp = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
        node.SetAndObserveTransformNodeID(warp.GetID())
    else:
        node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    with pytest.raises(InputError, match="'mine'"):
        logic.predict(volumes, model="toy", segmentationNode=node)
    assert asked == []
    assert not logic.running


# ---- cancel


def test_removing_the_segmentation_cancels(logic, volumes, scene, bench, worker):
    from BrainSegSAMWidgets.PredictionJob import Request

    from BrainSegSAMLib.errors import Cancelled

    logic.worker = worker("wait")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    ends = Ends()
    logic.start(Request(volumes, "toy", segmentationNode=node), ends.listener)
    assert bench.wait_until(lambda: "Segmenting" in ends.stages)
    scene.RemoveNode(node)
    assert bench.wait_until(lambda: ends)
    assert isinstance(ends[0], Cancelled)
    assert str(ends[0]) == "'mine' was removed from the scene, so the segmentation was cancelled."
    assert segmentations(scene) == []


@pytest.mark.parametrize("what", ["cancelled", "segmentation removed", "scene closed", "aborted"])
def test_what_ends_it_between_two_parts_of_a_result_leaves_the_scene_as_it_was(
    logic, volumes, scene, bench, monkeypatch, what
):
    """The worker has answered, and the segments are made, a part in each turn of the event loop."""
    from BrainSegSAMWidgets.PredictionJob import Request

    from BrainSegSAMLib.errors import Cancelled
    from BrainSegSAMLib.mrml import labelmaps

    monkeypatch.setattr(labelmaps, "_PART", 1)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumes["flair"])
    real, parts = labelmaps._write, []

    def write(*arguments):
        for part in real(*arguments):
            parts.append(part)
            if len(parts) == 2:
                {"cancelled": logic.cancel, "segmentation removed": lambda: scene.RemoveNode(node),
                 "scene closed": lambda: scene.Clear(False), "aborted": job.abort}[what]()  # fmt: skip
            yield part

    monkeypatch.setattr(labelmaps, "_write", write)
    ends = Ends()
    job = logic.start(Request(volumes, "toy", segmentationNode=node), ends.listener)
    assert bench.wait_until(lambda: len(parts) == 2)
    assert bench.wait_until(lambda: not job.running)
    bench.wait_until(lambda: False, seconds=0.1)
    assert len(parts) == 2
    assert [type(end) for end in ends] == ([] if what == "aborted" else [Cancelled])
    assert node.GetSegmentation().GetNumberOfSegments() == 0
    assert segmentations(scene) == ([node] if what in ("cancelled", "aborted") else [])
    assert not logic.running


@pytest.mark.parametrize("how", ["cancel", "abort", "close"])
def test_a_result_that_is_not_wanted_any_more_is_not_put_into_the_scene(
    logic, request_, bench, scene, monkeypatch, how
):
    from BrainSegSAMWidgets import PredictionJob

    from BrainSegSAMLib.errors import Cancelled

    monkeypatch.setattr(PredictionJob, "_PART", 1)  # so that it takes many turns
    ends = Ends()
    job = logic.start(request_, ends.listener)
    assert bench.wait_until(lambda: job._job is not None and not job._job.running)
    assert job.running
    if how == "close":
        scene.Clear(False)
    else:
        getattr(logic, how)()
    assert bench.wait_until(lambda: not job.running)
    bench.wait_until(lambda: False, seconds=0.1)
    assert [type(end) for end in ends] == ([] if how == "abort" else [Cancelled])
    assert segmentations(scene) == []


@pytest.mark.parametrize("blocking", [True, False])
def test_a_cancelled_segmentation_does_not_stand_in_the_way_of_the_next(logic, request_, bench, worker, blocking):
    from BrainSegSAMWidgets.PredictionJob import PredictionJob

    from BrainSegSAMLib.errors import Cancelled, InputError

    slow = worker("ponder")
    first, second, third = Ends(), Ends(), Ends()
    job = PredictionJob(request_, slow, first.listener)
    job.start()
    assert bench.wait_until(lambda: "Reading" in first.stages)
    with pytest.raises(InputError, match="working on something else"):
        PredictionJob(request_, slow, third.listener).start()
    job.cancel()
    following = PredictionJob(request_, slow, second.listener)
    following.start()
    if blocking:
        following.wait()
    assert bench.wait_until(lambda: second)
    assert isinstance(first[0], Cancelled)
    assert second[0].segmentationNode is not None
    assert third == []
