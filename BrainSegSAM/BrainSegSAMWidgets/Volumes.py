"""The scene's volumes: which shows which MR sequence, choosing one, and handing them to the worker."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from BrainSegSAMLib import mrml, wire
from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.modalities import ModalityTable

_PART = 1 << 19  # voxels that are copied at once
_TURN_S = 0.01  # of copying, before the interface has its turn
_PLANES = {"ax", "axial", "tra", "sag", "sagittal", "cor", "coronal", "2d", "3d"}  # say nothing of the patient


def volumesByModality(modalities: Iterable[str]) -> dict[str, list[Any]]:
    """MR sequence → the volumes of the scene whose names say it; those that say none of these stand under ""."""
    table = ModalityTable.default().for_modalities(tuple(modalities))
    found: dict[str, list[Any]] = {}
    scene = slicer.mrmlScene
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLScalarVolumeNode")
        if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors():
            found.setdefault(table.recognise(node.GetName() or "") or "", []).append(node)
    return found


def ofOneExamination(*nodes: Any) -> bool:
    """Whether volumes may be of one examination, by their studies and patients, or else by how their names begin.

    Names are compared before what says the sequence: "sub-07_flair" and "sub-08_t1" are of two; "t1" says nothing.
    """
    return all(_mayBelongTogether(one, other) for one, other in itertools.combinations(nodes, 2))


def _mayBelongTogether(one: Any, other: Any) -> bool:
    for level in ("Study", "Patient"):
        first, second = _ancestor(one, level), _ancestor(other, level)
        if first and second:
            return first == second
    return all(first == second for first, second in zip(_beginning(one), _beginning(other), strict=False))


def _ancestor(node: Any, level: str) -> int:
    """Item of the subject hierarchy that a volume lies under; 0 for none."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = tree.GetItemByDataNode(node)  # none yet for a node that is just being added
    return int(tree.GetItemAncestorAtLevel(item, level)) if item else 0


def _beginning(node: Any) -> list[str]:
    """Words of a volume's name before what says its sequence."""
    words = re.findall(r"[a-z0-9+]+", (node.GetName() or "").lower())
    table = ModalityTable.default()
    known = [index for index, word in enumerate(words) if table.recognise(word) is not None]
    return [word for word in words[: known[0] if known else None] if word not in _PLANES]


def volumeSelector(modality: str) -> Any:
    """A widget that chooses the volume of one MR sequence."""
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.showChildNodeTypes = False
    selector.noneEnabled = True
    selector.addEnabled = False
    selector.removeEnabled = False
    selector.setMRMLScene(slicer.mrmlScene)
    selector.toolTip = _("The volume with the {modality} sequence.").format(modality=modality.upper())
    return selector


class VolumeReader:
    """Copies volumes into shared memory, a part at a time, so that the interface never stands still.

    Args:
        volumes: modality → volume node.
        changed: a sentence with {name} for a volume that was changed or removed meanwhile.

    Attributes:
        channels: modality → {"array": `wire.Shared`, float32 or small integers (z, y, x); "geometry": of its voxels, in
            world space; "name"}, for a message; the caller sends them, or frees them with `free`.
    """

    def __init__(self, volumes: Mapping[str, Any], changed: str) -> None:
        self.channels: dict[str, dict[str, Any]] = {}
        self._changed = changed
        self._parts = self._copy(volumes)

    def proceed(self) -> bool:
        """Copy for a moment; whether all is copied.

        Raises:
            InputError, GeometryError: where a volume cannot be used, or was changed; or there is not enough memory.
        """
        until = time.monotonic() + _TURN_S
        return all(time.monotonic() < until for _part in self._parts)

    def free(self) -> None:
        """Give the memory back, where nothing was sent."""
        for channel in self.channels.values():
            channel["array"].free()
        self.channels = {}

    def _copy(self, volumes: Mapping[str, Any]) -> Iterator[None]:
        for modality, node in volumes.items():
            geometry = mrml.volume_node_geometry(node)
            image = node.GetImageData()
            modified = image.GetMTime()
            voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(-1)
            # Scanners' short integers go as they are: half the memory, and half the time.
            kind = voxels.dtype if voxels.dtype.itemsize < np.dtype(np.float32).itemsize else np.float32
            shared = wire.Shared(geometry.shape_zyx, kind, in_parts=True)
            self.channels[modality] = {
                "array": shared, "geometry": wire.geometry_data(geometry), "name": node.GetName() or node.GetID()
            }
            for start in range(0, voxels.size, _PART):
                yield
                if node.GetScene() is None or node.GetImageData() is not image or image.GetMTime() != modified:
                    raise InputError(self._changed.format(name=node.GetName()))
                with np.errstate(over="ignore"):  # the worker refuses what becomes infinite
                    shared.put(start, voxels[start : start + _PART])
