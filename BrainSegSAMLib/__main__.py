"""`python -m BrainSegSAMLib` is the command line `brainsegsam`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
