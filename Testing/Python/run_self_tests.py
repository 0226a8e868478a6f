"""Runs the self-tests in Slicer and ends it with an exit code.

Slicer --no-splash --testing --additional-module-paths <folder of BrainSegSAM.py> --python-script <this file>
"""

import sys
import unittest
from pathlib import Path

import slicer


def main() -> int:
    """0 where all went well."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    suite = unittest.defaultTestLoader.loadTestsFromNames(["BrainSegSAMSelfTest", "BrainSegSAM"])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    slicer.app.processEvents()  # what waits for Slicer's start has its turn
    slicer.util.exit(main())
