"""The case that Slicer's Sample Data module offers: it ships with the extension, so that it needs no server."""

from __future__ import annotations

import json

from BrainSegSAMLib.resources import resource_path

CATEGORY = "BrainSegSAM"


def registerSampleData() -> None:
    """Tell Slicer's Sample Data module of our cases; called once, when Slicer has started."""
    import SampleData

    folder = resource_path("SampleData")
    for sample in json.loads((folder / "samples.json").read_text(encoding="utf-8")):
        files = sample["files"]
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=sample["name"],
            uris=[(folder / entry["file"]).resolve().as_uri() for entry in files],
            fileNames=[entry["file"] for entry in files],
            nodeNames=[entry["node"] for entry in files],
            checksums=[f"SHA256:{entry['sha256']}" for entry in files],
            loadFileTypes=["VolumeFile"] * len(files),
            thumbnailFileName=str(folder / sample["thumbnail"]),
        )
