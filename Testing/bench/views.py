"""Slice views: real slice nodes, slice logic, displayable managers and off-screen render windows behind a Qt widget.

`LayoutManager(scene)` stands in for Slicer's: three slice views, Red, Yellow and Green, driven by real mouse events.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from ctk import stand_in
from PySide6 import QtCore, QtGui, QtWidgets
from qmrml import qMRMLWidget
from vtk.util.numpy_support import vtk_to_numpy

VIEWS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}
SIZE = 300
MANAGERS = ("vtkMRMLModelSliceDisplayableManager", "vtkMRMLCrosshairDisplayableManager",
            "vtkMRMLSegmentationsDisplayableManager2D")
_BUTTONS = {QtCore.Qt.LeftButton: "LeftButton", QtCore.Qt.RightButton: "RightButton",
            QtCore.Qt.MiddleButton: "MiddleButton"}


@stand_in
class qMRMLSliceView(QtWidgets.QWidget):
    """What is drawn of a slice; Qt's mouse events go to VTK's interactor, as in Slicer."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._window, self._renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.AddRenderer(self._renderer)
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self._interactor.Initialize()
        self._picture, self._renders, self._due, self._annotated = None, 0, False, False
        self.setMouseTracking(True)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        for name in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self._managers = factory.InstantiateDisplayableManagers(self._renderer)
        self._style = slicer.vtkMRMLSliceViewInteractorStyle()
        self._style.SetInteractor(self._interactor)
        self._style.SetDisplayableManagers(self._managers)
        self._managers.AddObserver(vtk.vtkCommand.UpdateEvent, lambda caller, event: self.scheduleRender())
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()

    # ---- what effects use

    def renderWindow(self):
        return self._window

    def interactor(self):
        return self._interactor

    def interactorStyle(self):
        return self._interactor.GetInteractorStyle()

    def interactorObserver(self):
        return self._style

    def displayableManagerByClassName(self, name):
        return self._managers.GetDisplayableManagerByClassName(name)

    def mrmlSliceNode(self):
        return self._managers.GetMRMLDisplayableNode()

    def scheduleRender(self):
        if not self._due:
            self._due = True
            QtCore.QTimer.singleShot(0, self.forceRender)

    def forceRender(self):
        self._due = False
        if self._window is None:
            return
        self._window.SetSize(max(self.width, 2), max(self.height, 2))
        self._renders += 1
        self._window.Render()
        self._picture = None
        self.update()

    def setDefaultViewCursor(self, cursor):
        self.setCursor(cursor)

    def setViewCursor(self, cursor):
        self.setCursor(cursor)

    def unsetViewCursor(self):
        self.unsetCursor()

    # ---- for the bench

    def _attach(self, logic):
        self._style.SetSliceLogic(logic)
        self._managers.SetMRMLDisplayableNode(logic.GetSliceNode())

    def _show_image(self, connection):
        if connection is None or connection.GetProducer() is None:
            self._renderer.RemoveViewProp(self._actor)
            return
        self._mapper.SetInputConnection(connection)
        self._renderer.AddViewProp(self._actor)

    def _close(self):
        self._managers.SetMRMLDisplayableNode(None)
        self._style.SetInteractor(None)
        self._style.SetSliceLogic(None)
        self._renderer.RemoveAllViewProps()
        self._mapper.RemoveAllInputs()
        self._window.Finalize()
        self._window = None

    def pixels(self):
        """What is drawn, as an array (y, x, rgb) with y from the top."""
        self.forceRender()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        image = grabber.GetOutput()
        width, height, _ = image.GetDimensions()
        array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3]
        return np.ascontiguousarray(array)

    def paintEvent(self, event):
        if self._picture is None:
            array = self.pixels()
            self._picture = QtGui.QImage(array.tobytes(), array.shape[1], array.shape[0], 3 * array.shape[1],
                                         QtGui.QImage.Format_RGB888).copy()
        painter = QtGui.QPainter(self)
        painter.drawImage(0, 0, self._picture)
        if self._annotated:
            self._annotate(painter)

    def _annotate(self, painter):
        """What Slicer writes into its views: where right, anterior and superior are, and where the slice lies."""
        node, box = self.mrmlSliceNode(), self.rect.adjusted(6, 4, -6, -4)
        matrix = node.GetSliceToRAS()
        to_right, up, normal = (np.array([matrix.GetElement(row, column) for row in range(3)]) for column in range(3))
        across = np.eye(3)[int(np.argmax(abs(normal)))]
        place = float(across @ [matrix.GetElement(row, 3) for row in range(3)])
        where = f"{node.GetOrientation().lower()} · {_letter(across * place)} {abs(place):.1f} mm"
        left, right, middle, top = (getattr(QtCore.Qt, f"Align{side}") for side in ("Left", "Right", "VCenter", "Top"))
        painter.setPen(QtGui.QColor(255, 255, 255))
        for text, side in ((where, left | top), (_letter(-to_right), left | middle),
                           (_letter(to_right), right | middle), (_letter(up), QtCore.Qt.AlignHCenter | top),
                           (_letter(-up), QtCore.Qt.AlignHCenter | QtCore.Qt.AlignBottom)):  # fmt: skip
            painter.drawText(box, side, text)

    # ---- mouse and keys

    def _invoke(self, event, name):
        held = event.modifiers()
        position = event.position()
        self._interactor.SetEventInformation(
            int(position.x()), self.height - 1 - int(position.y()), int(bool(held & QtCore.Qt.ControlModifier)),
            int(bool(held & QtCore.Qt.ShiftModifier)), "\0", 0, None,
        )
        self._interactor.InvokeEvent(name)

    def mousePressEvent(self, event):
        self._invoke(event, f"{_BUTTONS[event.button()]}PressEvent")

    def mouseReleaseEvent(self, event):
        self._invoke(event, f"{_BUTTONS[event.button()]}ReleaseEvent")

    def mouseDoubleClickEvent(self, event):
        self._invoke(event, f"{_BUTTONS[event.button()]}DoubleClickEvent")

    def mouseMoveEvent(self, event):
        self._invoke(event, "MouseMoveEvent")

    def wheelEvent(self, event):
        self._invoke(event, f"MouseWheel{'Forward' if event.angleDelta().y() > 0 else 'Backward'}Event")

    def enterEvent(self, event):
        self._interactor.InvokeEvent("EnterEvent")

    def leaveEvent(self, event):
        self._interactor.InvokeEvent("LeaveEvent")

    def keyPressEvent(self, event):
        self._key(event, "KeyPressEvent")

    def keyReleaseEvent(self, event):
        self._key(event, "KeyReleaseEvent")

    def _key(self, event, name):
        key = QtCore.Qt.Key(event.key()).name.removeprefix("Key_")
        self._interactor.SetKeySym(key if len(key) > 1 else key.lower())
        self._interactor.InvokeEvent(name)


