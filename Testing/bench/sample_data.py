"""Stands in for Slicer's module SampleData: registering, and loading what was registered with its checksum."""

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

    def __init__(self, **fields):
        vars(self).update(fields)
        lists = (self.uris, self.fileNames, self.nodeNames, self.checksums, self.loadFileTypes)
        if len({len(one) for one in lists}) != 1:
            raise ValueError("All fields of sample data source must have the same length")


class SampleDataLogic:
    """Where data sets are registered and loaded."""

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom", sampleName=None, uris=None, fileNames=None, nodeNames=None, customDownloader=None,
        thumbnailFileName=None, loadFileTypes=None, loadFiles=None, loadFileProperties=None, checksums=None,
    ):
        known = slicer.modules.sampleDataSources.setdefault(category, [])
        if not any(source.sampleName == sampleName for source in known):
            known.append(SampleDataSource(
                sampleName=sampleName, uris=uris, fileNames=fileNames, nodeNames=nodeNames, checksums=checksums,
                thumbnailFileName=thumbnailFileName, loadFileTypes=loadFileTypes,
            ))

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
