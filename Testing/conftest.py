"""Fixtures that several folders of tests use."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

from BrainSegSAMLib.geometry import Geometry

# The same examples in every run, few enough for every push, and no time limit on a busy machine.
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real MRI beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("The real MRI in ../shared/data is absent, so this test has nothing to work on.")
    return SHARED_DATA


@pytest.fixture(scope="session")
def oblique_grid() -> Geometry:
    """11×9×7 voxels, three different spacings, axes stored I, L, A and turned by 20 and 10 degrees."""
    turn_z, turn_x = np.radians(20), np.radians(10)
    rotation = np.array(
        [[np.cos(turn_z), -np.sin(turn_z), 0], [np.sin(turn_z), np.cos(turn_z), 0], [0, 0, 1]]
    ) @ np.array([[1, 0, 0], [0, np.cos(turn_x), -np.sin(turn_x)], [0, np.sin(turn_x), np.cos(turn_x)]])
    stored_ila = np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]])
    return Geometry((11, 9, 7), (0.8, 1.5, 3.0), (-31.5, 12.25, 40.0), rotation @ stored_ila)


@pytest.fixture(scope="session")
def oblique_array(oblique_grid: Geometry) -> NDArray[np.float32]:
    """Whole numbers, different in every voxel, so that any flip or permutation shows; float32 (z, y, x)."""
    count = int(np.prod(oblique_grid.shape_zyx))
    return np.random.default_rng(7).permutation(count).astype(np.float32).reshape(oblique_grid.shape_zyx)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("A size-limited file system can only be mounted by root on Linux.")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
