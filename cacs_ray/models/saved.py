"""A model as a directory: weights as safetensors, sizes as JSON, nothing that runs."""

from pathlib import Path
from typing import TypeVar

import safetensors.torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn

from cacs_ray.config import Config
from cacs_ray.data.files import read_json, write_bytes, write_json
from cacs_ray.errors import InputError
from cacs_ray.features.spec import FeatureSpec
from cacs_ray.models.adaptive_dropout import Counts
from cacs_ray.models.ranker import Ranker, RankerConfig
from cacs_ray.models.selector import Selector, SelectorConfig

WEIGHTS = "model.safetensors"
SIZES = "config.json"


class Saved(Config):
    """What every model's `config.json` holds."""

    spec_fingerprint: str
    """Of the features that it was trained with."""


class SavedSelector(Saved):
    """`config.json` of a selector."""

    model: SelectorConfig


class SavedRanker(Saved):
    """`config.json` of a ranker."""

    model: RankerConfig
    shared: SelectorConfig | None
    """Sizes of the selector whose vectors it is fed with."""


SavedT = TypeVar("SavedT", bound=Saved)
ModelT = TypeVar("ModelT", bound=nn.Module)


def save_selector(directory: str | Path, selector: Selector, spec: FeatureSpec) -> None:
    """Write model.safetensors and config.json into a directory."""
    saved = SavedSelector(model=selector.config, spec_fingerprint=spec.fingerprint)
    _save(Path(directory), selector, saved)


def save_ranker(
    directory: str | Path,
    ranker: Ranker,
    spec: FeatureSpec,
    shared: SelectorConfig | None,
) -> None:
    """Write model.safetensors and config.json into a directory."""
    saved = SavedRanker(
        model=ranker.config, shared=shared, spec_fingerprint=spec.fingerprint
    )
    _save(Path(directory), ranker, saved)


def load_selector(
    directory: str | Path, spec: FeatureSpec, counts: Counts | None = None
) -> Selector:
    """Open a saved selector, ready to score.

    Args:
        directory: what `save_selector` wrote.
        spec: the fitted features it was trained with.
        counts: not needed: the counts of training come with the weights.

    Raises:
        InputError: a file is missing or torn, or belongs to another spec.
    """
    path = Path(directory)
    saved = _read_sizes(path, SavedSelector, spec)
    selector = Selector(spec, saved.model, counts)
    return _with_weights(path, selector)


def load_ranker(
    directory: str | Path, spec: FeatureSpec, counts: Counts | None = None
) -> Ranker:
    """Open a saved teacher or serving ranker, ready to score.

    Args:
        directory: what `save_ranker` wrote.
        spec: the fitted features it was trained with.
        counts: not needed: the counts of training come with the weights.

    Raises:
        InputError: a file is missing or torn, or belongs to another spec.
    """
    path = Path(directory)
    saved = _read_sizes(path, SavedRanker, spec)
    ranker = Ranker(spec, saved.model, counts, saved.shared)
    return _with_weights(path, ranker)


def _save(directory: Path, model: nn.Module, saved: Config) -> None:
    tensors = {name: t.detach().cpu() for name, t in model.state_dict().items()}
    write_bytes(directory / WEIGHTS, safetensors.torch.save(tensors))
    write_json(directory / SIZES, saved.model_dump(mode="json"))


def _read_sizes(directory: Path, kind: type[SavedT], spec: FeatureSpec) -> SavedT:
    source = directory / SIZES
    try:
        saved = kind.model_validate(read_json(source))
    except ValidationError as error:
        raise InputError(
            f"not a model of this version: {error.errors()[0]['msg']}",
            source=str(source),
            rule="model_config",
        ) from error
    if saved.spec_fingerprint != spec.fingerprint:
        raise InputError(
            "the model was trained with other features",
            source=str(source),
            field="spec_fingerprint",
            rule="spec_fingerprint",
        )
    return saved


def _with_weights(directory: Path, model: ModelT) -> ModelT:
    source = directory / WEIGHTS
    try:
        model.load_state_dict(safetensors.torch.load_file(source))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(
            f"weights cannot be read: {str(error).splitlines()[0]}",
            source=str(source),
            rule="weights",
        ) from error
    return model.eval()
