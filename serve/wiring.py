"""What every replica of the graph is given, checked before anything starts."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from cacs_ray.data.dataset import read_dataset
from cacs_ray.manifest import read_manifest
from serve.arguments import AppArgs
from serve.arms import make_arms
from serve.board import ReleaseBoard
from serve.controls_file import read_controls
from serve.release import LoadRelease, load_release
from serve.stage import LoadPredictor, load_predictor


@dataclass(frozen=True, slots=True)
class Wiring:
    """What every replica of the graph is given; it travels to other processes."""

    args: AppArgs
    board: ReleaseBoard
    bundle_ids: dict[str, str]
    """Bundle directory -> bundle id, of arms and shadow."""
    load_release: LoadRelease
    load_predictor: LoadPredictor


def wire(args: AppArgs) -> Wiring:
    """Check what is configured and put up the release board.

    Raises:
        InputError: a bundle is not one or is damaged, or a file is wrong.
    """
    kept = {
        name: str(Path(value).resolve())
        for name in (
            *("bundle", "releases", "controls", "dataset"),
            *("decision_log", "click_log", "shadow_log"),
        )
        if (value := getattr(args, name)) is not None
    }
    load_release(kept["bundle"])
    if args.controls is not None:
        read_controls(args.controls)
    if args.dataset is not None:
        read_dataset(args.dataset)
    beside = {path: _bundle_id(path) for path in _beside(args)}
    make_arms(args.experiment, args.settings, beside)
    state = args.state or tempfile.mkdtemp(prefix="cacs-serve-")
    board = ReleaseBoard(Path(state).resolve())
    board.begin(
        board.keep(kept["bundle"]),
        args.kinds,
        tuple(board.keep(path) for path in beside),
        began_with=kept["bundle"],
    )
    return Wiring(args.override(kept), board, beside, load_release, load_predictor)


def _beside(args: AppArgs) -> list[str]:
    """Return the bundle directories of arms and shadow, each once."""
    named = [arm.bundle for arm in args.experiment.arms] + [args.experiment.shadow]
    return list(dict.fromkeys(path for path in named if path is not None))


def _bundle_id(path: str) -> str:
    return str(read_manifest(Path(path))["bundle_id"])
