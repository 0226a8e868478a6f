from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from BrainSegSAMLib.cases import Case, find_cases, load_image, read_modality_table
from BrainSegSAMLib.errors import GeometryError, InputError
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.itk import image_of
from BrainSegSAMLib.modalities import ModalityTable

FOUR = ("flair", "t1", "t1ce", "t2")


@pytest.fixture
def make(tmp_path):
    """Makes volumes whose every voxel is `value` (by default the order in which they were made); returns the folder."""

    def volumes(*names, grid=None, value=None):
        grid = grid or Geometry.axis_aligned((4, 5, 6))
        for number, name in enumerate(names):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            array = np.full(grid.shape_zyx, number if value is None else value, np.float32)
            sitk.WriteImage(image_of(array, grid), str(path))
        return tmp_path

    return volumes


def files_of(case):
    return {modality: path.name for modality, path in case.modalities.items()}


# ---- layouts -------------------------------------------------------------------------------------------------------


def test_one_case_folder(make):
    folder = make("p7/FLAIR.nii.gz", "p7/T1.nrrd", "p7/T1POST.mha", "p7/T2.nii", "p7/GOLD_STANDARD.nii.gz") / "p7"
    (case,) = find_cases(folder, modalities=FOUR)
    assert case.case_id == case.patient == "p7"
    assert files_of(case) == {"flair": "FLAIR.nii.gz", "t1": "T1.nrrd", "t1ce": "T1POST.mha", "t2": "T2.nii"}
    assert case.reference == folder / "GOLD_STANDARD.nii.gz"
    assert not case.problem


def test_the_current_folder_has_a_name(make, monkeypatch):
    monkeypatch.chdir(make("p7/t1.nii.gz") / "p7")
    assert find_cases(Path(), modalities=["t1"])[0].case_id == "p7"


def test_a_folder_of_case_folders(make):
    folder = make("b/x_t1.nii.gz", "a/y_t1w.nii.gz", "a/.hidden_t1.nii.gz", ".trash/t1.nii.gz")
    cases = find_cases(folder, modalities=["t1"])
    assert [(case.case_id, files_of(case)) for case in cases] == [
        ("a", {"t1": "y_t1w.nii.gz"}),
        ("b", {"t1": "x_t1.nii.gz"}),
    ]


def test_several_cases_side_by_side(make):
    names = [f"BraTS2021_0{n}_{m}.nii.gz" for n in (1476, 1477) for m in (*FOUR, "seg")]
    cases = find_cases(make(*names), modalities=FOUR)
    assert [case.case_id for case in cases] == ["BraTS2021_01476", "BraTS2021_01477"]
    assert [case.reference.name for case in cases] == ["BraTS2021_01476_seg.nii.gz", "BraTS2021_01477_seg.nii.gz"]
    assert all(set(case.modalities) == set(FOUR) for case in cases)


def test_brats_2023_names_tell_the_patient(make):
    names = [f"BraTS-GLI-00001-{n}-{m}.nii.gz" for n in ("000", "001") for m in ("t2f", "t1n", "t1c", "t2w")]
    cases = find_cases(make(*names), modalities=FOUR)
    assert [case.case_id for case in cases] == ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001"]
    assert {case.patient for case in cases} == {"BraTS-GLI-00001"}


def test_single_images_of_a_model_with_one_modality_are_a_case_each(make):
    folder = make("brain1_image.nrrd", "brain1_label.nrrd", "brain2_image.nrrd", "brain2_label.nrrd")
    cases = find_cases(folder, modalities=["t1ce"])
    assert [(case.case_id, case.reference.name) for case in cases] == [
        ("brain1_image", "brain1_label.nrrd"),
        ("brain2_image", "brain2_label.nrrd"),
    ]
    assert [files_of(case) for case in cases] == [{"t1ce": "brain1_image.nrrd"}, {"t1ce": "brain2_image.nrrd"}]


def test_numbered_single_images_are_no_channels(make):
    folder = make("patient_0001.nii.gz", "patient_0002.nii.gz")
    assert [case.case_id for case in find_cases(folder, modalities=["mri"])] == ["patient_0001", "patient_0002"]


