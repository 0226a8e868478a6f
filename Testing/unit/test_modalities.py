from __future__ import annotations

import pytest

from BrainSegSAMLib.errors import InputError
from BrainSegSAMLib.modalities import OTHER, REFERENCE, ModalityTable

TABLE = ModalityTable.default()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FLAIR", "flair"),
        ("BraTS-GLI-00001-000-t2f", "flair"),
        ("T2-FLAIR", "flair"),
        ("T2_SPACE_FLAIR", "flair"),
        ("fla.nii.gz", "flair"),
        ("T1.nii.gz", "t1"),
        ("BraTS-GLI-00001-000-t1n", "t1"),
        ("sub-flair01_T1w", "t1"),
        ("T1-weighted", "t1"),
        ("T1_pre_contrast", "t1"),
        ("t1_postop", "t1"),
        ("T1 post-surgery", "t1"),
        ("KM_T1", "t1"),
        ("3: MPRAGE sagittal", "t1"),
        ("T1POST", "t1ce"),
        ("T1-POST", "t1ce"),
        ("t1+c", "t1ce"),
        ("T1_Gd", "t1ce"),
        ("BraTS2021_01476_t1ce", "t1ce"),
        ("sub-01_ce-gadolinium_run-02_T1w", "t1ce"),
        ("t1_mprage_sag_post-contrast", "t1ce"),
        ("t2f", "flair"),
        ("T2", "t2"),
        ("T2_SPACE", "t2"),
        ("x_t2w.nrrd", "t2"),
        ("dwi", "dwi"),
        ("ep2d_b1000", "dwi"),
        ("dwi_b1000", "dwi"),
        ("TRACEW", "dwi"),
        ("dwi_b0", "b0"),
        ("ADC", "adc"),
        ("swi", "swi"),
        ("TOF_MRA", "tof"),
        ("mra", "tof"),
        ("PDw", "pd"),
        ("flair_to_t1", "flair"),
        ("sub-01_space-T1w_FLAIR", "flair"),
        ("t1_t2", None),
        ("case_0000", None),
        ("brain1_image", None),
        ("GOLD_STANDARD", REFERENCE),
        ("BraTS2021_01476_seg", REFERENCE),
        ("flair_lesion_mask", REFERENCE),
        ("labels", REFERENCE),
        ("sub-strokecase0009_ses-0001_msk", REFERENCE),
        ("T1_brain_mask", OTHER),
        ("brainmask", OTHER),
        ("", None),
    ],
)
def test_names_tell_modalities(name, expected):
    assert TABLE.recognise(name) == expected


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("BraTS2021_01476_flair", "BraTS2021_01476"),
        ("BraTS-GLI-00001-000-t1c", "BraTS-GLI-00001-000"),
        ("flair_Patient.7", "Patient.7"),
        ("p1_T1_post_2", "p1_2"),
        ("T1", ""),
        ("GOLD_STANDARD", ""),
        ("p1_seg", "p1"),
    ],
)
def test_what_else_a_name_says(name, rest):
    assert TABLE.without_modality(name) == rest


def test_every_alias_is_recognised_as_what_it_stands_for():
    for alias, meaning in TABLE.aliases.items():
        assert TABLE.recognise(f"case7_{alias}.nii.gz") == meaning, alias


def test_a_user_adds_names():
    table = TABLE.extended({"t1ce": ["T1 mit KM"], "asl": ["cbf", "perfusion"]})
    assert table.recognise("patient7_t1-mit-km") == "t1ce"
    assert table.recognise("CBF") == "asl"
    assert table.recognise("asl") == "asl"
    assert TABLE.recognise("CBF") is None
    assert table.extended({"t2": ["fla"]}).recognise("fla") == "t2"
    with pytest.raises(InputError, match="no letter or digit"):
        TABLE.extended({"t1": ["--"]})


def test_a_model_may_call_its_inputs_as_it_likes():
    table = TABLE.for_modalities(["T1c", "MRI", "T2-FLAIR"])
    assert table.recognise("x_t1gd") == "T1c"
    assert table.recognise("sub-1_ce-gd_T1w") == "T1c"
    assert table.recognise("fla") == "T2-FLAIR"
    assert table.recognise("mri_7") == "MRI"
    assert table.recognise("t1") == "t1"
