"""Makes a tracker's model folder of a published checkpoint: SAM 2, SAM 2.1 or MedSAM2, or one fine-tuned from them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...backends.checkpoints import save_checkpoint
from ...backends.sam2_architecture import OFFICIAL, Sam2Architecture
from ...backends.sam2_network import build
from ...backends.weights import read_weights, set_weights, shapes_of
from ...errors import ModelError, OutputError
from ...files import output_sentence
from ...labels import LabelScheme
from ...models.catalogue import Entry, discard_download, download_model, models_folder
from ...models.store import Model, check_name, load_model, write_model
from ...progress import Progress
from .tracker import METHOD

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES: Final = (".pt", ".pth", ".safetensors")
"""How the names of such checkpoints end."""
ANY_MODALITY: Final = "any"
"""What a tracker lists as its modality that was not trained on particular ones."""
WEIGHTS_FILE: Final = "tracker.pt"
WINDOWING: Final = {"lower": 0.5, "upper": 99.5}
_MEDSAM2: Final = "medsam2"


def import_tracker(
    source: Path,
    destination: Path,
    *,
    image_size: int | None = None,
    modalities: Sequence[str] | None = None,
    title: str = "",
    description: str = "",
    licence: str = "not stated",
    citations: Sequence[str] = (),
    trust: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Import a checkpoint into a new model folder of the method "sam2_tracker".

    Size and version are recognised from the names and shapes of the parameters.

    Args:
        source: `.pt`, `.pth` or `.safetensors`.
        destination: the model folder to make; its last part becomes the model's name.
        image_size: side in pixels of the network's input, a multiple of 32; where None 512 for a file whose name begins
            with "MedSAM2", else 1024, at which SAM 2 was trained. A checkpoint does not say.
        modalities: what the network was trained on, one to three, shown together as the colours of a picture; where
            None "any": it is shown one at a time.
        title: shown to users; made of the network's name where empty.
        description: what the tracker is for.
        licence: of the weights.
        citations: what to cite.
        trust: allow a file that needs arbitrary unpickling.
        progress: may cancel.

    Returns:
        The new model. Nothing is left at `destination` where anything fails.

    Raises:
        ModelError: an unreadable file, none of the known networks, an image size that cannot be, more than three
            modalities, or a destination that exists.
        OutputError: where files cannot be written.
        Cancelled: when the progress was cancelled.
    """
    progress = progress or Progress()
    check_name(destination.name)
    if destination.exists():
        raise ModelError(f"There is a model at '{destination}' already; remove it first or choose another name.")
    if modalities is not None and not 1 <= len(modalities) <= 3:
        raise ModelError(f"A tracker sees one to three modalities, not {len(modalities)}.")
    progress.stage("Importing the checkpoint", total=2)
    weights = read_weights(source, trust=trust)
    name, architecture = _architecture(weights, source, image_size)
    set_weights(build(architecture), weights, source, architecture)
    progress.advance()
    model = Model(
        folder=destination,
        name=destination.name,
        title=title or f"Tracker ({name})",
        method=METHOD,
        modalities=tuple(modalities or (ANY_MODALITY,)),
        scheme=LabelScheme.plain({"Object": 1}),
        licence=licence,
        settings={"architecture": architecture.as_dict(), "windowing": WINDOWING},
        preprocessing={"orientation": "LPS"},
        description=description,
        training={"settings": {"imported_from": source.name, "network": name}},
        citations=tuple(citations),
    )
    _write(model, weights)
    progress.advance()
    return load_model(destination, verify_hashes=False)


def install_tracker(
    entry: Entry, *, models_dir: Path | None = None, trust: bool = False, progress: Progress | None = None
) -> Model:
    """Download a tracker of the catalogue and import it under its name; the downloaded file is deleted at the end.

    Raises:
        ModelError, DownloadError, OutputError, Cancelled: as `download_model` and `import_tracker`.
    """
    progress = progress or Progress()
    destination = (models_dir or models_folder()) / entry.name
    if destination.exists():
        raise ModelError(f"The model '{entry.name}' is installed already in '{destination}'.")
    checkpoint = download_model(entry, models_dir=models_dir, progress=progress.part("download", until=0.8))
    model = import_tracker(
        checkpoint,
        destination,
        modalities=entry.modalities,
        title=entry.title,
        description=entry.notes,
        licence=entry.licence,
        citations=entry.citations,
        trust=trust,
        progress=progress.part("import", until=1.0),
    )
    discard_download(entry, models_dir=models_dir)
    return model


def _architecture(
    weights: Mapping[str, Tensor], source: Path, image_size: int | None
) -> tuple[str, Sam2Architecture]:
    """Which of the published networks it is, and its numbers."""
    name = Sam2Architecture.recognise(shapes_of(weights))
    if name is None:
        raise ModelError(
            f"'{source}' is not a checkpoint of a published size of SAM 2, SAM 2.1 or MedSAM2 (it names its parameters "
            f"{', '.join(list(weights)[:3])}, …). A trained nnU-Net is imported as its results folder or its zip."
        )
    if name == "sam2.1_tiny" and source.name.lower().startswith(_MEDSAM2):
        name = _MEDSAM2
    architecture = OFFICIAL[name]
    return name, architecture if image_size is None else replace(architecture, image_size=image_size)


def _write(model: Model, weights: Mapping[str, Tensor]) -> None:
    """The folder beside its place first; a rename puts it there whole."""
    staging = model.folder.parent / f".importing-{secrets.token_hex(4)}"
    try:
        # A tensor of a checkpoint may be a view into a larger one, which would be written whole.
        save_checkpoint({"model": {name: value.clone() for name, value in weights.items()}}, staging / WEIGHTS_FILE)
        write_model(replace(model, folder=staging), files=[WEIGHTS_FILE])
        staging.rename(model.folder)
    except OSError as error:
        raise OutputError(output_sentence(model.folder, error)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
