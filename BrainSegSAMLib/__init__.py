"""Brain-MRI segmentation with nnU-Net v2 and the Segment Anything family, without any user interface.

The package imports neither Slicer, nor Qt, nor torch, nor SimpleITK; each is loaded by the function that needs it.
"""

__version__ = "0.1.0"
