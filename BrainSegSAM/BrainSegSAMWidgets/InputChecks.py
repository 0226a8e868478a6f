"""What is said about the chosen volumes before anything starts: whether they can be used, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import slicer
from slicer.i18n import tr as _

from BrainSegSAMLib import mrml
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.modalities import OTHER, REFERENCE, ModalityTable
from BrainSegSAMLib.mrml.spaces import parent_to_world
from BrainSegSAMLib.mrml.volumes import check_is_scalar_volume
from BrainSegSAMLib.resample import MINIMUM_OVERLAP

from .Volumes import ofOneExamination

_TILTED_DEGREES = 1.0


@dataclass(frozen=True)
class InputCheck:
    """What there is to say.

    Attributes:
        problem: why these volumes cannot be segmented, as a sentence; "" where they can.
        notes: what a user should know, a sentence each.
    """

    problem: str = ""
    notes: tuple[str, ...] = ()


def checkInputs(chosen: Mapping[str, Any]) -> InputCheck:
    """Check the chosen volumes by their headers; no voxel is read.

    Args:
        chosen: modality → volume node or None, the reference first.
    """
    if not chosen:
        return InputCheck()
    missing = [modality.upper() for modality, node in chosen.items() if node is None]
    if missing:
        return InputCheck(_("Choose a volume for {modalities}.").format(modalities=", ".join(missing)))
    for node in chosen.values():
        same = [modality.upper() for modality, other in chosen.items() if other is node]
        if len(same) > 1:
            sentence = _("'{name}' is chosen for {modalities}; each needs its own volume.")
            return InputCheck(sentence.format(name=node.GetName(), modalities=", ".join(same)))
    try:
        geometries = {modality: mrml.volume_node_geometry(node) for modality, node in chosen.items()}
    except InputError as error:
        return InputCheck(str(error))
    problem, notes = _compare(chosen, geometries)
    return InputCheck(problem, tuple(notes) if problem else (*_strangers(chosen), *_strangeNames(chosen), *notes))


def outputProblem(segmentationNode: Any) -> str:
    """Why segments cannot be added to a segmentation, as a sentence; "" where they can, or for None."""
    try:
        if segmentationNode is not None:
            parent_to_world(segmentationNode)
    except InputError as error:
        return str(error)
    return ""


def notOffered() -> list[str]:
    """Volumes of the scene that cannot be chosen, each with the reason."""
    scene = slicer.mrmlScene
    found = []
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLVolumeNode")
        if node.GetHideFromEditors() or node.GetClassName() == "vtkMRMLScalarVolumeNode":
            continue
        try:
            check_is_scalar_volume(node)
        except InputError as error:
            found.append(str(error))
    return found


def _compare(chosen: Mapping[str, Any], geometries: Mapping[str, Geometry]) -> tuple[str, list[str]]:
    """Why they do not fit each other, or how they do."""
    (first, reference), *others = geometries.items()
    differing = []
    for modality, geometry in others:
        if geometry.is_same_grid(reference):
            continue
        if geometry.reoriented(reference.orientation)[0].is_same_grid(reference):
            continue
        share = reference.overlap_fraction(geometry)
        if share < MINIMUM_OVERLAP:
            sentence = _(
                "{modality} ('{name}') covers only {share} of {first} ('{reference}'), {least} is needed: they show "
                "different places. Choose volumes of one examination, or register them first."
            )
            text = sentence.format(
                modality=modality.upper(), name=chosen[modality].GetName(), share=f"{share:.0%}", first=first.upper(),
                reference=chosen[first].GetName(), least=f"{MINIMUM_OVERLAP:.0%}",
            )
            return text, []
        differing.append(_resampled(modality, geometry, first, reference, share))
    if differing:
        sentence = _("The result gets the grid of {first}: {grid}.")
        return "", [sentence.format(first=first.upper(), grid=_grid(reference)), *differing]
    if others:
        return "", [_("All volumes fit together: {grid}.").format(grid=_grid(reference))]
    return "", [_("Grid: {grid}.").format(grid=_grid(reference))]


def _resampled(modality: str, geometry: Geometry, first: str, reference: Geometry, share: float) -> str:
    text = _("{modality} lies on another grid ({grid}) and is resampled onto that of {first}.").format(
        modality=modality.upper(), grid=_grid(geometry), first=first.upper()
    )
    if share < 0.995:
        text += " " + _("It covers {share} of it; the rest is taken as 0.").format(share=f"{share:.0%}")
    return text


def _grid(geometry: Geometry) -> str:
    voxels = " × ".join(str(count) for count in geometry.size_ijk)
    spacing = _("{lengths} mm").format(lengths=" × ".join(f"{length:.3g}" for length in geometry.spacing_ijk_mm))
    text = _("{voxels} voxels of {spacing}").format(voxels=_unbroken(voxels), spacing=_unbroken(spacing))
    tilt = geometry.obliqueness_degrees
    if tilt >= _TILTED_DEGREES:
        text += ", " + _("tilted by {degrees}°").format(degrees=f"{tilt:.0f}")
    return text


def _unbroken(text: str) -> str:
    """A text that no line ends within, so that no "mm" stands alone."""
    return text.replace(" ", "\u00a0")


def _strangers(chosen: Mapping[str, Any]) -> list[str]:
    """Volumes that seem to be of another examination than the reference."""
    reference, *others = chosen.values()
    sentence = _("'{name}' seems to be of another examination than '{reference}'.")
    return [
        sentence.format(name=node.GetName(), reference=reference.GetName())
        for node in others if not ofOneExamination(reference, node)
    ]  # fmt: skip


def _strangeNames(chosen: Mapping[str, Any]) -> list[str]:
    """Volumes whose names say another sequence than the one that they are chosen for."""
    table = ModalityTable.default().for_modalities(chosen)
    notes = []
    for modality, node in chosen.items():
        said = table.recognise(node.GetName() or "")
        if said in (None, modality):
            continue
        if said in (REFERENCE, OTHER):
            sentence = _("'{name}' is chosen for {modality}, but its name says that it is a mask or segmentation.")
        else:
            sentence = _("'{name}' is chosen for {modality}, but its name says {said}.")
        notes.append(sentence.format(name=node.GetName(), modality=modality.upper(), said=str(said).upper()))
    return notes