def _letter(direction):
    """Of the anatomical direction to which a vector (RAS) points most."""
    axis = int(np.argmax(abs(direction)))
    return ("RL", "AP", "SI")[axis][int(direction[axis] < 0)]


@stand_in
class qMRMLSliceWidget(qMRMLWidget):
    """A slice view with its slice logic."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._view, self._name, self._logic, self._tag = qMRMLSliceView(self), "", None, None
        box = QtWidgets.QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._view)

    def _open(self, scene, name, orientation):
        self._name = name
        node = scene.CreateNodeByClass("vtkMRMLSliceNode")
        node.UnRegister(None)
        node.SetSingletonTag(name)
        node.SetName(name)
        node.SetLayoutName(name)
        node.SetMappedInLayout(True)  # as Slicer's layout does for the views that it shows
        node = scene.AddNode(node)
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self._logic.SetMRMLScene(scene)
        self._logic.SetSliceNode(node)
        node.SetOrientation(orientation)
        self.setMRMLScene(scene)
        self._view._attach(self._logic)
        self._tag = self._logic.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._follow())

    def _follow(self):
        self._view._show_image(self._logic.GetImageDataConnection())
        self._view.scheduleRender()

    def _close(self):
        self._view._close()
        self._logic.RemoveObserver(self._tag)
        node = self._logic.GetSliceNode()
        self._logic.SetSliceNode(None)
        self._logic.SetMRMLScene(None)
        if node is not None and node.GetScene() is not None:
            node.GetScene().RemoveNode(node)

    def resizeEvent(self, event):
        if self._logic is not None:
            self._logic.ResizeSliceNode(self._view.width, self._view.height)

    def sliceView(self):
        return self._view

    def sliceLogic(self):
        return self._logic

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def fitSliceToBackground(self):
        self._logic.FitSliceToAll(self._view.width, self._view.height)
        self._logic.SnapSliceOffsetToIJK()

    sliceViewName = QtCore.Property(str, lambda self: self._name)


def _prepare(scene):
    """What Slicer has in every scene and views need; a scene that was cleared with its singletons lacks it."""
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    for name, tag in (("vtkMRMLInteractionNode", "Singleton"), ("vtkMRMLSelectionNode", "Singleton"),
                      ("vtkMRMLColorTableNode", "Grey")):
        if scene.GetSingletonNode(tag, name) is None:
            node = scene.CreateNodeByClass(name)
            node.UnRegister(None)
            node.SetSingletonTag(tag)
            if tag == "Grey":
                node.SetTypeToGrey()
                node.SetHideFromEditors(True)
            scene.AddNode(node)


class LayoutManager(QtCore.QObject):
    """Slice views, so many in a row; there is no 3D view."""

    stands_in = True
    threeDViewCount = 0
    layoutChanged = QtCore.Signal(int)

    def __init__(self, scene, *, size=SIZE, columns=3, annotated=False):
        super().__init__()
        self._widget, self._slices = QtWidgets.QWidget(), {}
        self._widget.setStyleSheet("background: black")
        grid = QtWidgets.QGridLayout(self._widget)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(2)
        _prepare(scene)
        logics = vtk.vtkCollection()
        slicer.app.applicationLogic().SetSliceLogics(logics)
        for name, orientation in VIEWS.items():
            view = qMRMLSliceWidget()
            view.setFixedSize(size, size)
            grid.addWidget(view, len(self._slices) // columns, len(self._slices) % columns)
            view._open(scene, name, orientation)
            view.sliceView()._annotated = annotated
            logics.AddItem(view.sliceLogic())
            self._slices[name] = view
        self._widget.show()

    def sliceViewNames(self):
        return tuple(self._slices)

    def sliceWidget(self, name):
        return self._slices.get(name)

    def viewport(self):
        return self._widget

    def resetSliceViews(self):
        for widget in self._slices.values():
            widget.fitSliceToBackground()

    def close(self):
        """End the views; their windows and logics must not outlive them."""
        slicer.app.applicationLogic().SetSliceLogics(None)
        for widget in self._slices.values():
            widget._close()
        self._widget.close()
        self._widget.deleteLater()
        self._slices = {}


slicer.qMRMLSliceWidget, slicer.qMRMLSliceView = qMRMLSliceWidget, qMRMLSliceView
