"""Stands in for Slicer's module SampleData: its sources, and loading what was registered with its checksum."""

from __future__ import annotations

import hashlib
import sys
import tempfile
import types
import urllib.request
from pathlib import Path

import slicer


class SampleDataSource:
    """One data set; all lists are as long as that of its addresses."""

    def __init__(
        self, sampleName=None, sampleDescription=None, uris=None, fileNames=None, nodeNames=None, checksums=None,
        loadFiles=None, customDownloader=None, thumbnailFileName=None, loadFileType=None, loadFileProperties=None,
    ):
        self.sampleName, self.sampleDescription = sampleName, sampleDescription or sampleName
        self.uris, self.fileNames, self.nodeNames, self.checksums = uris, fileNames, nodeNames, checksums
        self.thumbnailFileName, self.loadFileType = thumbnailFileName, loadFileType
        if len({len(one) for one in (uris, fileNames, nodeNames, checksums, loadFileType)}) != 1:
            raise ValueError("All fields of sample data source must have the same length")


class SampleDataLogic:
    """Where data sets are loaded."""

    def downloadSamples(self, name):
        """Fetch, compare and load with MRML's own reader."""
        sources = [source for known in slicer.modules.sampleDataSources.values() for source in known]
        source = next(source for source in sources if source.sampleName == name)
        with tempfile.TemporaryDirectory() as folder:
            return [self._load(Path(folder) / file, *rest) for file, *rest in
                    zip(source.fileNames, source.uris, source.nodeNames, source.checksums, strict=True)]

    def _load(self, path, uri, name, checksum):
        urllib.request.urlretrieve(uri, path)
        algorithm, _, digest = checksum.partition(":")
        if algorithm != "SHA256" or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(f"{uri} is not what was registered")
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(str(path))
        if not storage.ReadData(node):
            raise ValueError(f"{path} cannot be read as a volume")
        node.CreateDefaultDisplayNodes()
        return node


def install():
    """Under Slicer's name."""
    module = types.ModuleType("SampleData")
    module.SampleDataSource, module.SampleDataLogic = SampleDataSource, SampleDataLogic
    module.downloadSamples = lambda name: SampleDataLogic().downloadSamples(name)
    module.downloadSample = lambda name: SampleDataLogic().downloadSamples(name)[0]
    sys.modules["SampleData"] = module
    slicer.modules.sampleDataSources = {}
