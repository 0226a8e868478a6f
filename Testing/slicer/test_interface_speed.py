"""What a user feels: Apply answers at once, and the interface never stands still, with volumes of the usual size.

The aims are 0.3 s to the first message and 50 ms for a standstill; how near we are is measured by
`Testing/Benchmarks/interface.py` and `interactive.py`. What is refused here is what no busy machine explains: an
interface that waits for the worker, which here takes a second to answer, or that computes for much longer than it may.
"""

from __future__ import annotations

import time

import pytest

SIZE = (240, 240, 155)  # BraTS
STANDSTILL_S, ANSWER_S = 0.5, 2.0
COMPUTING_S, AIM_S = 0.15, 0.05


@pytest.fixture
def heartbeat(bench):
    import heartbeat

    return heartbeat.Heartbeat


def test_the_heartbeat_notices_a_standstill(bench, heartbeat):
    beat = heartbeat().start()
    bench.wait_until(lambda: beat.beats > 5)
    assert beat.longest_s < STANDSTILL_S
    time.sleep(STANDSTILL_S)
    beat.stop()
    assert beat.longest_s >= STANDSTILL_S
    assert beat.longest_computing_s < STANDSTILL_S, "that was no computing"


def test_the_heartbeat_notices_computing(bench, heartbeat):
    beat = heartbeat().start()
    bench.wait_until(lambda: beat.beats > 5)
    until = time.thread_time() + COMPUTING_S
    while time.thread_time() < until:
        pass
    beat.stop()
    assert beat.longest_computing_s >= COMPUTING_S


def test_apply_answers_at_once_and_the_interface_never_stands_still(
    module, scene, volume, models, dialogs, bench, worker, heartbeat
):
    """The volumes are read, handed over and segmented while the timer beats; the first run starts the process."""
    from BrainSegSAMWidgets.PredictionJob import Request
    from BrainSegSAMWidgets.WorkerProcess import Listener

    logic = module.BrainSegSAMLogic()
    logic.worker = worker("ponder")
    nodes = {"flair": volume("a", size=SIZE), "t1ce": volume("b", seed=1, size=SIZE)}
    for warm in (False, True):
        first, ends = [], []
        beat = heartbeat().start()
        begin = time.perf_counter()
        listener = Listener(
            onProgress=lambda message, begin=begin, first=first: first.append(time.perf_counter() - begin),
            onDone=ends.append, onFailed=ends.append,
        )
        logic.start(Request(nodes, "toy"), listener)
        assert bench.wait_until(lambda ends=ends: ends)
        bench.wait_until(lambda: False, seconds=0.1)
        beat.stop()
        assert hasattr(ends[0], "segmentationNode"), ends
        assert beat.longest_s <= STANDSTILL_S
        assert beat.longest_computing_s <= AIM_S
        assert not warm or first[0] <= ANSWER_S


def test_nor_does_it_after_a_press_of_the_panels_button(widget, volume, bench, worker, heartbeat):
    widget.logic.worker = worker("ponder")
    volume("a_flair", size=SIZE), volume("a_t1ce", seed=1, size=SIZE)
    assert bench.wait_until(lambda: widget.ui.applyButton.enabled)
    for warm in (False, True):
        beat = heartbeat().start()
        widget.ui.applyButton.click()
        assert widget.ui.progressBar.visible
        assert bench.wait_until(lambda: not widget.ui.progressBar.visible)
        beat.stop()
        assert widget.ui.statusLabel.text.startswith("Finished")
        assert beat.longest_s <= STANDSTILL_S
        assert not warm or beat.longest_computing_s <= AIM_S  # the first time, modules are imported


@pytest.mark.parametrize(("region", "keep"), [("", False), ("Whole", False), ("Whole", True)])
def test_nor_does_it_in_an_effect(
    editor, models, volume, bench, worker, heartbeat, dialogs, monkeypatch, region, keep
):
    """A result is shown and applied: as new segments, or in the place of what the selected segment has, or beside it.

    Undone each time, so that all rounds do the same; in one that no other program disturbs, the aim is met.
    """
    hired = worker("ponder")
    monkeypatch.setattr("BrainSegSAMLib.models.catalogue.load_catalogue", lambda path=None: ())
    monkeypatch.setattr("BrainSegSAMEffects.EffectBase.sharedWorker", lambda: hired)
    source = volume("a_flair", size=SIZE)
    volume("a_t1ce", seed=1, size=SIZE)
    editor.segmentationNode().SetReferenceImageGeometryParameterFromVolumeNode(source)
    editor.setSourceVolumeNode(source)
    editor.setActiveEffectByName("BrainSegSAM nnU-Net")
    effect = editor.activeEffect().self()
    effect.scriptedEffect.setParameter("Region", region)
    effect.addCheckBox.checked = keep
    bench.wait_until(lambda: False, seconds=0.1)  # nobody presses a button sooner
    computing = []
    for number in range(3):
        beat = heartbeat().start()
        effect.segmentButton.click()
        assert bench.wait_until(lambda: effect.job is None)
        bench.wait_until(lambda: False, seconds=0.1)
        effect.applyButton.click()
        bench.wait_until(lambda: False, seconds=0.1)
        beat.stop()
        assert effect.statusLabel.text.startswith("Applied")
        assert beat.longest_s <= STANDSTILL_S
        computing.append(beat.longest_computing_s)
        if number:
            editor.undo()  # the first stays, so that there is something to be overwritten
    assert max(computing) <= COMPUTING_S
    assert min(computing[1:]) <= AIM_S


@pytest.mark.parametrize("behaviour", ["crash", "deaf"])
def test_nor_does_it_when_the_worker_fails_or_is_killed(bench, worker, heartbeat, behaviour):
    from BrainSegSAMWidgets.WorkerProcess import Listener

    one, said, ends = worker(behaviour), [], []
    beat = heartbeat().start()
    job = one.request("other", {}, Listener(onProgress=said.append, onFailed=ends.append))
    assert bench.wait_until(lambda: said or ends)
    job.cancel()
    assert bench.wait_until(lambda: ends)
    bench.wait_until(lambda: False, seconds=0.3)
    beat.stop()
    assert beat.longest_s <= STANDSTILL_S
    assert beat.longest_computing_s <= AIM_S