def test_a_single_file(make):
    path = make("scan7.nii.gz") / "scan7.nii.gz"
    (case,) = find_cases(path, modalities=["t1"])
    assert (case.case_id, case.modalities) == ("scan7", {"t1": path})
    with pytest.raises(InputError, match=r"'scan7': modality 'flair' was not found among scan7\.nii\.gz \(not recog"):
        find_cases(path, modalities=FOUR)


def test_an_image_of_another_modality_is_not_taken_for_the_one_needed(make):
    with pytest.raises(InputError, match=r"'t1' was not found among flair\.nii\.gz \(flair\)"):
        find_cases(make("flair.nii.gz"), modalities=["t1"])


def test_nnunet_folder(make):
    make(*[f"labelsTs/g_{n}.nii.gz" for n in "12"])
    folder = make(*[f"imagesTs/g_{n}_000{c}.nii.gz" for n in "12" for c in range(4)]) / "imagesTs"
    cases = find_cases(folder, modalities=FOUR)
    assert [case.case_id for case in cases] == ["g_1", "g_2"]
    assert files_of(cases[1]) == dict(zip(FOUR, [f"g_2_000{c}.nii.gz" for c in range(4)], strict=True))
    assert cases[1].reference == folder.parent / "labelsTs" / "g_2.nii.gz"


def test_nnunet_folder_with_a_missing_and_a_surplus_channel(make):
    folder = make("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0002.nii.gz")
    first, second = find_cases(folder, modalities=["t1", "t2"])
    assert not first.problem
    assert "'t2' was not found among b_0000.nii.gz (t1), b_0002.nii.gz (not recognised)" in second.problem


def test_bids(make):
    folder = make(
        "sub-01/ses-1/anat/sub-01_ses-1_acq-iso_run-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_ce-gadolinium_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
        "sub-01/ses-1/dwi/sub-01_ses-1_dwi.nii.gz",
        "sub-01/ses-1/func/sub-01_ses-1_task-t1_bold.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-flair/anat/sub-flair_T1w.nii.gz",
        "derivatives/seg/sub-01/anat/sub-01_T1w.nii.gz",
    )
    cases = find_cases(folder, modalities=["t1"])
    assert [(case.case_id, case.patient) for case in cases] == [
        ("sub-01_ses-1", "sub-01"),
        ("sub-01_ses-2", "sub-01"),
        ("sub-flair", "sub-flair"),
    ]
    assert set(cases[0].modalities) == {"t1", "t1ce", "t2", "flair", "dwi"}
    assert cases[0].modalities["t1ce"].name == "sub-01_ses-1_ce-gadolinium_T1w.nii.gz"
    assert [case.case_id for case in find_cases(folder / "sub-flair", modalities=["t1"])] == ["sub-flair"]
    assert [bool(case.problem) for case in find_cases(folder, modalities=FOUR)] == [False, True, True]


def test_manifest(make):
    make("data/a.nii.gz", "data/b.nii.gz", "data/a_truth.nii.gz")
    folder = make("elsewhere/c.nii.gz")
    table = folder / "data" / "cases.csv"
    table.write_text(
        "\ufeffcase_id;patient;T1 post;FLAIR;age;reference\n"
        f"one;P1;a.nii.gz;b.nii.gz;70;a_truth.nii.gz\ntwo;;{folder / 'elsewhere' / 'c.nii.gz'};b.nii.gz;;\n",
        encoding="utf-8",
    )
    one, two = find_cases(table, modalities=["t1ce", "flair"])
    assert one.modalities == {"t1ce": folder / "data/a.nii.gz", "flair": folder / "data/b.nii.gz"}
    assert (one.patient, one.reference) == ("P1", folder / "data/a_truth.nii.gz")
    assert (two.patient, two.reference) == ("two", None)
    assert two.modalities["t1ce"] == folder / "elsewhere/c.nii.gz"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,t1\na,a.nii.gz\n", "needs the column case_id .* name, t1"),
        ("case_id,t1\n", "needs the column case_id and at least one row"),
        ("", "its columns are: none"),
        ("case_id,t1\na,a.nii.gz\na,a.nii.gz\n", "case id 'a' 2 times"),
        ("case_id,t1\n../a,a.nii.gz\n", "'../a' cannot name a file"),
        ("case_id,t1\n,a.nii.gz\n", "'' cannot name a file"),
        ("case_id,t1,T1w\na,a.nii.gz,a.nii.gz\n", "'t1' is ambiguous: .*column 't1'.* and .*column 'T1w'"),
        ("case_id,t1\na,missing.nii.gz\n", r"missing\.nii\.gz \(t1\) does not exist"),
        ("case_id,t2\na,a.nii.gz\n", r"'t1' was not found among a\.nii\.gz \(column 't2'\) \(t2\)"),
        ("case_id,t1\na\n", "Case 'a' contains no volumes"),
        ('case_id,t1\na,"a.nii.gz\n', "cannot be read as a table"),
    ],
)
def test_manifests_that_cannot_be_used(text, words, make):
    table = make("a.nii.gz") / "cases.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=words):
        find_cases(table, modalities=["t1"])


