"""Golden requests: what a bundle must answer wherever it is opened.

They are made when a bundle is written, from its own ads, users and vocabularies,
and stored in it with the scores of that moment. Whoever is about to serve a bundle
replays them first: another version of a library, another processor or a bundle that
was put together wrongly then shows before a user sees it.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from cacs_ray.bundle import Predictor
from cacs_ray.data.declaration import KIND_TYPES
from cacs_ray.data.files import read_json
from cacs_ray.errors import InputError
from cacs_ray.features.spec import FieldSpec
from cacs_ray.manifest import write_plain_json
from cacs_ray.schema import REQUESTS, Column

FILE: Final = "golden.json"
NUM_REQUESTS: Final = 4
NUM_ADS: Final = 8
TOLERANCE: Final = 1e-4
"""Of a score, absolute and relative: processors round differently."""


def write_golden(root: Path, predictor: Predictor) -> None:
    """Make golden requests and write them with their answers into a bundle.

    Args:
        root: the bundle's directory, not sealed by its manifest yet.
        predictor: opened from these files.
    """
    requests = golden_requests(predictor)
    rows = list(_rows_of_requests(requests))
    write_plain_json(
        root / FILE,
        {
            "requests": _plain(requests).to_pylist(),
            "answers": _answers(predictor, requests, rows) if rows else {},
        },
    )


def replay_golden(root: str | Path, predictor: Predictor) -> int:
    """Ask a bundle its golden requests again and compare.

    Returns:
        How many candidate ads were compared; 0 for a bundle from before golden
        requests, which is only asked whether it answers.

    Raises:
        InputError: a score is not the one that was stored.
    """
    path = Path(root) / FILE
    if not path.is_file():
        requests = golden_requests(predictor)
        _answers(predictor, requests, list(_rows_of_requests(requests)))
        return 0
    kept = read_json(path)
    requests = _table(kept["requests"], predictor.fitted.spec.of("request"))
    if not requests.num_rows:
        return 0
    # One by one, as they are served, and all together, as files are decided: each
    # takes its own way through the selector.
    for rows in (list(_rows_of_requests(requests)), [slice(0, requests.num_rows)]):
        for name, found in _answers(predictor, requests, rows).items():
            expected = np.array(kept["answers"][name], np.float64)
            now = np.array(found, np.float64)
            is_equal = now.shape == expected.shape and np.allclose(
                now, expected, rtol=TOLERANCE, atol=TOLERANCE
            )
            if not is_equal:
                raise InputError(
                    "golden requests get other scores than when the bundle was made",
                    source=str(path),
                    field=name,
                    rule="golden",
                )
    return requests.num_rows


def read_requests(root: str | Path, predictor: Predictor) -> pa.Table:
    """Return a bundle's golden requests in the contract's form; empty without any."""
    path = Path(root) / FILE
    rows = read_json(path)["requests"] if path.is_file() else []
    return _table(rows, predictor.fitted.spec.of("request"))


def golden_requests(predictor: Predictor) -> pa.Table:
    """Choose ads, users and features of a bundle, evenly over each.

    The moment is the last at which a creative goes live, so that most are live.

    Returns:
        The contract's requests table: at most NUM_REQUESTS x NUM_ADS rows; none if
        no ad has a live creative then.
    """
    catalogue = predictor.catalogue
    fields = predictor.fitted.spec.of("request")
    starts = catalogue.live_from_us[1:]
    moment = int(max(0, starts.max(initial=0)))
    ads = np.arange(1, len(catalogue.ad_ids))
    lists = catalogue.lists(ads, np.full(len(ads), moment))
    live = _spread(ads[lists[:, 0] > 0], NUM_REQUESTS * NUM_ADS)
    users = [None, *_spread(sorted(predictor.entities.user_index), NUM_REQUESTS - 1)]
    rows = [
        {
            Column.REQUEST_ID: f"golden-{place % NUM_REQUESTS}",
            Column.REQUEST_TS: moment,
            Column.USER_ID: users[place % NUM_REQUESTS % len(users)],
            Column.AD_ID: catalogue.ad_ids[ad],
            Column.BID_MICROS: 100_000 * (1 + place // NUM_REQUESTS),
            **{
                field.column: _some(predictor, field, place % NUM_REQUESTS)
                for field in fields
                if field.column not in REQUESTS.names
            },
        }
        for place, ad in enumerate(live)
    ]
    rows.sort(key=lambda row: str(row[Column.REQUEST_ID]))
    return _table(rows, fields)


def _spread(values: Any, number: int) -> list[Any]:  # noqa: ANN401 - any sequence
    """Return at most `number` values, evenly apart."""
    places = np.unique(np.linspace(0, len(values) - 1, min(number, len(values))))
    return [values[int(place)] for place in places]


def _some(predictor: Predictor, field: FieldSpec, number: int) -> object:
    """Return a value that training saw for a field; unknown where none is kept."""
    if field.kind == "number":
        return float(number)
    vocabulary = predictor.fitted.vocabularies.get(field.vocabulary or "")
    if vocabulary is None or not len(vocabulary.values):
        return None
    known = vocabulary.values[number % len(vocabulary.values)].as_py()
    return [known] if field.kind == "category_list" else known


def _table(rows: list[dict[str, object]], fields: tuple[FieldSpec, ...]) -> pa.Table:
    kinds = {name: REQUESTS.field(name).type for name in REQUESTS.names}
    kinds |= {
        f.column: KIND_TYPES[f.kind] for f in fields if f.column not in REQUESTS.names
    }
    return pa.table(
        {
            name: pa.array([row.get(name) for row in rows], kind)
            for name, kind in kinds.items()
        }
    )


def _plain(requests: pa.Table) -> pa.Table:
    """Return requests with their moment as whole microseconds, as JSON keeps it."""
    place = requests.column_names.index(Column.REQUEST_TS)
    moments = requests[Column.REQUEST_TS].cast(pa.int64())
    return requests.set_column(place, Column.REQUEST_TS, moments)


def _answers(
    predictor: Predictor, requests: pa.Table, asked: Sequence[slice]
) -> dict[str, Any]:
    """Score golden requests: a whole list by the selector, its first by the ranker.

    Args:
        predictor: who is asked.
        requests: all of them.
        asked: the rows that are asked together, in order.
    """
    moments = requests[Column.REQUEST_TS].cast(pa.int64()).to_numpy()
    ads = predictor.catalogue.ad_row(requests[Column.AD_ID].to_pylist())
    lists = predictor.catalogue.lists(ads, moments)
    answers: dict[str, list[Any]] = {
        "selector_scores": [],
        "pctr": [],
        "pctr_unknown_creative": [],
    }
    for rows in asked:
        context, listed = predictor.context(requests[rows]), lists[rows]
        scores = np.where(listed > 0, predictor.selector_scores(context, listed), 0.0)
        answers["selector_scores"] += scores.round(6).tolist()
        for name, creatives in (
            ("pctr", listed[:, 0]),
            ("pctr_unknown_creative", 0 * listed[:, 0]),
        ):
            answers[name] += predictor.pctr(context, creatives).round(9).tolist()
    return answers


def _rows_of_requests(requests: pa.Table) -> Iterator[slice]:
    """Yield which rows each request has; they are adjacent."""
    start = 0
    for _, rows in groupby(requests[Column.REQUEST_ID].to_pylist()):
        stop = start + len(list(rows))
        yield slice(start, stop)
        start = stop
