"""The command line `brainsegsam`: a door to the commands, which do the work.

Exit codes: 0 all done; 1 cases failed, some or all, each named; 2 wrong use, or what all cases need (model, output
folder, scheduler) cannot be used; 3 all done, but what was given is doubtful, as is said (an evaluation against an
empty reference, or of one patient); 130 cancelled.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import __version__
from .console import STYLES, Console, add_worker_options, parse_setting
from .errors import BrainSegSAMError, Cancelled, InputError
from .progress import Progress
from .remote import location

DONE, SOME_FAILED, WRONG_USE, DOUBTFUL, CANCELLED = 0, 1, 2, 3, 130
DEVICES = "auto, cpu, cuda, cuda:N or mps"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` are those after the program's name (`sys.argv` where None).

    Returns:
        The exit code; see the module.
    """
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse ends so for --help (0) and for wrong use (2)
        return int(stop.code or 0)
    if options.command is None:
        parser.print_help()
        return WRONG_USE
    console = Console(getattr(options, "progress", "auto"))
    progress = Progress(console.listener)
    with _signals_cancel(progress):
        try:
            return _act(options, console, progress)
        except Cancelled as cancelled:
            console.fail(str(cancelled))
            return CANCELLED
        except BrainSegSAMError as error:
            console.fail(str(error))
            return WRONG_USE
        except KeyboardInterrupt:
            console.fail("The command was interrupted.")
            return CANCELLED
        finally:
            console.close()


def run(arguments: Sequence[str], *, console: Console, progress: Progress) -> int:
    """Run one command for a program that has a console and a progress of its own.

    Returns:
        The exit code; see the module.

    Raises:
        BrainSegSAMError: what the command raises; `InputError` where it is used wrongly.
    """
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        raise InputError(f"The command '{' '.join(arguments)}' cannot be used so; the log says why.") from stop
    if options.command is None:
        raise InputError("No command was given.")
    return _act(options, console, progress)


def _act(options: argparse.Namespace, console: Console, progress: Progress) -> int:
    action: Callable[[argparse.Namespace, Console, Progress], int] = options.action
    return action(options, console, progress)


@contextmanager
def _signals_cancel(progress: Progress) -> Iterator[None]:
    """The first Ctrl-C, or a request to terminate, cancels in order; the second Ctrl-C interrupts at once."""

    def on_signal(number: int, _frame: object) -> None:
        if number == signal.SIGINT and progress.cancelled:
            raise KeyboardInterrupt
        progress.cancel()

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, on_signal)
    except ValueError:  # not in the main thread: whoever started us there cancels by other means
        previous = {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="brainsegsam", description="Brain-MRI segmentation with nnU-Net v2 and the Segment Anything family."
    )
    parser.add_argument("--version", action="version", version=f"brainsegsam {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_predict(commands)
    _add_track(commands)
    _add_prompt(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_models(commands)
    _add_reproduce(commands)
    _add_demo(commands)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help=f"{DEVICES} (default: auto)")
    parser.add_argument("--progress", choices=STYLES, default="auto", help="how progress is shown (default: auto)")


# ---- predict --------------------------------------------------------------------------------------------------------


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("predict", help="segment cases", description="Segment cases with a trained model.")
    parser.add_argument("--model", required=True, help="name in the catalogue, or a model folder")
    parser.add_argument(
        "--input",
        required=True,
        type=location,
        help="a case folder, a folder of case folders, an nnU-Net images folder, a BIDS dataset, or a CSV manifest; "
        "or the URL of one, as in s3://bucket/cases",
    )
    parser.add_argument("--output", required=True, type=location, help="folder for the results, or its URL")
    parser.add_argument("--reference", metavar="MODALITY", help="modality whose grid the results have")
    parser.add_argument("--modality-names", type=Path, metavar="JSON", help="further names of modalities")
    parser.add_argument("--no-mirroring", action="store_true", help="no averaging over mirror images: faster")
    parser.add_argument("--tile-step", type=float, metavar="SHARE", help="step of the sliding window, above 0 to 1")
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help="folds whose networks are averaged")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="any other setting of the model's method, e.g. answer=ensemble for SSNet; the value is JSON",
    )
    parser.add_argument("--resume", action="store_true", help="skip cases that an earlier run finished")
    add_worker_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would run and what is missing; write nothing")
    parser.add_argument("--trust", action="store_true", help="load weights that need arbitrary unpickling")
    _add_common(parser)
    parser.set_defaults(action=_predict)


