"""`python -m BrainSegSAMLib` is the command line `brainsegsam`, in a process of its own."""

import sys

from .cli import main as run
from .memory import keep_memory


def main() -> int:
    """Run the command line with the arguments of this process; gives its exit code."""
    keep_memory()
    return run()


if __name__ == "__main__":
    sys.exit(main())
