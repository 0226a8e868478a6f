"""Between Slicer's nodes and ours: volume nodes → arrays on a Geometry, Segmentation ↔ segmentation node.

Everything outside this package lives in one world space. Slicer's nodes live under parent transforms, so a linear one
is hardened into the Geometry on the way in (the node keeps its own), and taken out again on the way back: the segments
lie under the same transform as the volume that they were found on, and move with it.

Works with `slicer-core` from the package registry and inside Slicer alike: MRML and VTK only, no Qt and no application;
`slicer` and `vtk` are imported when a function is called. Outside Slicer a `vtkSlicerSegmentationsModuleLogic` must
have been attached to the scene: it registers the conversion rules in which a segmentation keeps its reference geometry.
"""

from .labelmaps import Steps, grid_geometry, labelmap_in_parts, mask_to_labelmap, nearest_indices, world_to_node
from .segmentations import (
    BINARY_LABELMAP,
    check_takes_segments,
    describe_segment,
    node_to_segmentation,
    segment_mask,
    segmentation_to_node,
    segmentation_to_node_in_parts,
)
from .volumes import image_from_volume_nodes, read_volume_node, volume_node_geometry

__all__ = [
    "BINARY_LABELMAP",
    "Steps",
    "check_takes_segments",
    "describe_segment",
    "grid_geometry",
    "image_from_volume_nodes",
    "labelmap_in_parts",
    "mask_to_labelmap",
    "nearest_indices",
    "node_to_segmentation",
    "read_volume_node",
    "segment_mask",
    "segmentation_to_node",
    "segmentation_to_node_in_parts",
    "volume_node_geometry",
    "world_to_node",
]
