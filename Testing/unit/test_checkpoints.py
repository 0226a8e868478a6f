"""Checkpoints are read without running them, and every unreadable file gets a sentence."""

from __future__ import annotations

import contextlib
import errno
import io
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from BrainSegSAMLib.errors import ModelError, OutputError

torch = pytest.importorskip("torch")

from BrainSegSAMLib.backends.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402


def checkpoint_like_nnunet() -> dict[str, object]:
    """What nnU-Net v2 saves, in small: weights, NumPy scalars in the log, a device."""
    return {
        "network_weights": {"conv.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3)},
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.01}]},
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "epochs": np.int64(3), "ok": np.bool_(True)},
        "_best_ema": np.float64(0.5),
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cuda")},
        "trainer_name": "nnUNetTrainer",
    }


def rewrite_pickle(source: Path, target: Path, old: bytes, new: bytes) -> None:
    """Copy a checkpoint with a part of its pickle replaced."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert old in content
                content = content.replace(old, new)
            copy.writestr(entry.filename, content)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.target), "w")  # a builtin that shows on disk that it ran


class System:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"echo ran > '{self.target}'",)


def test_nnunet_checkpoint_with_numpy_scalars_is_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    torch.save(checkpoint_like_nnunet(), path)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["network_weights"]["conv.weight"], torch.arange(6.0).reshape(2, 3))
    assert loaded["logging"]["mean_fg_dice"] == [0.5, 0.25]
    assert loaded["init_args"]["device"] == torch.device("cuda")


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_1_and_numpy_2_names_are_known(tmp_path: Path, module: bytes) -> None:
    torch.save(checkpoint_like_nnunet(), tmp_path / "as_written.pth")
    written = np.float64(0).__reduce__()[0].__module__.encode()
    rewrite_pickle(tmp_path / "as_written.pth", tmp_path / "other.pth", written, module)
    assert load_checkpoint(tmp_path / "other.pth")["_best_ema"] == 0.5


@pytest.mark.parametrize("evil", [Malicious, System])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_program_in_a_checkpoint_is_not_run(tmp_path: Path, evil: type, zipped: bool) -> None:
    victim = tmp_path / "created_by_the_checkpoint"
    path = tmp_path / "evil.pth"
    torch.save({"network_weights": evil(victim)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"evil\.pth' holds more than data .*--trust"):
        load_checkpoint(path)
    assert not victim.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_bare_pickle_is_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "created_by_the_checkpoint"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"evil{protocol}.pth"
        path.write_bytes(pickle.dumps({"network_weights": Malicious(victim)}, protocol=protocol))
        with pytest.raises(ModelError, match=path.name):
            load_checkpoint(path)
    assert not victim.exists()


def test_trusted_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "trusted.pth"
    torch.save({"where": Path("somewhere")}, path)
    with pytest.raises(ModelError, match="pathlib"):
        load_checkpoint(path)
    assert load_checkpoint(path, trust=True) == {"where": Path("somewhere")}


def test_trusted_file_that_needs_an_absent_package(tmp_path: Path) -> None:
    torch.save(checkpoint_like_nnunet(), tmp_path / "as_written.pth")
    written = np.float64(0).__reduce__()[0].__module__.encode()
    rewrite_pickle(tmp_path / "as_written.pth", tmp_path / "odd.pth", written, b"no_such_package_anywhere")
    with pytest.raises(ModelError, match="no_such_package_anywhere"):
        load_checkpoint(tmp_path / "odd.pth", trust=True)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])
def test_truncated_file(tmp_path: Path, share: float, padding: int) -> None:
    path = tmp_path / "cut.pth"
    torch.save({**checkpoint_like_nnunet(), "padding": torch.ones(padding)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: max(1, int(len(content) * share))])
    with pytest.raises(ModelError, match=r"cut\.pth' is cut short or is not a PyTorch checkpoint"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    source, path = tmp_path / "good.pth", tmp_path / "damaged.pth"
    torch.save(checkpoint_like_nnunet(), source)
    generator = random.Random(20)
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(300):
        with zipfile.ZipFile(path, "w") as damaged:
            for name, content in entries.items():
                if name.endswith("data.pkl"):
                    changed = bytearray(content)
                    for _ in range(generator.randrange(1, 5)):
                        changed[generator.randrange(len(changed))] = generator.randrange(256)
                    content = bytes(changed)
                damaged.writestr(name, content)
        with contextlib.suppress(ModelError):  # anything else fails the test; some changes do no harm
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.pth", b"", "is empty"),
        ("text.pth", b"<html>404 Not Found</html>", "not a PyTorch checkpoint"),
        ("text.safetensors", b"<html>404 Not Found</html>", "not a safetensors file"),
    ],
)
def test_other_content(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    with pytest.raises(ModelError, match=rf"{name}.* {sentence}"):
        load_checkpoint(tmp_path / name)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no weights file .*none\.pth"):
        load_checkpoint(tmp_path / "none.pth")


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "locked.pth").write_bytes(b"content")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match=r"locked\.pth' cannot be read: Permission denied"):
        load_checkpoint(tmp_path / "locked.pth")


def test_checkpoint_that_is_no_dictionary(tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    with pytest.raises(ModelError, match="holds a Tensor instead of a dictionary"):
        load_checkpoint(tmp_path / "tensor.pth")


def test_safetensors(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    assert torch.equal(load_checkpoint(tmp_path / "weights.safetensors")["a"], torch.ones(2))


def test_saved_bytes_do_not_depend_on_the_name(tmp_path: Path) -> None:
    content = {"network_weights": {"a": torch.ones(2)}, "trainer_name": "T"}
    save_checkpoint(content, tmp_path / "one.pth")
    save_checkpoint(content, tmp_path / "another" / "two.pth")
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "another" / "two.pth").read_bytes()
    assert load_checkpoint(tmp_path / "one.pth")["trainer_name"] == "T"


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, mode: FullDisk())
    with pytest.raises(OutputError, match=r"full\.pth"):
        save_checkpoint({"a": torch.ones(100_000)}, tmp_path / "full.pth")
    assert list(tmp_path.iterdir()) == []