def test_a_manifest_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "cases.csv").write_bytes("case_id,t1\nMüller,a.nii.gz\n".encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read as a table"):
        find_cases(tmp_path / "cases.csv", modalities=["t1"])


# ---- what makes a case unusable ------------------------------------------------------------------------------------


def test_a_missing_modality_lists_what_was_found(make):
    folder = make("x/a_flair.nii.gz", "x/b.nii.gz") / "x"
    with pytest.raises(InputError) as caught:
        find_cases(folder, modalities=["flair", "t1ce"])
    assert str(caught.value).startswith(
        "Case 'x': modality 't1ce' was not found among a_flair.nii.gz (flair), b.nii.gz (not recognised)."
    )


@pytest.mark.parametrize(
    "names",
    [
        ("T1.nii.gz", "T1.nrrd", "T2.nii.gz"),
        ("p_T1.nii.gz", "p_T1_2.nii.gz", "p_T2.nii.gz"),
        ("T1.nii", "T1_b.nii", "T2.nii"),
    ],
)
def test_two_files_for_one_modality_are_ambiguous(names, make):
    with pytest.raises(InputError, match=f"'t1' is ambiguous: {names[0]} and {names[1]}"):
        find_cases(make(*[f"x/{name}" for name in names]) / "x", modalities=["t1", "t2"])


def test_one_bad_case_does_not_stop_the_others(make):
    folder = make("a/t1.nii.gz", "b/flair.nii.gz", "c/t1.nii.gz")
    (folder / "empty").mkdir()
    cases = find_cases(folder, modalities=["t1"])
    assert [bool(case.problem) for case in cases] == [False, True, False, True]
    assert cases[3].problem == "Case 'empty' contains no volumes."
    with pytest.raises(InputError, match="'b': modality 't1' was not found"):
        load_image(cases[1], ["t1"])


def test_a_folder_in_which_no_case_can_be_used_is_an_error(make):
    with pytest.raises(InputError, match=r"'a': modality 't1' was not found.*The other 1 cases cannot"):
        find_cases(make("a/flair.nii.gz", "b/flair.nii.gz"), modalities=["t1"])


def test_sources_without_volumes(tmp_path):
    with pytest.raises(InputError, match="missing does not exist"):
        find_cases(tmp_path / "missing", modalities=["t1"])
    with pytest.raises(InputError, match="contains no volumes"):
        find_cases(tmp_path, modalities=["t1"])
    (tmp_path / "a").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="contains no volumes"):
        find_cases(tmp_path, modalities=["t1"])
    with pytest.raises(InputError, match=r"notes\.txt is neither a folder, nor a volume, nor a CSV"):
        find_cases(tmp_path / "notes.txt", modalities=["t1"])


def test_a_folder_that_cannot_be_listed_is_named(make, monkeypatch):
    folder = make("x/t1.nii.gz") / "x"

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match="x cannot be read: Permission denied"):
        find_cases(folder, modalities=["t1"])


def test_two_references_are_none(make):
    (case,) = find_cases(make("x/t1.nii.gz", "x/seg.nii.gz", "x/lesion.nii.gz") / "x", modalities=["t1"])
    assert case.reference is None


# ---- names ---------------------------------------------------------------------------------------------------------


