"""The command that sets what a paper reports beside what is measured here, on labelled cases of yours.

The data of the papers are not published, so the numbers of two columns are of different patients: what can be compared
is which stage is better than which, not how good either is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..progress import Progress
from . import ssnet, yolo_medsam

PAPERS: Final = {"ssnet": ssnet.run_from_options, "yolo_medsam": yolo_medsam.run_from_options}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options; device and progress are the caller's."""
    parser.add_argument("paper", choices=PAPERS, help="whose tables")
    parser.add_argument("--model", required=True, help="a model of the method: name in the catalogue, or model folder")
    parser.add_argument("--input", required=True, type=Path, help="labelled cases, as for predict")
    parser.add_argument("--output", required=True, type=Path, help="JSON file for the numbers of every case")
    parser.add_argument(
        "--labels", nargs="+", type=int, default=[],
        help="ssnet: values of the references that are lesion (default: all)",
    )
    parser.add_argument(
        "--label-values", nargs="+", default=[], metavar="FILE=MODEL",
        help="yolo_medsam: values of the references that the model calls otherwise, e.g. 4=3",
    )
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="MODEL",
        help="yolo_medsam: further detectors and segmenters for its tables, e.g. SAM before it was fine-tuned",
    )
    parser.add_argument("--trust", action="store_true", help="load weights that need arbitrary unpickling")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method; the value is JSON"
    )


def run_from_options(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    """Do what the command line asks for; yields lines for the user.

    Raises:
        BrainSegSAMError: as `run` of the paper's module.
    """
    return PAPERS[options.paper](options, progress)
