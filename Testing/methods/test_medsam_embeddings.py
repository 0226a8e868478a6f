"""The cache of image features: right, completed after an interruption, made anew for other weights, never too large."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from BrainSegSAMLib.errors import Cancelled, InputError, ModelError
from BrainSegSAMLib.methods.yolo_medsam.embeddings import Embeddings, bytes_of, cached_embeddings
from BrainSegSAMLib.progress import Progress, ProgressUpdate

SHAPE = (4, 3, 3)
TRAINING = """
import hashlib, json, sys, time
from pathlib import Path
import numpy as np
import torch
from BrainSegSAMLib.methods.yolo_medsam.embeddings import cached_embeddings
from BrainSegSAMLib.progress import Progress

folder, who = Path(sys.argv[1]), int(sys.argv[2])
order = np.random.default_rng(who).permutation(60)[:45].tolist()
keys = [hashlib.sha256(str(number).encode()).digest() for number in order]
said = []
encoded = 0

def encode(numbers):
    global encoded
    encoded += len(numbers)
    time.sleep(0.02)
    return torch.stack([torch.full((4, 3, 3), float(order[number])) for number in numbers])

(folder / f"ready_{who}").touch()
while not (folder / f"ready_{1 - who}").exists():
    time.sleep(0.001)
found = cached_embeddings(
    folder / "features", keys, encode, shape=(4, 3, 3), weights="w", batch_size=2,
    progress=Progress(lambda update: said.append(update.message)),
)
right = [float(value[0, 0, 0]) for value in found.gather(range(45))] == order
print(json.dumps({"right": right, "encoded": encoded, "waited": any("waits" in line for line in said)}))
"""
"""One of two trainings that keep features of pictures of 60, many the same, in one folder."""


class Encoder:
    """Features that tell the picture's number; remembers what it was asked for."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.asked = factor, []  # type: ignore[var-annotated]

    def __call__(self, numbers: Sequence[int]) -> torch.Tensor:
        self.asked += numbers
        return torch.stack([torch.full(SHAPE, self.factor * (number + 1) / 3) for number in numbers])


def keys(*names: str) -> list[bytes]:
    return [hashlib.sha256(name.encode()).digest() for name in names]


def cached(
    folder: Path, names: str, encoder: Any, *, weights: str = "w", progress: Progress | None = None
) -> Embeddings:
    return cached_embeddings(
        folder, keys(*names), encoder, shape=SHAPE, weights=weights, batch_size=2, progress=progress or Progress()
    )


def listening() -> tuple[Progress, list[str]]:
    messages: list[str] = []
    return Progress(lambda update: messages.append(update.message)), messages


def test_features_are_computed_once_and_kept_in_half_precision(tmp_path: Path) -> None:
    encoder = Encoder()
    first = cached(tmp_path / "f", "abc", encoder)
    again = cached(tmp_path / "f", "abc", encoder)
    assert encoder.asked == [0, 1, 2]
    expected = encoder([0, 1, 2]).half().float()
    assert first.gather([0, 1, 2]).equal(expected)
    assert again.gather([2, 0, 2]).equal(expected[[2, 0, 2]])
    assert not first.rows.flags.writeable


def test_what_is_missing_is_added(tmp_path: Path) -> None:
    encoder = Encoder()
    cached(tmp_path / "f", "ab", encoder)
    more = cached(tmp_path / "f", "bxa", encoder)
    assert encoder.asked == [0, 1, 1]
    assert [float(value[0, 0, 0]) for value in more.gather([0, 1, 2])] == pytest.approx([2 / 3, 2 / 3, 1 / 3], abs=1e-3)
    same = cached(tmp_path / "g", "aab", Encoder())
    assert same.places[0] == same.places[1]
    assert len(same.rows) == 2


