"""How every job begins and ends: logging, the exit code, the last line.

The last line on standard output is one line of JSON for whoever calls the job;
everything meant for people goes to standard error.
"""

import contextlib
import io
import json
import logging
import math
import os
import signal
import sys
import threading
import traceback
from argparse import (
    Action,
    ArgumentDefaultsHelpFormatter,
    ArgumentParser,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import TextIO

import numpy as np

from cacs_ray.cluster import SPIN_COUNT
from cacs_ray.errors import InputError

# Read when torch is loaded, which the jobs do later.
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED = 0, 1, 130

_JOB_PACKAGES = "working_dir_files"
"""Directory of Ray below which the code of a submitted job is unpacked."""

_log = logging.getLogger(__name__)

_NOISY = (
    "alembic",
    "httpx",
    "httpcore",
    "matplotlib",
    "mlflow",
    "optuna",
    "PIL",
    "ray",
    "ray.data",
    "ray.serve",
    "ray.train",
    "ray.tune",
    "sentence_transformers",
    "sqlalchemy",
    "urllib3",
)
"""Libraries whose ordinary messages would bury ours."""


class _JobHelp(RawDescriptionHelpFormatter, ArgumentDefaultsHelpFormatter):
    """Keeps examples as they are written; names defaults where there are any."""

    def _get_help_string(self, action: Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


def job_parser(doc: str | None, name: str) -> ArgumentParser:
    """Return a parser whose `--help` is the docstring of the job's file.

    Args:
        doc: one line that says what the job does; what follows it are examples.
        name: module of the job, as after `python -m`.
    """
    what, _, examples = (doc or "").partition("\n")
    return ArgumentParser(
        prog=f"python -m {name}",
        description=what,
        epilog=f"examples:\n{indent(examples.strip(), '  ')}",
        formatter_class=_JobHelp,
    )


def add_path(parser: ArgumentParser, option: str, what: str) -> None:
    """Add an option that must name a file or directory."""
    parser.add_argument(option, required=True, metavar="PATH", help=what)


def add_changes(
    parser: ArgumentParser, example: str, of: str = "fields of the recipe"
) -> None:
    """Add `--set`, which changes fields of a recipe, or of what `of` names."""
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"{of} to change, such as {example}",
    )


def add_tracking_uri(parser: ArgumentParser) -> None:
    """Add `--tracking-uri`, which says where MLflow is."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow's server or database; by default $MLFLOW_TRACKING_URI, else "
        "mlruns/mlflow.db in this directory",
    )


def run_job(
    parser: ArgumentParser,
    body: Callable[[Namespace], Mapping[str, object]],
    argv: Sequence[str] | None = None,
) -> int:
    """Run the body of a job and report its end as one line of JSON.

    Args:
        parser: the job's options; wrong ones end the process with code 2.
        body: takes the parsed options, returns what the last line shall hold beside
            `"status": "ok"`: JSON values, paths, or NumPy numbers.
        argv: the options, by default those of the process.

    Returns:
        The exit code: 0 done, 1 failed, 130 interrupted. An `InputError` is one
        line on standard error; any other exception is printed with its traceback.
    """
    args = _parsed(parser, argv)
    _set_up_logging()
    try:
        _refuse_out(getattr(args, "out", None))
        _say_what_will_not_last(args)
        with _stopped_in_order():
            result = body(args)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return _finish({"status": "error", "error": str(error)}, EXIT_ERROR)
    except (KeyboardInterrupt, SystemExit):
        # Ray turns SIGTERM, with which it stops a submitted job, into the latter.
        sys.stderr.write("interrupted\n")
        return _finish({"status": "error", "error": "interrupted"}, EXIT_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the outermost frame of a job
        traceback.print_exc()
        name = type(error).__name__
        text = f"{name}: {' '.join(str(error).split())[:500]}"
        return _finish({"status": "error", "error": text}, EXIT_ERROR)
    return _finish({"status": "ok", **result}, EXIT_OK)


@contextlib.contextmanager
def _stopped_in_order() -> Iterator[None]:
    """Let SIGTERM unwind the body, so that what it has started ends with it."""
    is_free = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not is_free:
        yield
        return
    signal.signal(signal.SIGTERM, _end_in_order)
    try:
        yield
    finally:
        # Ray puts its own in place when it starts, and may go on after the body.
        if signal.getsignal(signal.SIGTERM) is _end_in_order:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_in_order(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def _parsed(parser: ArgumentParser, argv: Sequence[str] | None) -> Namespace:
    """Parse the options; wrong ones get their last line as well, then code 2."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parser.parse_args(argv)
    except SystemExit as stop:
        sys.stderr.write(complaint.getvalue())
        if stop.code:
            error = complaint.getvalue().splitlines()[-1]
            _finish({"status": "error", "error": error}, EXIT_ERROR)
        raise


def _refuse_out(out: str | None) -> None:
    """Refuse, before any work, an `--out` that cannot be a directory to write in."""
    if out is None:
        return
    place = Path(out).absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not out or not place.is_dir():
        raise InputError(
            f"{out!r}: {place} is no directory", source="--out", rule="directory"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"{out!r}: {place} cannot be written", source="--out", rule="writable"
        )


def _say_what_will_not_last(args: Namespace) -> None:
    """Say what a submitted job would write where Ray removes it some time later."""
    package = Path.cwd()
    if _JOB_PACKAGES not in package.parts:
        return
    text = "%s lies in the package of this job, %s, which Ray removes: name another"
    out = getattr(args, "out", None)
    if out is not None and not Path(out).is_absolute():
        _log.warning(text, f"--out {out}", package)
    is_named = getattr(args, "tracking_uri", "") or "MLFLOW_TRACKING_URI" in os.environ
    if hasattr(args, "tracking_uri") and not is_named:
        _log.warning(text, "MLflow's store (--tracking-uri)", package)


def _finish(line: Mapping[str, object], code: int) -> int:
    """Write the last line and return the exit code."""
    sys.stderr.flush()
    sys.stdout.write(json.dumps(_plain(line), allow_nan=False) + "\n")
    sys.stdout.flush()
    return code


def _plain(value: object) -> object:
    """Return the JSON form of a value: paths as text, NumPy values as their own.

    What is not finite becomes null, because JSON has no word for it.

    >>> _plain({"auc": np.float32(0.5), "n": (1, float("nan"))})
    {'auc': 0.5, 'n': [1, None]}
    """
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, int | str) else str(value)


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Writes to the standard error of the moment.

    A progress bar puts itself in its place, to keep lines above the bar.
    """

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _set_up_logging() -> None:
    """Send lines for people to standard error and quieten the libraries."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[_ToStandardError()],
    )
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
