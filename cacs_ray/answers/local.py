"""Deciding in this process: a bundle, a requests table, a decisions table."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from cacs_ray.answers.prepare import prepare_requests, require_columns
from cacs_ray.answers.table import DecisionOrigin, decisions_table
from cacs_ray.bundle import Predictor
from cacs_ray.data.files import atomic_directory, refuse_foreign, write_table
from cacs_ray.data.reading import joined, list_files, read_whole
from cacs_ray.decision.candidates import Candidates, Decisions, no_decisions
from cacs_ray.decision.cascade import DecisionSettings, decide
from cacs_ray.errors import InputError
from cacs_ray.features.context import Context
from cacs_ray.schema import Column

# Candidate rows scored at once: enough to be fast, little enough to stay small.
_BLOCK_ROWS = 50_000


class LocalScorers:
    """Scores by a predictor in this process, for the candidates of one context."""

    def __init__(self, predictor: Predictor, context: Context) -> None:
        self._predictor = predictor
        self._context = context

    async def selector_scores(self, candidates: Candidates) -> np.ndarray:
        """float32 [A, C]: the student's scores."""
        return self._predictor.selector_scores(self._context, candidates.creative_lists)

    async def teacher_scores(self, candidates: Candidates) -> np.ndarray:
        """float32 [A, C]: the teacher's logits."""
        return self._predictor.teacher_scores(self._context, candidates.creative_lists)

    async def pctr(
        self,
        candidates: Candidates,  # noqa: ARG002  the context holds the same rows
        creative_row: np.ndarray,
    ) -> np.ndarray:
        """float64 [A]: calibrated CTR with these creatives."""
        return self._predictor.pctr(self._context, creative_row)

    async def counts(self, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """(clicks, impressions), float64 [A, C], as of the end of training."""
        return self._predictor.catalogue.counts(candidates.creative_lists)

    def prior(self) -> tuple[float, float]:
        """Beta prior of a creative's CTR."""
        return self._predictor.catalogue.prior


class RankEveryCreative(LocalScorers):
    """Lets the serving ranker choose: it scores every creative of every ad.

    Too dear to serve; it says what choosing before ranking gives up. Chosen by the
    policy `teacher`, whose place it takes.
    """

    async def teacher_scores(self, candidates: Candidates) -> np.ndarray:
        """float32 [A, C]: the serving ranker's logits, in slot 0."""
        return self._predictor.ranker_logits(self._context, candidates.creative_lists)


def decide_requests(
    predictor: Predictor,
    requests: pa.Table,
    settings: DecisionSettings,
    scorers_of: Callable[[Predictor, Context], LocalScorers] = LocalScorers,
) -> tuple[pa.Table, pa.Table]:
    """Decide every request of a table.

    Args:
        predictor: an open bundle.
        requests: the contract's requests table, any number of requests; the rows
            of one request need not be adjacent.
        settings: policy, slots, exploration.
        scorers_of: who is asked for scores.

    Returns:
        (decisions, rejects): one decision per acceptable candidate ad, and the
        rows that broke a rule, with its name.
    """
    fields = predictor.fitted.spec.of("request")
    prepared = prepare_requests(predictor.catalogue, requests, fields)
    if prepared.requests.num_rows == 0:
        empty = decisions_table(
            prepared,
            no_decisions(),
            predictor.catalogue,
            DecisionOrigin(settings.policy, predictor.bundle_id),
        )
        return empty, prepared.rejects
    context = predictor.context(prepared.requests)
    scorers = scorers_of(predictor, context)
    decisions = _run(prepared.candidates, scorers, settings)
    origin = DecisionOrigin(settings.policy, predictor.bundle_id)
    table = decisions_table(prepared, decisions, predictor.catalogue, origin)
    return table, prepared.rejects


def _run(
    candidates: Candidates, scorers: LocalScorers, settings: DecisionSettings
) -> Decisions:
    """Decide in an event loop of its own, which `parallel` needs.

    The loop's task returns nothing: Python 3.11 writes out what the task of
    `asyncio.run` returned, in restoring the handler of Ctrl-C, and to write out large
    arrays takes milliseconds.
    """
    decided: list[Decisions] = []

    async def keep() -> None:
        decided.append(await decide(candidates, scorers, settings))

    asyncio.run(keep())
    return decided[0]


def decide_file(
    bundle: str | Path,
    requests: str | Path,
    out: str | Path,
    settings: DecisionSettings,
) -> dict[str, object]:
    """Decide a file or directory of requests; write `decisions/` and `rejects/`.

    Args:
        bundle: directory of the bundle.
        requests: Parquet, CSV or JSON Lines, one row per candidate ad.
        out: directory to write; made whole or not at all, in place of older
            decisions.
        settings: policy, slots, exploration.

    Returns:
        Counts for the job's last line.

    Raises:
        InputError: an unreadable file or bundle, no rows at all, or `out` holds
            something else.
    """
    refuse_foreign(out, "decisions", "rejects")
    table = read_requests(requests)
    require_columns(table)
    predictor = Predictor.load(bundle)
    num_rows = {"decisions": 0, "rejects": 0}
    with atomic_directory(Path(out)) as directory:
        for name in num_rows:
            (directory / name).mkdir()
        for number, block in enumerate(request_blocks(table)):
            results = decide_requests(predictor, block, settings)
            for name, rows in zip(num_rows, results, strict=True):
                if rows.num_rows:
                    write_table(directory / name / f"part-{number:05d}.parquet", rows)
                num_rows[name] += rows.num_rows
    return {"asked": table.num_rows, "release": predictor.bundle_id, **num_rows}


def read_requests(location: str | Path) -> pa.Table:
    """Read a requests table: one file or a directory of files.

    Raises:
        InputError: nothing there, an unreadable file, or not one row.
    """
    files = list_files(str(Path(location).absolute()))
    tables = [read_whole(file) for file in files]
    if sum(table.num_rows for table in tables) == 0:
        raise InputError("holds no rows", source=str(location), rule="empty")
    return joined(tables)


def request_blocks(table: pa.Table) -> list[pa.Table]:
    """Cut into blocks that hold whole requests."""
    column = table[Column.REQUEST_ID].combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    ids = column.dictionary_encode(null_encoding="encode")
    order = np.argsort(ids.indices.to_numpy(), kind="stable")
    number = ids.indices.to_numpy()[order]
    cuts = np.searchsorted(number, number[_BLOCK_ROWS::_BLOCK_ROWS])
    parts = np.split(order, np.unique(cuts[cuts > 0]))
    return [table.take(part) for part in parts if len(part)]
