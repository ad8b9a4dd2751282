"""A bundle on any log: the report, without training anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from cacs_ray.bundle import Predictor, read_profile
from cacs_ray.cluster import start_ray
from cacs_ray.data.dataset import read_dataset
from cacs_ray.data.files import atomic_directory
from cacs_ray.data.logs import validate_log
from cacs_ray.evaluation.offline import EvaluationSettings
from cacs_ray.evaluation.scored_log import ScoredLog
from cacs_ray.features.store import AcceptedRows, open_encoded, write_store
from cacs_ray.recipes.content import DatasetContent
from cacs_ray.recipes.report import Judged, headline, judge, keep_report
from cacs_ray.recipes.score import score_log
from cacs_ray.schema import Side


def evaluate_bundle(
    bundle: str | Path, logs: str | Path, out: str | Path
) -> dict[str, Any]:
    """Evaluate a bundle on every accepted row of a log.

    The log's own creatives, ads and users are encoded by the bundle's features;
    creatives that the bundle has not seen are new, with no counts.

    Args:
        bundle: directory of the bundle.
        logs: a contract dataset; columns that the bundle knows and the log lacks
            count as unknown.
        out: gets report.json, report.html, rejects/ and validated/.

    Returns:
        Headline figures for the job's last line.

    Raises:
        InputError: the bundle, the dataset or its log breaks a rule.
    """
    root = Path(out).absolute()
    plain, _ = report_and_scores(bundle, logs, root)
    return {"out": str(root), "report": str(root / "report.html"), **headline(plain)}


def report_and_scores(
    bundle: str | Path, logs: str | Path, root: Path
) -> tuple[dict[str, Any], ScoredLog]:
    """Evaluate a bundle as `evaluate_bundle`; return the report and the scores.

    Two bundles on one log get the same rows in the same order, with the same
    creatives under the same numbers.
    """
    predictor = Predictor.load(bundle)
    dataset = read_dataset(logs)
    content = DatasetContent(root / "work" / "content", dataset.root)
    with start_ray():
        validated = validate_log(dataset, root)
        tables: Mapping[Side, pa.Table] = {
            "creative": validated.creatives,
            "ad": validated.ads,
            "user": validated.users,
        }
        here = predictor.with_entities(tables, content)
        summary = validated.summary
        assert summary.first_ts_us is not None  # a validated log is not empty
        assert summary.last_ts_us is not None
        window = (summary.first_ts_us, summary.last_ts_us + 1)
        files = [str(file) for file in validated.impression_files]
        store = root / "work" / "features"
        with atomic_directory(store) as directory:
            rows = AcceptedRows(files, {"test": window})
            write_store(directory, here.fitted, tables, rows, content)
        judged = Judged(dataset, validated, window, read_profile(bundle))
        encoded = open_encoded(store, "test")
        scored = score_log(here, encoded)
        report = judge(here, encoded, judged, EvaluationSettings(), scored)
        return keep_report(report, root), scored
