"""Model folders of networks that are prompted: made of the checkpoints that their makers publish, and read again.

Such a checkpoint says nothing but its parameters; which network it is, is recognised from their names and shapes.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..backends.architecture import Architecture
from ..backends.checkpoints import save_checkpoint
from ..backends.weights import read_weights, set_weights, shapes_of
from ..errors import ModelError, OutputError
from ..files import output_sentence
from ..intensity import LOWER_PERCENTILE, MAX_CHANNELS, UPPER_PERCENTILE
from ..labels import LabelScheme
from ..progress import Progress
from .catalogue import Entry, discard_download, download_model, models_folder
from .store import Model, check_name, load_model, write_model

if TYPE_CHECKING:
    import torch

SUFFIXES: Final = (".pt", ".pth", ".safetensors")
"""How the names of such checkpoints end."""
ANY_MODALITY: Final = "any"
"""What a network lists as its modality that was not trained on particular ones; it is shown one at a time."""
_WINDOWING: Final = {"lower": LOWER_PERCENTILE, "upper": UPPER_PERCENTILE}


@dataclass(frozen=True)
class Published:
    """A family of published networks, and what their model folders are called.

    Attributes:
        method: of the model folders.
        noun: what such a model is, for titles and messages: "tracker".
        names: the networks' names, for messages.
        architecture: the family's class.
        build: makes a network of an architecture.
        weights_file: name of the weights in a model folder.
        twins: network → another of the family whose parameters are the same; a file is of the latter if its name holds
            the latter's.
        resizable: whether the weights fit pictures of any size.
    """

    method: str
    noun: str
    names: tuple[str, ...]
    architecture: type[Architecture]
    build: Callable[[Any], torch.nn.Module]
    weights_file: str
    twins: Mapping[str, str] = field(default_factory=dict)
    resizable: bool = True


@dataclass(frozen=True)
class Described:
    """What a model folder says of its network.

    Attributes:
        architecture: of the family that was asked for.
        weights: the file.
        lower: percentile of the brain that becomes black.
        upper: percentile of the brain that becomes white.
    """

    architecture: Any
    weights: Path
    lower: float
    upper: float


def read_network(model: Model, kind: Published) -> Described:
    """What a model folder says of its network; the weights are not read.

    Raises:
        ModelError: a model of another method, without an architecture, not with one weights file, or with a window that
            is none.
    """
    if model.method != kind.method:
        raise ModelError(
            f"The model '{model.name}' is of the method '{model.method}'; a {kind.noun} is of '{kind.method}'."
        )
    if len(model.weights) != 1:
        raise ModelError(f"The {kind.noun} '{model.name}' must list one weights file, but lists {len(model.weights)}.")
    described = model.settings.get("architecture")
    if not isinstance(described, dict):
        raise ModelError(f"The {kind.noun} '{model.name}' does not say its architecture; import or train it again.")
    windowing = model.settings.get("windowing", _WINDOWING)
    try:
        chosen = {**_WINDOWING, **windowing}
        lower, upper = float(chosen["lower"]), float(chosen["upper"])
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"The {kind.noun} '{model.name}' has the windowing {windowing}; 'lower' and 'upper' must be percentiles."
        ) from error
    return Described(kind.architecture.from_dict(described), model.path_of(model.weights[0].path), lower, upper)


def import_checkpoint(
    source: Path,
    destination: Path,
    *,
    kinds: Sequence[Published],
    network: str | None = None,
    image_size: int | None = None,
    modalities: Sequence[str] | None = None,
    title: str = "",
    description: str = "",
    licence: str = "not stated",
    citations: Sequence[str] = (),
    trust: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Import a published checkpoint, or one fine-tuned from it, into a new model folder.

    Args:
        source: `.pt`, `.pth` or `.safetensors`.
        destination: the model folder to make; its last part becomes the model's name.
        kinds: families that it may be of.
        network: name of the published network; where None, by the names and shapes of the parameters, and between
            twins by the file's name.
        image_size: side in pixels of the network's input, where it shall differ from the published one; a checkpoint
            of SAM 2 does not say, one of SAM fits its own alone.
        modalities: what the network was trained on, one to three, shown together as the colours of a picture; where
            None "any": it is shown one at a time.
        title: shown to users; made of the network's name where empty.
        description: what the model is for.
        licence: of the weights.
        citations: what to cite.
        trust: allow a file that needs arbitrary unpickling.
        progress: may cancel.

    Returns:
        The new model. Nothing is left at `destination` where anything fails.

    Raises:
        ModelError: an unreadable file, none of the known networks, an image size that cannot be, more than three
            modalities, or a destination that exists.
        DependencyError: the package of the network is not installed.
        OutputError: where files cannot be written.
        Cancelled: when the progress was cancelled.
    """
    progress = progress or Progress()
    check_name(destination.name)
    if destination.exists():
        raise ModelError(f"There is a model at '{destination}' already; remove it first or choose another name.")
    if modalities is not None and not 1 <= len(modalities) <= MAX_CHANNELS:
        raise ModelError(f"Such a network sees one to three modalities, not {len(modalities)}.")
    progress.stage("Importing the checkpoint", total=2)
    weights = read_weights(source, trust=trust)
    kind, name = _named(network, kinds) if network else _recognised(weights, source, kinds, progress)
    architecture: Any = kind.architecture.official()[name]
    if image_size not in (None, architecture.image_size):
        if not kind.resizable:
            raise ModelError(
                f"The weights of '{name}' fit pictures of {architecture.image_size} pixels alone, not of {image_size}; "
                "leave out the image size."
            )
        architecture = replace(architecture, image_size=image_size)
    set_weights(kind.build(architecture), weights, source, architecture)
    progress.advance()
    model = Model(
        folder=destination,
        name=destination.name,
        title=title or f"{kind.noun.capitalize()} ({name})",
        method=kind.method,
        modalities=tuple(modalities or (ANY_MODALITY,)),
        scheme=LabelScheme.plain({"Object": 1}),
        licence=licence,
        settings={"architecture": architecture.as_dict(), "windowing": _WINDOWING},
        preprocessing={"orientation": "LPS"},
        description=description,
        training={"settings": {"imported_from": source.name, "network": name}},
        citations=tuple(citations),
    )
    _write(model, weights, kind.weights_file)
    progress.advance()
    return load_model(destination, verify_hashes=False)


