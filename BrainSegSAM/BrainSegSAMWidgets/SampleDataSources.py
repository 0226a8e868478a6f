"""The case that Slicer's Sample Data module offers: it ships with the extension, so that it needs no server."""

from __future__ import annotations

import json

import slicer

from BrainSegSAMLib.resources import resource_path

CATEGORY = "BrainSegSAM"


def registerSampleData() -> None:
    """Tell Slicer's Sample Data module of our cases, once; nothing where that module is not loaded."""
    try:
        import SampleData
    except ImportError:  # a user may have switched it off
        return
    if not hasattr(slicer.modules, "sampleDataSources"):
        slicer.modules.sampleDataSources = {}
    sources = slicer.modules.sampleDataSources.setdefault(CATEGORY, [])
    known = [source.sampleName for source in sources]
    folder = resource_path("SampleData")
    for sample in json.loads((folder / "samples.json").read_text(encoding="utf-8")):
        files = sample["files"]
        source = SampleData.SampleDataSource(
            sampleName=sample["name"],
            sampleDescription=sample["title"],  # what its button says
            uris=[(folder / entry["file"]).resolve().as_uri() for entry in files],
            fileNames=[entry["file"] for entry in files],
            nodeNames=[entry["node"] for entry in files],
            checksums=[f"SHA256:{entry['sha256']}" for entry in files],
            loadFileType=["VolumeFile"] * len(files),
            thumbnailFileName=str(folder / sample["thumbnail"]),
        )
        if source.sampleName not in known:
            sources.append(source)
