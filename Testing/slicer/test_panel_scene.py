"""The panel and the scene: what was chosen is kept, comes back, and is never replaced by something else in silence."""

from __future__ import annotations

import shutil

import pytest

pytestmark = pytest.mark.usefixtures("no_installing")


def chosen(widget):
    """Modality → name of the volume that the panel shows."""
    nodes = {name: selector.currentNode() for name, selector in widget.panel.predict.inputSelectors.items()}
    return {name: node.GetName() if node is not None else None for name, node in nodes.items()}


def kept(widget, modalities=("flair", "t1ce")):
    """Modality → name of the volume that the scene keeps."""
    node = widget.logic.getParameterNode().parameterNode
    nodes = {name: node.GetNodeReference(f"Input.{name}") for name in modalities}
    return {name: node.GetName() if node is not None else None for name, node in nodes.items()}


def settle(bench):
    bench.wait_until(lambda: False, seconds=0.05)


@pytest.fixture
def choose(widget, volume, bench):
    """The user's own choice: volumes whose names say nothing, beside others whose names do."""
    own = {"flair": volume("series 1"), "t1ce": volume("series 2", seed=1)}
    for name, node in own.items():
        widget.panel.predict.inputSelectors[name].setCurrentNode(node)
    volume("p_flair", seed=2)
    volume("p_t1ce", seed=3)
    settle(bench)
    return own


OWN = {"flair": "series 1", "t1ce": "series 2"}


# ---- inputs


def test_own_choice_survives_that_the_panel_is_made_anew(widget, choose, open_panel, bench):
    assert kept(widget) == OWN
    widget.exit()
    widget.cleanup()
    again = open_panel()
    settle(bench)
    assert chosen(again) == OWN
    assert kept(again) == OWN


def test_own_choice_survives_another_model(widget, choose, models, bench):
    add_model(models, "second", modalities=("t1ce", "flair", "t2"))
    widget.panel.predict.fillModels()
    widget.panel.predict.chooseModel("second")
    settle(bench)
    assert chosen(widget) == {"t1ce": "series 2", "flair": "series 1", "t2": None}
    widget.panel.predict.chooseModel("toy")
    settle(bench)
    assert chosen(widget) == kept(widget) == OWN


def test_a_volume_that_the_user_took_out_stays_out(widget, volume, bench, scene):
    flair = volume("a_flair")
    settle(bench)
    widget.panel.predict.inputSelectors["flair"].setCurrentNode(None)
    volume("a_t1ce")
    settle(bench)
    assert chosen(widget) == {"flair": None, "t1ce": "a_t1ce"}
    scene.RemoveNode(flair)
    volume("a_flair")
    settle(bench)
    assert chosen(widget) == {"flair": "a_flair", "t1ce": "a_t1ce"}


def test_volumes_of_two_patients_are_not_mixed(widget, volume, bench):
    volume("a_flair")
    volume("b_t1ce")
    settle(bench)
    assert chosen(widget) == {"flair": None, "t1ce": None}
    volume("b_flair")
    settle(bench)
    assert chosen(widget) == {"flair": "b_flair", "t1ce": "b_t1ce"}  # the only one that is complete
    volume("a_t1ce")
    settle(bench)
    assert chosen(widget) == {"flair": "b_flair", "t1ce": "b_t1ce"}


def test_what_is_filled_in_goes_with_what_is_chosen(widget, volume, bench):
    for name in ("a_flair", "a_t1ce", "b_flair", "b_t1ce"):
        volume(name)
    settle(bench)
    selectors = widget.panel.predict.inputSelectors
    assert chosen(widget) == {"flair": None, "t1ce": None}
    selectors["flair"].setCurrentNode(volume_called("b_flair"))
    settle(bench)
    assert chosen(widget) == {"flair": "b_flair", "t1ce": "b_t1ce"}


def test_another_patient_is_said(widget, both, volume):
    widget.panel.predict.inputSelectors["t1ce"].setCurrentNode(volume("b_t1ce"))
    assert "'b_t1ce' seems to be of another examination than 'a_flair'" in widget.ui.inputsCheckLabel.text
    assert widget.ui.applyButton.enabled