def test_an_interrupted_cache_is_completed(tmp_path: Path) -> None:
    encoder = Encoder()
    progress = Progress()

    def cancelling(numbers: Sequence[int]) -> torch.Tensor:
        progress.cancel()
        return encoder(numbers)

    with pytest.raises(Cancelled):
        cached(tmp_path / "f", "abcde", cancelling, progress=progress)
    assert encoder.asked == [0, 1]
    # A row without its name, and a name without its row, as a kill may leave them.
    with (tmp_path / "f" / "features.f16").open("ab") as stream:
        stream.write(b"half a row")
    found = cached(tmp_path / "f", "abcde", encoder)
    assert encoder.asked == [0, 1, 2, 3, 4]
    assert found.gather(range(5)).equal(encoder(range(5)).half().float())
    features = (tmp_path / "f" / "features.f16").read_bytes()
    (tmp_path / "f" / "features.f16").write_bytes(features[:-20])
    again = cached(tmp_path / "f", "abcde", encoder)
    assert again.gather(range(5)).equal(found.gather(range(5)))


def test_two_trainings_side_by_side_share_a_cache(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAINING, str(tmp_path)]
    both = [subprocess.Popen([*command, str(who)], stdout=subprocess.PIPE, text=True) for who in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    found = [json.loads(text) for text in said]
    assert [one["right"] for one in found] == [True, True], "no row is another picture's"
    assert sorted(one["waited"] for one in found) == [False, True], "and it is said"
    union = {number for who in range(2) for number in np.random.default_rng(who).permutation(60)[:45].tolist()}
    assert sum(one["encoded"] for one in found) == len(union), "nothing is computed twice"
    names = (tmp_path / "features" / "keys.sha256").read_bytes()
    assert len(names) == 32 * len(union)
    assert (tmp_path / "features" / "features.f16").stat().st_size == 72 * len(union)


def test_a_cache_that_names_a_picture_twice_is_made_anew(tmp_path: Path) -> None:
    """As one that two trainings wrote at once without waiting for each other: which rows are whose is not known."""
    cached(tmp_path / "f", "abc", Encoder())
    names, features = (tmp_path / "f" / file for file in ("keys.sha256", "features.f16"))
    names.write_bytes(names.read_bytes() + names.read_bytes()[:32])
    features.write_bytes(features.read_bytes() + features.read_bytes()[-72:])
    progress, messages = listening()
    encoder = Encoder()
    found = cached(tmp_path / "f", "cab", encoder, progress=progress)
    assert encoder.asked == [0, 1, 2]
    assert found.gather([0, 1, 2]).equal(encoder([0, 1, 2]).half().float())
    assert any("damaged; they are computed anew" in message for message in messages)


def test_features_of_other_weights_are_computed_anew_and_that_is_said(tmp_path: Path) -> None:
    cached(tmp_path / "f", "ab", Encoder())
    progress, messages = listening()
    found = cached(tmp_path / "f", "ab", Encoder(2.0), weights="other", progress=progress)
    assert found.gather([0, 1]).equal(Encoder(2.0)([0, 1]).half().float())
    assert any("were made by other weights; they are computed anew" in message for message in messages)
    progress, messages = listening()
    cached(tmp_path / "f", "ab", Encoder(2.0), weights="other", progress=progress)
    assert messages == []


def test_the_size_is_said_before_it_is_written_and_refused_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bytes_of(1000, (256, 64, 64)) <= 2.1e9
    progress, messages = listening()
    written: list[bool] = []

    def look(numbers: Sequence[int]) -> torch.Tensor:
        written.append(any("2 pictures will take" in message for message in messages))
        return Encoder()(numbers)

    cached(tmp_path / "f", "ab", look, progress=progress)
    assert written == [True]

    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 0, 2**28))
    with pytest.raises(InputError, match="lower the setting views"):
        cached(tmp_path / "g", "ab", Encoder())
    assert not (tmp_path / "g" / "features.f16").exists()
    cached(tmp_path / "f", "ab", Encoder())  # nothing is missing, so nothing is needed


def test_features_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not finite in 16 bits"):
        cached(tmp_path / "f", "a", Encoder(1e9))


def test_progress_counts_pictures(tmp_path: Path) -> None:
    updates: list[ProgressUpdate] = []
    cached(tmp_path / "f", "abc", Encoder(), progress=Progress(updates.append))
    assert any(update.message == "Image features: 2 of 3 pictures." for update in updates)


def test_gathered_features_are_copies(tmp_path: Path) -> None:
    found = cached(tmp_path / "f", "a", Encoder())
    found.gather([0]).zero_()
    assert np.asarray(found.rows).all()