def test_names_from_a_users_table(make, tmp_path):
    folder = make("x/t1 mit KM.nii.gz", "x/cbf.nii.gz") / "x"
    (tmp_path / "names.json").write_text(json.dumps({"t1ce": ["t1 mit km"], "asl": ["cbf"]}))
    (case,) = find_cases(folder, modalities=["t1ce", "asl"], table=read_modality_table(tmp_path / "names.json"))
    assert files_of(case) == {"t1ce": "t1 mit KM.nii.gz", "asl": "cbf.nii.gz"}


@pytest.mark.parametrize("content", ["[]", '{"t1": "x"}', '{"t1": [1]}'])
def test_a_table_of_another_form_is_refused(content, tmp_path):
    (tmp_path / "names.json").write_text(content)
    with pytest.raises(InputError, match=r"names\.json is not a table of modality names"):
        read_modality_table(tmp_path / "names.json")


def test_the_models_own_names_are_used(make):
    (case,) = find_cases(make("x/a_t1gd.nii.gz", "x/a_fla.nii.gz") / "x", modalities=["T1c", "T2-FLAIR"])
    assert files_of(case) == {"T1c": "a_t1gd.nii.gz", "T2-FLAIR": "a_fla.nii.gz"}


def test_a_given_table_is_used(make):
    table = ModalityTable({}).extended({"t1": []})
    with pytest.raises(InputError, match=r"t1w\.nii\.gz \(not recognised\), t2\.nii\.gz \(t2\)"):
        find_cases(make("x/t1w.nii.gz", "x/t2.nii.gz") / "x", modalities=["t1", "t2"], table=table.extended({"t2": []}))


# ---- DICOM ---------------------------------------------------------------------------------------------------------