def test_subject_hierarchy_says_who_is_who(widget, volume, bench, scene):
    """As loaded from DICOM: names say nothing of the patient, studies do."""
    import slicer

    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    for patient, names in (("P1", ("4: FLAIR", "5: T1 post")), ("P2", ("4: FLAIR 2",))):
        item = tree.CreateSubjectItem(tree.GetSceneItemID(), patient)
        study = tree.CreateStudyItem(item, "today")
        for name in names:
            tree.SetItemParent(tree.GetItemByDataNode(volume(name)), study)
    settle(bench)
    assert chosen(widget) == {"flair": "4: FLAIR", "t1ce": "5: T1 post"}
    assert "another examination" not in widget.ui.inputsCheckLabel.text
    widget.panel.predict.inputSelectors["flair"].setCurrentNode(volume_called("4: FLAIR 2"))
    assert "'5: T1 post' seems to be of another examination" in widget.ui.inputsCheckLabel.text


def volume_called(name):
    import slicer

    return slicer.util.getNode(name)


def add_model(models, name, **changed):
    """Another installed model like the first."""
    from dataclasses import replace

    from BrainSegSAMLib.models.store import load_model, write_model

    shutil.copytree(models / "toy", models / name)
    toy = load_model(models / "toy")
    write_model(replace(toy, folder=models / name, name=name, title=name.title(), **changed), files=["weights.bin"])


# ---- scenes that were saved


@pytest.fixture(params=["mrml", "mrb"])
def saved(widget, choose, models, scene, tmp_path, bench, request):
    """A scene with the user's choices, saved and closed while the panel is open; gives what loads it."""
    import slicer

    add_model(models, "second", modalities=("flair", "t1ce"))
    widget.panel.predict.fillModels()
    widget.panel.predict.chooseModel("second")
    widget.ui.evaluateOutputEdit.currentPath = str(tmp_path)
    widget.ui.trainNameEdit.text = "mine"
    widget.ui.deviceComboBox.currentIndex = 1
    settle(bench)
    file = tmp_path / f"scene.{request.param}"
    if request.param == "mrb":
        scene.SetDataIOManager(slicer.vtkDataIOManager())
        scene.GetDataIOManager().SetCacheManager(slicer.vtkCacheManager())
        scene.GetDataIOManager().GetCacheManager().SetRemoteCacheDirectory(str(tmp_path))
        assert scene.WriteToMRB(str(file), None)
    else:
        save(scene, file)
    scene.Clear(False)
    slicer.app.processEvents()
    widget.panel.predict.chooseModel("toy")
    assert chosen(widget) == {"flair": None, "t1ce": None}
    return lambda: load(scene, file)


def save(scene, file):
    import slicer

    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLScalarVolumeNode")
        storage = scene.AddNode(slicer.vtkMRMLVolumeArchetypeStorageNode())
        storage.SetFileName(str(file.with_name(f"{node.GetName()}.nrrd")))
        node.SetAndObserveStorageNodeID(storage.GetID())
        assert storage.WriteData(node)
    scene.SetRootDirectory(str(file.parent))
    scene.SetURL(str(file))
    scene.Commit()


def load(scene, file):
    if file.suffix == ".mrb":
        assert scene.ReadFromMRB(str(file), False)
    else:
        scene.SetURL(str(file))
        scene.Import()


def assert_loaded(widget, tmp_path):
    assert chosen(widget) == kept(widget) == OWN
    assert widget.panel.predict.modelName == widget.logic.getParameterNode().model == "second"
    assert widget.ui.evaluateOutputEdit.currentPath == str(tmp_path)
    assert widget.ui.trainNameEdit.text == "mine"
    assert widget.ui.deviceComboBox.currentIndex == 1
    assert widget.ui.applyButton.enabled


