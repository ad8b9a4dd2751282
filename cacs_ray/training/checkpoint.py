"""Checkpoints: where training stopped, as files that are checked before use.

    step-000001200/
        model.safetensors  optimizer.safetensors  tables.safetensors  best.safetensors
        state.json         progress, fingerprint, digests of all of the above

Nothing is pickled. A directory appears whole or not at all; one that was damaged
later is found by its digests, named in the log, and the one before it is used.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from cacs_ray.data.files import atomic_directory, sha256_file

log = logging.getLogger(__name__)

STATE = "state.json"

TensorGroups = Mapping[str, Mapping[str, Tensor]]
"""File stem (`model`, `optimizer`, `tables`, `best`) -> tensors by name."""


class TornCheckpointError(ValueError):
    """A checkpoint's file is not the one that was written."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One place to go on from."""

    tensors: TensorGroups
    progress: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The last few checkpoints of one run, in one directory.

    All workers must see the directory; only rank 0 writes.
    """

    directory: Path
    fingerprint: str
    """Digest of everything that decides the run: others' checkpoints are ignored."""
    num_kept: int = 2

    def save(
        self, step: int, tensors: TensorGroups, progress: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint, then drop the oldest ones."""
        target = self.directory / f"step-{step:09d}"
        with atomic_directory(target) as partial:
            digests = {}
            for stem, group in tensors.items():
                file = partial / f"{stem}.safetensors"
                plain = {
                    name: tensor.detach().cpu().contiguous()
                    for name, tensor in group.items()
                }
                file.write_bytes(safetensors.torch.save(plain))
                digests[file.name] = sha256_file(file)
            state = {
                "fingerprint": self.fingerprint,
                "progress": dict(progress),
                "files": digests,
            }
            (partial / STATE).write_bytes(_sealed(state))
        for old in self._found()[: -self.num_kept]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def latest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint of this run, None without one."""
        for directory in reversed(self._found()):
            try:
                state = read_state(directory)
            except TornCheckpointError as error:
                log.warning("checkpoint left out: %s", error)
                continue
            if state["fingerprint"] != self.fingerprint:
                log.info("checkpoint of another run left out: %s", directory)
                continue
            tensors = {
                Path(name).stem: safetensors.torch.load_file(directory / name)
                for name in state["files"]
            }
            return Checkpoint(tensors, state["progress"])
        return None

    def clear(self) -> None:
        """Remove every checkpoint, once the weights are written elsewhere."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _found(self) -> list[Path]:
        return sorted(
            path for path in self.directory.glob("step-*") if path.name[5:].isdigit()
        )


def read_state(directory: Path) -> dict[str, Any]:
    """Read and check one checkpoint.

    Raises:
        TornCheckpointError: some file is missing, cut, changed or unlisted.
    """
    source = directory / STATE
    state = _unsealed(source)
    there = {path.name for path in directory.iterdir()} - {STATE}
    if there != set(state["files"]):
        raise TornCheckpointError(f"{directory}: files missing or unlisted")
    for name, digest in state["files"].items():
        if sha256_file(directory / name) != digest:
            raise TornCheckpointError(f"{directory / name}: digest differs")
    return state


def _sealed(state: Mapping[str, Any]) -> bytes:
    """Return JSON that holds its own digest."""
    digest = hashlib.sha256(_canonical(state)).hexdigest()
    return _canonical({"state": state, "sha256": digest})


def _unsealed(source: Path) -> dict[str, Any]:
    try:
        written = source.read_bytes()
        sealed = json.loads(written)
        state: dict[str, Any] = sealed["state"]
        # Compared as bytes: a changed blank or key is damage too.
        is_whole = written == _sealed(state)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TornCheckpointError(f"{source}: {error}") from error
    if not is_whole:
        raise TornCheckpointError(f"{source}: digest differs")
    return state


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode()


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, Tensor]:
    """Return an optimizer's state as flat tensors: `<parameter>|<slot>`."""
    return {
        f"{name}|{slot}": value
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for slot, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, torch.nn.Parameter],
) -> None:
    """Put back what `optimizer_tensors` returned."""
    for key, value in tensors.items():
        name, slot = key.rsplit("|", 1)
        parameter = parameters[name]
        optimizer.state[parameter][slot] = value.to(parameter.device)


def grouped(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors called `<name>|<key>`, by key."""
    start = f"{name}|"
    return {
        key.removeprefix(start): value
        for key, value in tensors.items()
        if key.startswith(start)
    }