def _predict(options: argparse.Namespace, console: Console, progress: Progress) -> int:
    from .cases import read_modality_table
    from .predict import CaseResult, PredictJob, plan, run
    from .single_image import caution

    chosen = {
        "mirroring": False if options.no_mirroring else None,
        "tile_step_size": options.tile_step,
        "folds": options.folds,
    }
    job = PredictJob(
        model=options.model,
        source=options.input,
        output=options.output,
        device=options.device,
        resume=options.resume,
        trust=options.trust,
        reference=options.reference,
        table=read_modality_table(options.modality_names) if options.modality_names else None,
        overrides={
            **{key: value for key, value in chosen.items() if value is not None},
            **dict(parse_setting(text) for text in options.set),
        },
        workers=options.workers,
        scheduler=options.scheduler,
    )
    planned = plan(job)
    for sentence in caution(planned.model):
        console.warn(sentence)
    if options.dry_run:
        from .predict import describe_plan

        for line in describe_plan(planned):
            console.say(line)
        return SOME_FAILED if any(result.status == "failed" for result in planned.results) else DONE

    def on_result(result: CaseResult) -> None:
        if result.status == "failed":
            console.warn(f"Case '{result.case_id}' failed: {result.error}")
        else:
            console.say(f"{result.case_id}: {result.status}, {result.outputs['segmentation']}")
        for note in result.notes:
            console.warn(f"{result.case_id}: {note}")

    results = run(planned, progress=progress, on_result=on_result, tell=console.warn)
    failed = [result for result in results if result.status == "failed"]
    console.result({"cases": [_as_json(result) for result in results]})
    if failed:
        console.warn(f"{len(failed)} of {len(results)} cases failed: {', '.join(r.case_id for r in failed)}.")
    return SOME_FAILED if failed else DONE


def _as_json(result: object) -> dict[str, object]:
    from .predict import CaseResult

    assert isinstance(result, CaseResult)
    outputs = {kind: str(path) for kind, path in result.outputs.items()}
    known = {"case_id": result.case_id, "status": result.status, "error": result.error}
    return {**known, "outputs": outputs, "notes": list(result.notes)}


# ---- track ----------------------------------------------------------------------------------------------------------


