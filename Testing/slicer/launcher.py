"""Plays Slicer's launcher of Python (CTKAppLauncher 0.1.34): `launcher.py COMMAND…` runs it and gives its exit code.

It hands on the standard streams. What is ended by a signal becomes the exit code 1 and a line on standard error.
"""

from __future__ import annotations

import subprocess
import sys

code = subprocess.run(sys.argv[1:]).returncode
if code < 0:
    print(f"error: [{sys.argv[1]}] exit abnormally - Report the problem.", file=sys.stderr)
sys.exit(1 if code < 0 else code)
