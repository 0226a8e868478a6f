from __future__ import annotations

import json

import pytest

from BrainSegSAMLib.errors import InputError, ModelError
from BrainSegSAMLib.labels import Code, LabelScheme, Region, Terminology

LESION = Code("SCT", "49755003", "Morphologically Altered Structure")
NEOPLASM = Code("SCT", "86049000", "Neoplasm, Primary")
BRAIN = Code("SCT", "12738006", "Brain")
SCHEME = LabelScheme(
    (
        Region("Whole tumour", (1, 2, 3), (255, 120, 1), Terminology(LESION, NEOPLASM, BRAIN)),
        Region("Tumour core", (1, 3), (0, 17, 254), Terminology(LESION, NEOPLASM)),
        Region("Edema", (2,), (9, 8, 7)),
    )
)


@pytest.mark.parametrize("terminology", [Terminology(LESION, NEOPLASM, BRAIN), Terminology(LESION, NEOPLASM)])
def test_slicers_string_comes_back(terminology):
    entry = terminology.slicer_entry()
    assert entry.startswith("Segmentation category and type - DICOM master list~SCT^49755003^Morphologically Altered")
    assert entry.count("~") == 6
    assert Terminology.from_slicer_entry(entry) == terminology
    assert Terminology.from_slicer_entry(entry + "|") == terminology


@pytest.mark.parametrize("entry", ["", "a~b", "context~^^~SCT^1^x~^^", "context~SCT^1^x~^^~^^"])
def test_a_string_without_category_or_type_is_none(entry):
    assert Terminology.from_slicer_entry(entry) is None


def test_slicers_own_default_entry_is_read():
    entry = (
        "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^"
        "~Anatomic codes - DICOM master list~^^~^^|"
    )
    tissue = Code("SCT", "85756007", "Tissue")
    assert Terminology.from_slicer_entry(entry) == Terminology(tissue, tissue)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((" ", (1,), (0, 0, 0)), "needs a name"),
        (("a", (), (0, 0, 0)), "at least one label"),
        (("a", (0,), (0, 0, 0)), "each 1 or more"),
        (("a", (1,), (0, 0)), "three numbers"),
        (("a", (1,), (0, 0, 256)), "three numbers"),
    ],
)
def test_regions_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        Region(*arguments)


def test_schemes_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="at least one region"):
        LabelScheme(())
    with pytest.raises(InputError, match="must differ, but they are: a, a"):
        LabelScheme((Region("a", (1,), (0, 0, 0)), Region("a", (2,), (0, 0, 0))))


def test_regions_are_found_by_name():
    assert SCHEME["Edema"].labels == (2,)
    assert SCHEME.names == ("Whole tumour", "Tumour core", "Edema")
    assert SCHEME.overlapping
    with pytest.raises(InputError, match="no region 'x'; there are: Whole tumour, Tumour core, Edema"):
        SCHEME["x"]


def test_plain_labels():
    scheme = LabelScheme.plain({f"l{value}": value for value in range(1, 10)})
    assert not scheme.overlapping
    assert [region.labels for region in scheme.regions] == [(value,) for value in range(1, 10)]
    assert len({region.colour_rgb for region in scheme.regions[:7]}) == 7


def test_a_scheme_survives_json():
    assert LabelScheme.from_list(json.loads(json.dumps(SCHEME.as_list()))) == SCHEME


def test_an_entry_without_a_colour_gets_one():
    scheme = LabelScheme.from_list([{"name": "a", "labels": [1]}])
    assert scheme["a"].colour_rgb == LabelScheme.plain({"a": 1})["a"].colour_rgb


@pytest.mark.parametrize("entry", [{"labels": [1]}, {"name": "a"}, {"name": "a", "labels": 1}])
def test_an_entry_that_lacks_something_is_refused(entry):
    with pytest.raises(ModelError, match="list of regions cannot be read"):
        LabelScheme.from_list([entry])
