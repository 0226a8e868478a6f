"""Segment volumes in Slicer without its windows, as a script or another extension would do it.

Slicer --no-splash --no-main-window --python-script <this file> --
    --model glioma-nnunet-tiny --volume flair=a_flair.nii.gz --volume t1=a_t1.nii.gz … --output a.seg.nrrd

Any file that Slicer loads as a volume will do. Exit codes: 0 done, 1 it failed, 2 wrong use; the reason is printed.
"""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run it with the arguments after "--" and return the exit code."""
    parser = argparse.ArgumentParser(prog="segment_volumes.py", description=__doc__)
    parser.add_argument("--model", required=True, help="name or folder of a model")
    parser.add_argument(
        "--volume", action="append", required=True, type=modality_and_file, metavar="MODALITY=FILE",
        help="one for each modality of the model",
    )
    parser.add_argument("--output", required=True, type=Path, help="segmentation to write, as in case.seg.nrrd")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    try:
        options = parser.parse_args(arguments)
        given = [modality for modality, _path in options.volume]
        if twice := sorted({modality for modality in given if given.count(modality) > 1}):
            parser.error(f"argument --volume: '{twice[0]}' is given twice.")
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        segment(options)
    except Exception as error:  # Slicer would print it and stay open
        sys.stderr.write(f"Error: {error}\n")
        return 1
    sys.stdout.write(f"Written: {options.output}\n")
    return 0


def modality_and_file(text: str) -> tuple[str, str]:
    """The two parts of a --volume."""
    modality, equals, path = text.partition("=")
    if not (modality and equals and path):
        raise argparse.ArgumentTypeError(f"'{text}' is not MODALITY=FILE, as in flair=case_flair.nii.gz.")
    return modality, path


def segment(options: argparse.Namespace) -> None:
    """Load, segment, save; the scene is left with the volumes and the segmentation."""
    folder = str(Path(__file__).resolve().parent.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    import slicer

    from BrainSegSAM import BrainSegSAMLogic

    volumes = {}
    for modality, path in options.volume:
        if not Path(path).exists():
            raise FileNotFoundError(f"There is no file '{path}' (--volume {modality}={path}).")
        volumes[modality] = slicer.util.loadVolume(path)
    node = BrainSegSAMLogic().predict(volumes, model=options.model, device=options.device)
    if not slicer.util.saveNode(node, str(options.output)):
        raise OSError(f"{options.output} could not be written.")


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(given[given.index("--") + 1 :] if "--" in given else given))