def _add_track(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from .track import add_arguments

    parser = commands.add_parser(
        "track",
        help="follow an object from one slice through a volume",
        description="Follow what is marked on one slice through a volume, both ways, with a SAM 2 tracker.",
    )
    add_arguments(parser)
    _add_common(parser)
    parser.set_defaults(action=_track)


def _track(options: argparse.Namespace, console: Console, progress: Progress) -> int:
    from .track import run_from_options

    for line in run_from_options(options, progress):
        console.say(line)
    return DONE


# ---- prompt ---------------------------------------------------------------------------------------------------------


def _add_prompt(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from .prompt import add_arguments

    parser = commands.add_parser(
        "prompt",
        help="segment what is boxed on slices of a volume",
        description="Segment what boxes mark on slices of a volume, with SAM or MedSAM.",
    )
    add_arguments(parser)
    _add_common(parser)
    parser.set_defaults(action=_prompt)


def _prompt(options: argparse.Namespace, console: Console, progress: Progress) -> int:
    from .prompt import run_from_options

    for line in run_from_options(options, progress):
        console.say(line)
    return DONE


# ---- train ----------------------------------------------------------------------------------------------------------


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from .train import add_arguments

    parser = commands.add_parser("train", help="train a model", description="Train a model on labelled cases.")
    add_arguments(parser)
    _add_common(parser)
    parser.set_defaults(action=_train)


def _train(options: argparse.Namespace, console: Console, progress: Progress) -> int:
    from .train import run_from_options

    for line in run_from_options(options, progress):
        console.say(line)
    return DONE


# ---- evaluate -------------------------------------------------------------------------------------------------------


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from .evaluate import add_arguments

    parser = commands.add_parser(
        "evaluate",
        help="measure predictions against references",
        description="Measure predictions against references: tables, statistics and a report with pictures.",
    )
    add_arguments(parser)
    add_worker_options(parser)
    parser.add_argument("--progress", choices=STYLES, default="auto", help="how progress is shown (default: auto)")
    parser.set_defaults(action=_evaluate)


def _evaluate(options: argparse.Namespace, console: Console, progress: Progress) -> int:
    from .evaluate import describe, job_from_options, planned, run

    with planned(job_from_options(options)) as plan:
        evaluation = run(
            plan,
            progress=progress,
            on_case=lambda pair, text, kept: console.say(f"{pair.case_id}: {text}" + (" (kept)" if kept else "")),
            tell=console.warn,
        )
    for line in describe(evaluation):
        console.say(line)
    problems, doubts, warnings = (evaluation.content[name] for name in ("problems", "doubts", "warnings"))
    for text in dict.fromkeys(f"{row['status']}: {row['problem']}" for row in problems):  # a reference fails for all
        console.warn(text)
    for text in (*doubts, *warnings):
        console.warn(text)
    console.result({"files": dict(evaluation.files), "problems": problems, "doubts": doubts, "warnings": warnings})
    if problems:
        names = sorted({row["case_id"] for row in problems})
        console.warn(
            f"{len(names)} of {len(plan.pairs)} cases are not evaluated by every method: {', '.join(names)}."
        )
        return SOME_FAILED
    return DOUBTFUL if doubts else DONE


# ---- models ---------------------------------------------------------------------------------------------------------


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from .models_command import add_subcommands

    parser = commands.add_parser("models", help="list, show, import, download or remove models")
    add_subcommands(parser)
    parser.set_defaults(action=_models)


def _models(options: argparse.Namespace, console: Console, progress: Progress) -> int:
    from .models_command import run_from_options

    for line in run_from_options(options, progress):
        console.say(line)
    return DONE


# ---- reproduce ------------------------------------------------------------------------------------------------------


def _add_reproduce(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from .reproduce import add_arguments

    parser = commands.add_parser(
        "reproduce",
        help="measure what a paper reports, on labelled cases",
        description="Print the table of a paper with what is measured here, on labelled cases, beside it.",
    )
    add_arguments(parser)
    _add_common(parser)
    parser.set_defaults(action=_reproduce)


def _reproduce(options: argparse.Namespace, console: Console, progress: Progress) -> int:
    from .reproduce import run_from_options

    for line in run_from_options(options, progress):
        console.say(line)
    return DONE


# ---- demo -----------------------------------------------------------------------------------------------------------


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo",
        help="segment a synthetic case, or one of yours, and show the result",
        description="Segment one case with the bundled glioma model, and write segments, volumes and a picture.",
    )
    parser.add_argument("--case", type=Path, help="a case with flair, t1, t1ce and t2; a synthetic one if left out")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for the results")
    parser.add_argument("--model", default="glioma-nnunet-tiny", help="name in the catalogue, or a model folder")
    parser.add_argument("--seed", type=int, default=2026, help="of the synthetic case")
    _add_common(parser)
    parser.set_defaults(action=_demo)


def _demo(options: argparse.Namespace, console: Console, progress: Progress) -> int:
    from .demo import run_demo

    result = run_demo(
        options.output,
        case=options.case,
        model=options.model,
        device=options.device,
        seed=options.seed,
        progress=progress,
    )
    console.say(result.text())
    if result.problem:
        console.fail(result.problem)
        return SOME_FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