def write_series(folder, description, uid, value):
    """A small DICOM series, written by SimpleITK."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(4):
        image = sitk.Image([6, 5, 1], sitk.sitkUInt16) + value
        for tag, text in {
            "0008|0060": "MR",
            "0008|103e": description,
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0008|0018": f"{uid}.{k + 1}",
            "0020|0032": f"0\\0\\{2 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k + 1),
        }.items():
            image.SetMetaData(tag, text)
        writer.SetFileName(str(folder / f"{uid}.{k}.dcm"))
        writer.Execute(image)


def test_dicom_folders_named_by_modality(tmp_path):
    write_series(tmp_path / "p1" / "T1", "localizer", "1.2.1", 1)
    write_series(tmp_path / "p1" / "scan2", "T2 FLAIR axial", "1.2.2", 2)
    for source in (tmp_path, tmp_path / "p1"):
        (case,) = find_cases(source, modalities=["t1", "flair"])
        assert case.case_id == "p1"
        assert files_of(case) == {"t1": "T1", "flair": "scan2"}
        image, actions = load_image(case, ["t1", "flair"])
        assert [float(image.channels[name].mean()) for name in ("t1", "flair")] == [1, 2]
        assert not actions


def test_dicom_series_in_one_folder_are_told_apart_by_their_descriptions(tmp_path):
    write_series(tmp_path / "p1", "T1 MPRAGE", "1.2.1", 1)
    write_series(tmp_path / "p1", "T2 FLAIR axial", "1.2.2", 2)
    (case,) = find_cases(tmp_path / "p1", modalities=["flair", "t1"])
    image, _ = load_image(case, ["flair", "t1"])
    assert [float(image.channels[name].mean()) for name in ("flair", "t1")] == [2, 1]
    with pytest.raises(InputError, match=r"'t2' was not found among series '.*' .*, series '.*'"):
        find_cases(tmp_path / "p1", modalities=["t2"])


def test_one_dicom_series_for_a_model_with_one_modality(tmp_path):
    write_series(tmp_path / "scan", "axial 3", "1.2.1", 5)
    (case,) = find_cases(tmp_path / "scan", modalities=["t1"])
    assert load_image(case, ["t1"])[0].channels["t1"].mean() == 5


# ---- loading -------------------------------------------------------------------------------------------------------


def test_channels_come_in_the_order_asked_for(make):
    (case,) = find_cases(make(*[f"x/{name}.nii.gz" for name in FOUR]) / "x", modalities=FOUR)
    image, actions = load_image(case, ["t2", "flair"])
    assert image.modalities == ("t2", "flair")
    assert [float(array.mean()) for array in image.channels.values()] == [3, 0]
    assert image.name == "x"
    assert not actions
    with pytest.raises(InputError, match="Case 'x' has no dwi; it has flair, "):
        load_image(case, ["dwi"])


def test_grids_that_differ_are_brought_onto_the_reference(make):
    make("x/flair.nii.gz", value=3)
    fine = Geometry.axis_aligned((8, 10, 12), (0.5, 0.5, 0.5), (-0.25, -0.25, -0.25))
    folder = make("x/t1.nii.gz", grid=fine, value=7) / "x"
    (case,) = find_cases(folder, modalities=["flair", "t1"])
    image, actions = load_image(case, ["flair", "t1"])
    assert image.geometry.is_same_grid(Geometry.axis_aligned((4, 5, 6)))
    np.testing.assert_allclose(image.channels["t1"], 7)
    assert len(actions) == 1
    assert actions[0].startswith("t1 (t1.nii.gz): resampled linearly onto the grid of flair (12×10×8 against 6×5×4 vox")
    image, actions = load_image(case, ["flair", "t1"], reference="t1")
    assert image.geometry.is_same_grid(fine)
    assert image.modalities == ("flair", "t1")
    assert actions[0].startswith("flair (flair.nii.gz): resampled")


def test_images_of_different_places_are_refused(make):
    make("x/flair.nii.gz")
    folder = make("x/t1.nii.gz", grid=Geometry.axis_aligned((4, 5, 6), origin_lps_mm=(5, 0, 0))) / "x"
    (case,) = find_cases(folder, modalities=["flair", "t1"])
    with pytest.raises(GeometryError, match=r"t1 \(t1\.nii\.gz\) covers only \d+% of the grid of flair"):
        load_image(case, ["flair", "t1"])


def test_a_file_that_cannot_be_read_is_named(make):
    folder = make("x/t1.nii.gz") / "x"
    (folder / "t1.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"x.t1\.nii\.gz is empty"):
        load_image(find_cases(folder, modalities=["t1"])[0], ["t1"])


def test_a_case_made_by_hand(make):
    path = make("anything.nii.gz", value=4) / "anything.nii.gz"
    image, _ = load_image(Case("c", {"t1": path}), ["t1"])
    assert image.channels["t1"].mean() == 4


# ---- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "modalities", "count"),
    [
        ("glioma", FOUR, 8),
        ("ms", ("flair", "t1", "t1ce", "t2"), 1),
        ("stroke", ("dwi", "adc"), 2),
        ("deep_gray", ("t1",), 4),
        ("tof", ("tof",), 1),
        ("tumour_single_modality", ("t1ce",), 2),
    ],
)
def test_real_folders(folder, modalities, count, shared_data):
    cases = find_cases(shared_data / folder, modalities=modalities)
    assert len(cases) == count
    assert not any(case.problem for case in cases)
    assert all(case.reference for case in cases if "unlabelled" not in case.case_id)


def test_real_cases_side_by_side(shared_data, tmp_path):
    for name in ("BraTS2021_01476", "BraTS2021_01477"):
        for path in (shared_data / "glioma" / name).iterdir():
            shutil.copy(path, tmp_path)
    cases = find_cases(tmp_path, modalities=FOUR)
    assert [case.case_id for case in cases] == ["BraTS2021_01476", "BraTS2021_01477"]
    assert all(case.reference for case in cases)


def test_a_real_flair_on_its_own_grid_lands_on_the_diffusion_image(shared_data):
    (case,) = find_cases(shared_data / "stroke" / "sub-strokecase0009", modalities=["dwi", "adc", "flair"])
    image, actions = load_image(case, ["dwi", "adc", "flair"])
    assert len(actions) == 1
    assert "512×512×29 against 112×112×73" in actions[0]
    moving, fixed = (sitk.ReadImage(str(case.modalities[name]), sitk.sitkFloat32) for name in ("flair", "dwi"))
    oracle = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, 0.0))
    np.testing.assert_allclose(image.channels["flair"], oracle, atol=1e-4 * float(oracle.max()))
