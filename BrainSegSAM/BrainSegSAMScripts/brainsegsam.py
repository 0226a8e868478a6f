"""The command line inside Slicer, without its windows.

Slicer --no-splash --no-main-window --python-script <this file> -- predict --model … --input … --output …
"""

import sys
from pathlib import Path


def main() -> int:
    """Run the command line with the arguments after "--" and return its exit code."""
    here = Path(__file__).resolve().parent
    # Beside the module where it is installed, two levels up in a source tree.
    library = next(p for p in (here.parent, here.parent.parent) if (p / "BrainSegSAMLib" / "__init__.py").is_file())
    if str(library) not in sys.path:
        sys.path.insert(0, str(library))
    from BrainSegSAMLib.cli import main as run

    arguments = sys.argv[1:]
    if "--" in arguments:
        arguments = arguments[arguments.index("--") + 1 :]
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
