"""Following objects with gradients is what the tracker does at prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sam2")

from BrainSegSAMLib.backends.sam2 import Sam2Tracker  # noqa: E402
from BrainSegSAMLib.backends.sam2_architecture import Sam2Architecture  # noqa: E402
from BrainSegSAMLib.backends.sam2_forward import prepare  # noqa: E402
from BrainSegSAMLib.backends.sam2_network import build  # noqa: E402
from BrainSegSAMLib.backends.sam2_session import Seed  # noqa: E402
from BrainSegSAMLib.backends.sam2_training import Tracks, follow, open_memory, set_dropout  # noqa: E402

SIZE, SLICES = 64, 5
ARCHITECTURE = Sam2Architecture(
    image_size=SIZE, embed_dim=8, stages=(1, 1, 1, 1), global_att_blocks=(), window_spec=(4, 4, 4, 2), d_model=16,
    mem_dim=8, memory_attention_layers=1, dim_feedforward=16,
)  # fmt: skip


@pytest.fixture
def network() -> Any:
    torch.manual_seed(3)
    made: Any = build(ARCHITECTURE)
    with torch.no_grad():  # so that the untrained network sees the object, or all masks would be empty
        made.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.0)
    return made


@pytest.fixture
def frames() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 255, (SLICES, 3, SIZE, SIZE), dtype=np.uint8)


def tracks(orders: list[list[int]], **more: Any) -> Tracks:
    targets = torch.zeros(len(orders), len(orders[0]), SIZE, SIZE, dtype=torch.bool)
    targets[:, 0, 16:40, 8:32] = True
    return Tracks(torch.tensor(orders), targets, **more)


def test_an_opened_network_answers_to_its_prompt(network: Any, frames: Any) -> None:
    """With random weights another prompt changes next to nothing; a network that begins so learns to ignore it."""
    given = tracks([[0, 1], [0, 1]])
    given.targets[1] = given.targets[1].flip(-1)

    def influence() -> float:
        with torch.no_grad():
            logits = follow(network, prepare(frames, SIZE), given)[0].logits
        return float((logits[0] - logits[1]).std() / logits.std())

    before = influence()
    open_memory(network)
    assert influence() > 10 * before


def test_steps_from_a_mask_agree_with_the_session(network: Any, frames: Any) -> None:
    """Both ways from the middle, in one batch; the memory of the prompt differs by a little at the mask's edge."""
    given = tracks([[2, 3, 4], [2, 1, 0]])
    with torch.no_grad():
        answers = follow(network, prepare(frames, SIZE), given)
    assert [answer.step for answer in answers] == [1, 2]
    mask = given.targets[0, 0].numpy()
    expected: dict[tuple[int, int], Any] = {}
    with Sam2Tracker(network, ARCHITECTURE).encode(frames) as features:
        session = Sam2Tracker(network, ARCHITECTURE).begin(features, [Seed(2, 1, mask=mask), Seed(2, -1, mask=mask)])
        while steps := session.step():
            expected |= {(step.track, abs(step.slice_index - 2)): step for step in steps}
    for answer in answers:
        for track in range(2):
            step = expected[track, answer.step]
            best = int(answer.ious[track].argmax())
            low = answer.logits[track, best][None, None]
            found = torch.nn.functional.interpolate(low, size=(SIZE, SIZE), mode="bilinear")
            np.testing.assert_allclose(found[0, 0], step.logits, atol=0.05 * float(np.abs(step.logits).max()))
            assert float(answer.object_scores[track]) == pytest.approx(step.object_score, abs=0.05)


def test_boxes_answer_at_once_and_clicks_answer_again(network: Any, frames: Any) -> None:
    asked: list[torch.Size] = []

    def clicks(logits: Any) -> tuple[Any, Any]:
        asked.append(logits.shape)
        return torch.full((len(logits), 1, 2), 20.0), torch.ones(len(logits), 1, dtype=torch.int32)

    boxes = torch.tensor([[[8.0, 16.0], [32.0, 40.0]]])
    answers = follow(network, prepare(frames, SIZE), tracks([[0, 1]], boxes=boxes, clicks=clicks, click_rounds=2))
    assert [answer.step for answer in answers] == [0, 0, 0, 1]
    assert asked == [(1, SIZE // 4, SIZE // 4)] * 2
    assert not answers[0].logits.equal(answers[1].logits)


def test_gradients_reach_every_part_through_memory(network: Any, frames: Any) -> None:
    network.train()
    set_dropout(network, 0.0)
    answers = follow(network, prepare(frames, SIZE), tracks([[0, 1, 2]]))
    (answers[-1].logits.mean() + answers[-1].ious.mean() + answers[-1].object_scores.mean()).backward()
    for part in ("image_encoder", "memory_attention", "memory_encoder", "sam_mask_decoder", "obj_ptr_proj"):
        gradients = [p.grad for p in network.get_submodule(part).parameters() if p.grad is not None]
        assert sum(float(g.abs().sum()) for g in gradients) > 0, part
    assert all(module.dropout_p == 0 for module in network.memory_attention.modules() if hasattr(module, "dropout_p"))


def test_a_mask_passes_where_its_object_is_although_the_score_says_no(network: Any, frames: Any) -> None:
    with torch.no_grad():
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(-9.0)
    given = tracks([[0, 1, 2]])
    given.targets[:, 1, 20:30, 20:30] = True
    with torch.no_grad():
        shown, gone = follow(network, prepare(frames, SIZE), given)
    assert float(shown.object_scores) < 0
    assert (shown.logits > -1000).all()
    assert (gone.logits == -1024).all()
