"""The last stage: the bundle, opened as serving opens it, judged on the test window."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from cacs_ray.bundle import Predictor, read_profile
from cacs_ray.data.dataset import Dataset
from cacs_ray.data.files import write_json
from cacs_ray.data.logs import ValidatedLog
from cacs_ray.evaluation.offline import EvaluationSettings, evaluate
from cacs_ray.evaluation.policies import available_policies, policy_probabilities
from cacs_ray.evaluation.report import plain_report, write_figures, write_report
from cacs_ray.evaluation.scored_log import ScoredLog, rare_ads
from cacs_ray.features.batch import EncodedLog
from cacs_ray.features.profile import Profile, drift
from cacs_ray.features.store import open_encoded
from cacs_ray.recipes.score import score_log
from cacs_ray.recipes.truth import choice_gain, find_market, next_day_value
from cacs_ray.schema import POLICIES, Column
from cacs_ray.tracking.client import Run

if TYPE_CHECKING:
    from cacs_ray.recipes.cycle import Cycle

log = logging.getLogger(__name__)


def report_cycle(cycle: "Cycle") -> None:
    """Evaluate a cycle's bundle; write report.json, report.html and the figures.

    The headline figures become the summary of the stage `evaluate`.
    """

    def body(directory: Path, _: Run) -> dict[str, Any]:
        predictor = Predictor.load(cycle.out / "bundle")
        test = open_encoded(cycle.work / "features", "test")
        judged = Judged(
            cycle.dataset,
            cycle.validated,
            cycle.windows.test,
            read_profile(cycle.out / "bundle"),
        )
        report = {
            "windows": cycle.windows.model_dump(),
            "stages": {
                name: dict(figures) for name, figures in cycle.stages.summaries.items()
            },
            "curves": _curves(cycle.work),
            **judge(
                predictor,
                test,
                judged,
                cycle.config.evaluation,
                score_log(predictor, test),
            ),
        }
        plain = keep_report(report, cycle.out)
        write_figures(plain, directory / "figures")
        # The parent run logs these, where runs are compared.
        return headline(plain)

    made_from = {"evaluation": cycle.config.evaluation.model_dump()}
    cycle.stages.stage(
        "evaluate",
        made_from,
        body,
        after=("bundle",),
        leaves=(cycle.out / "report.json", cycle.out / "report.html"),
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """Where the judged rows come from."""

    dataset: Dataset
    validated: ValidatedLog
    window: tuple[int, int]
    """[start, end) in microseconds."""
    training: Profile
    """What the window looked like that the bundle was trained on."""


def judge(
    predictor: Predictor,
    test: EncodedLog,
    judged: Judged,
    settings: EvaluationSettings,
    scored: ScoredLog,
) -> dict[str, Any]:
    """Compute all figures of a bundle on an encoded window.

    On a simulated log the truth beside it is asked too.

    Args:
        predictor: the open bundle.
        test: the window, encoded by the bundle's features.
        judged: where its rows come from.
        settings: of the evaluation.
        scored: the same window, of `score_log`.
    """
    report = {
        "dataset": judged.dataset.root.name,
        "bundle_id": predictor.bundle_id,
        "data": judged.validated.summary.model_dump(mode="json"),
        "drift": drift(judged.training, test, predictor.fitted.spec),
        **evaluate(scored, settings),
    }
    market = find_market(judged.dataset.root)
    if market is not None:
        files = [str(file) for file in judged.validated.impression_files]
        report["truth"] = {
            "next_day": next_day_value(market, predictor, POLICIES),
            "choice_gain": choice_gain(
                market,
                window_rows(files, judged.window),
                _choices(scored, predictor),
                rare_ads(scored),
            ),
        }
    return report


def keep_report(report: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write report.json and report.html; return what the JSON holds."""
    plain = plain_report(report)
    write_json(out / "report.json", plain)
    write_report(plain, out / "report.html")
    return plain


def headline(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures that one looks at first."""
    lifts = report["policies"]["cacs"]["lift_over_random"]
    # First, because a page that compares runs begins with the first metric.
    figures = {"lift_snips_percent": lifts["snips"]["value"]}
    for policy in ("random", "popular", "cacs", "teacher"):
        if policy in report["policies"]:
            figures[f"sctr_{policy}"] = report["policies"][policy]["sctr"]["value"]
    lift = lifts["sctr"]
    figures["lift_percent"] = lift["value"]
    figures["lift_interval"] = [lift["low"], lift["high"]]
    if "with_choice" in report["policies"]["cacs"]:
        choice = report["policies"]["cacs"]["with_choice"]
        lift = choice["lift_over_random"]["sctr"]
        figures["choice_share"] = choice["share"]
        figures["lift_with_choice_percent"] = lift["value"]
        figures["lift_with_choice_interval"] = [lift["low"], lift["high"]]
    if "ranker" in report:
        figures["auc"] = report["ranker"]["all"].get("auc")
    for policy, gain in report.get("truth", {}).get("choice_gain", {}).items():
        if policy in ("popular", "cacs", "teacher"):
            figures[f"gain_{policy}"] = gain["all"]["value"]
    return figures


def headline_metrics(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return headline figures as metrics of a run, in five digits.

    MLflow's tables show every digit there is; `report.json` has them all.

    >>> headline_metrics({"auc": 0.6982907276748105, "lift_interval": [1.0, 2.0]})
    {'test/auc': 0.69829}
    """
    return {
        f"test/{name}": float(f"{value:.5g}")
        for name, value in figures.items()
        if isinstance(value, int | float)
    }


def _choices(scored: ScoredLog, predictor: Predictor) -> dict[str, list[str]]:
    """Return each policy's chosen creative ids on the scored rows."""
    ids = np.array(predictor.catalogue.creative_ids, dtype=object)
    rows = np.arange(len(scored))
    chosen = {}
    for policy in available_policies(scored):
        if policy in ("logged", "random"):
            continue
        best = policy_probabilities(scored, policy).argmax(axis=1)
        chosen[policy] = ids[scored.lists[rows, best]].tolist()
    return chosen


def window_rows(files: list[str], window: tuple[int, int]) -> pa.Table:
    """Read the accepted impressions of a window, in the order of the store."""
    time_us = pl.col(Column.REQUEST_TS).dt.epoch("us")
    parts = [
        pl.read_parquet(file).filter((time_us >= window[0]) & (time_us < window[1]))
        for file in files
    ]
    return pl.concat(parts, how="vertical_relaxed").to_arrow()


def _curves(work: Path) -> dict[str, list[dict[str, float]]]:
    """Return the metrics by step of every training stage."""
    curves = {}
    for name in ("teacher", "student", "ranker"):
        file = work / name / "metrics.jsonl"
        if file.is_file():
            records = pl.read_ndjson(file).to_dicts()
            curves[name] = [
                {
                    "step": r["step"],
                    **{k: v for k, v in r["metrics"].items() if v is not None},
                }
                for r in records
            ]
    return curves