def test_a_scene_that_is_loaded_while_the_panel_is_open_is_shown(widget, saved, bench, tmp_path):
    saved()
    settle(bench)
    assert_loaded(widget, tmp_path)
    widget.exit()
    widget.enter()
    settle(bench)
    assert_loaded(widget, tmp_path)


def test_a_scene_that_is_loaded_before_the_module_is_opened_is_shown(widget, saved, bench, tmp_path):
    widget.exit()
    saved()
    settle(bench)
    widget.enter()
    assert_loaded(widget, tmp_path)


def test_a_scene_that_is_loaded_before_the_panel_is_made_is_shown(widget, saved, bench, tmp_path, open_panel):
    widget.exit()
    widget.cleanup()
    saved()
    settle(bench)
    again = open_panel()
    settle(bench)
    assert_loaded(again, tmp_path)


# ---- what a scene asks for and is not here


def reopen(widget, **parameters):
    """The module is closed, a colleague's scene says something else, and the module is opened."""
    widget.exit()
    node = widget.logic.getParameterNode()
    for name, value in parameters.items():
        setattr(node, name, value)
    widget.enter()
    return node


def test_a_model_that_is_not_installed_is_not_replaced(widget, both, models):
    node = reopen(widget, model="flames")
    ui = widget.ui
    assert ui.modelComboBox.currentIndex == -1
    assert node.model == "flames"
    assert ui.applyReasonLabel.text == (
        "The scene asks for the model 'flames', which is not installed here; download or import it, or choose another."
    )
    assert not ui.applyButton.enabled
    assert not ui.modelNoticeLabel.visible
    add_model(models, "flames", modalities=("flair", "t1ce"))
    widget.panel.predict.fillModels()  # as when it was downloaded
    assert widget.panel.predict.modelName == "flames"
    assert ui.applyButton.enabled
    assert chosen(widget) == {"flair": "a_flair", "t1ce": "a_t1ce"}
    node = reopen(widget, model="others")
    ui.modelComboBox.currentIndex = 0
    assert node.model == "flames"
    assert ui.applyButton.enabled


def test_labels_of_a_model_that_is_not_installed_are_not_replaced(widget, tmp_path):
    names = {}
    for name in ("evaluatePredictions", "evaluateReference", "evaluateOutput"):
        (tmp_path / name).mkdir()
        names[name] = str(tmp_path / name)
    node = reopen(widget, evaluateLabels="flames", **names)
    ui = widget.ui
    assert ui.evaluateLabelsComboBox.currentIndex == -1
    assert node.evaluateLabels == "flames"
    assert "asks for the labels of the model 'flames', which is not installed here" in ui.evaluateReasonLabel.text
    assert not ui.evaluateStartButton.enabled
    ui.evaluateLabelsComboBox.currentIndex = 0
    assert node.evaluateLabels == ""
    assert ui.evaluateStartButton.enabled


def test_a_recipe_that_is_not_there_is_not_replaced(widget, tmp_path):
    asked = str(tmp_path / "gone.json")
    settings = '{"epochs": 7}'
    node = reopen(widget, trainRecipe=asked, trainSettings=settings, trainData=str(tmp_path), trainName="mine")
    ui = widget.ui
    assert ui.trainRecipeComboBox.currentIndex == -1
    assert (node.trainRecipe, node.trainSettings) == (asked, settings)
    assert "The scene asks for the recipe" in ui.trainReasonLabel.text
    assert "gone.json" in ui.trainReasonLabel.text
    assert not ui.trainStartButton.enabled
    ui.trainRecipeComboBox.currentIndex = 0
    assert node.trainRecipe == "glioma-nnunet-tiny.json"
    assert ui.trainStartButton.enabled


@pytest.mark.parametrize("settings", ["{broken", "[1]", '{"epochs": {"a": 1}, "no such setting": 1}'])
def test_settings_that_cannot_be_read_do_no_harm(widget, settings):
    reopen(widget, trainSettings=settings)
    assert widget.panel.train.form.editors
    assert widget.ui.trainRecipeComboBox.currentIndex == 0
