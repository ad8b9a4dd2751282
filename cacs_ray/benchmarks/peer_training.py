"""DeepCTR-Torch and torch-rechub on the same rows, in their own environment.

python peer_training.py MODEL ROWS_DIR

MODEL is one of `MODELS`. The library's own training loop and optimizer take two
batches to warm up, then 20 that are timed.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

DIM, HIDDEN, BATCH_SIZE, NUM_THREADS = 16, 64, 4096, 2
WARM_UP_ROWS, TIMED_ROWS = 2 * BATCH_SIZE, 20 * BATCH_SIZE
Fields = Mapping[str, Mapping[str, Any]]
Columns = dict[str, np.ndarray]


class Model(Protocol):
    """What both libraries' models are: modules with parameters."""

    def parameters(self) -> Iterable[Any]:
        """Return the tensors that are trained."""
        ...


def name_of(key: str) -> str:
    """Return a field's name as their module dictionaries accept it."""
    return key.replace(".", "_")


def deepctr(kind: str, fields: Fields, columns: Columns) -> dict[str, float]:
    """Train a model of DeepCTR-Torch; its `fit` makes one matrix of all columns."""
    from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
    from deepctr_torch.models import WDL, DCNMix

    features = []
    for key, field in fields.items():
        name, width = name_of(key), field["width"]
        if not field["is_index"]:
            features.append(DenseFeat(name, width))
            continue
        sparse = SparseFeat(name, field["size"], embedding_dim=DIM)
        is_list = width > 1
        features.append(
            VarLenSparseFeat(sparse, maxlen=width, combiner="mean")
            if is_list
            else sparse
        )
    common = {"dnn_hidden_units": (HIDDEN,), "device": "cpu"}
    if kind == "dcnmix":
        model = DCNMix([], features, cross_num=2, low_rank=16, num_experts=1, **common)
    else:
        model = WDL([], features, **common)
    model.compile("adam", "binary_crossentropy")
    label = columns.pop("label")

    def one_pass(num_rows: int) -> None:
        given = {name_of(key): value[:num_rows] for key, value in columns.items()}
        clicks = label[:num_rows]
        model.fit(given, clicks, batch_size=BATCH_SIZE, epochs=1, verbose=0)

    return timed(one_pass, model)


def rechub(kind: str, fields: Fields, columns: Columns) -> dict[str, float]:
    """Train a model of torch-rechub with its CTRTrainer."""
    from torch_rechub.basic.features import (
        DenseFeature,
        SequenceFeature,
        SparseFeature,
    )
    from torch_rechub.models.matching import DSSM
    from torch_rechub.models.ranking import DCNv2
    from torch_rechub.trainers import CTRTrainer
    from torch_rechub.utils.data import DataGenerator

    features = {}
    for key, field in fields.items():
        name, width = name_of(key), field["width"]
        if not field["is_index"]:
            features[key] = DenseFeature(name, embed_dim=width)
        elif width > 1:
            features[key] = SequenceFeature(name, field["size"], DIM, pooling="mean")
        else:
            features[key] = SparseFeature(name, field["size"], DIM)
    if kind == "dcnv2":
        model = DCNv2(
            list(features.values()),
            2,
            {"dims": [HIDDEN]},
            low_rank=16,
            num_experts=1,
        )
    else:
        is_user = {key: key.startswith(("user.", "request.")) for key in features}
        tower = {"dims": [HIDDEN, 32]}
        model = DSSM(
            [f for key, f in features.items() if is_user[key]],
            [f for key, f in features.items() if not is_user[key]],
            tower,
            tower,
        )
    label = columns.pop("label")

    def one_pass(num_rows: int) -> None:
        given = {name_of(key): value[:num_rows] for key, value in columns.items()}
        loader, _, _ = DataGenerator(given, label[:num_rows]).generate_dataloader(
            split_ratio=[1.0, 0.0], batch_size=BATCH_SIZE
        )
        with tempfile.TemporaryDirectory() as place:
            CTRTrainer(model, n_epoch=1, model_path=place).fit(loader)

    return timed(one_pass, model)


def timed(one_pass: Callable[[int], object], model: Model) -> dict[str, float]:
    """Train on some rows to warm up and on more to time."""
    one_pass(WARM_UP_ROWS)
    started = time.perf_counter()
    one_pass(TIMED_ROWS)
    seconds = time.perf_counter() - started
    size = sum(parameter.numel() for parameter in model.parameters())
    return {"rows_per_second": TIMED_ROWS / seconds, "parameters": size}


MODELS = {
    "deepctr-dcnmix": (deepctr, "dcnmix"),
    "deepctr-wdl": (deepctr, "wdl"),
    "rechub-dcnv2": (rechub, "dcnv2"),
    "rechub-dssm": (rechub, "dssm"),
}


def main() -> None:
    """Train one model and say how fast it was."""
    import torch

    name, directory = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(NUM_THREADS)
    fields = json.loads((directory / "fields.json").read_text())
    columns = {key: np.load(directory / f"{key}.npy") for key in (*fields, "label")}
    train, kind = MODELS[name]
    # Both libraries print while they train.
    with contextlib.redirect_stdout(sys.stderr):
        said = train(kind, fields, columns)
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