def install_checkpoint(
    entry: Entry,
    *,
    kinds: Sequence[Published],
    models_dir: Path | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Download a checkpoint of the catalogue and import it under its name.

    The downloaded file is deleted once the model folder is complete.

    Args:
        entry: of the catalogue.
        kinds: families that it may be of.
        models_dir: where models lie; the user's models folder where None.
        trust: allow a file that needs arbitrary unpickling.
        progress: gets the stages, and may cancel.

    Raises:
        ModelError: it is there already, is bundled, or cannot be imported.
        DownloadError, OutputError, Cancelled: as `download_model`.
    """
    progress = progress or Progress()
    destination = (models_dir or models_folder()) / entry.name
    if destination.exists():
        raise ModelError(f"The model '{entry.name}' is installed already in '{destination}'.")
    source = download_model(entry, models_dir=models_dir, progress=progress.part("download", until=0.8))
    model = import_checkpoint(
        source,
        destination,
        kinds=kinds,
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


def _recognised(
    weights: Mapping[str, torch.Tensor], source: Path, kinds: Sequence[Published], progress: Progress
) -> tuple[Published, str]:
    """Whose network it is, and which of them."""
    shapes = shapes_of(weights)
    for kind in kinds:
        name = kind.architecture.recognise(shapes)
        if name is not None:
            twin = kind.twins.get(name)
            if twin and twin in source.name.lower():
                return kind, twin
            if twin:
                # The wrong one of the two would be shown other pictures than it was trained on, and nobody could tell.
                progress.log(f"'{source.name}' is taken for '{name}'; if it is '{twin}', say so when you import it.")
            return kind, name
    names = [name for kind in kinds for name in kind.names]
    raise ModelError(
        f"'{source}' is not a checkpoint of a published size of {', '.join(names[:-1])} or {names[-1]} (it names its "
        f"parameters {', '.join(list(weights)[:3])}, …). A trained nnU-Net is imported as its results folder or zip."
    )


def _named(network: str, kinds: Sequence[Published]) -> tuple[Published, str]:
    for kind in kinds:
        if network in kind.architecture.official():
            return kind, network
    known = [name for kind in kinds for name in kind.architecture.official()]
    raise ModelError(f"There is no published network '{network}'; there are: {', '.join(known)}.")


def _write(model: Model, weights: Mapping[str, torch.Tensor], weights_file: str) -> None:
    """The folder beside its place first; a rename puts it there whole."""
    staging = model.folder.parent / f".importing-{secrets.token_hex(4)}"
    try:
        # A tensor of a checkpoint may be a view into a larger one, which would be written whole.
        save_checkpoint({"model": {name: value.clone() for name, value in weights.items()}}, staging / weights_file)
        write_model(replace(model, folder=staging), files=[weights_file])
        staging.rename(model.folder)
    except OSError as error:
        raise OutputError(output_sentence(model.folder, error)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
