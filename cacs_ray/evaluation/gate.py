"""May a challenger become the champion? Pure functions over two reports.

What was measured beside the reports (a fresh process, latency, both releases on the
same impressions, the champion's own decisions) is judged in `gate_measured`.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.evaluation.checks import (
    Check,
    Report,
    at,
    at_most,
    check,
    is_number,
    not_surely_below,
    within,
)
from cacs_ray.evaluation.gate_measured import (
    MeasuredRules,
    judge_measured,
    not_asked,
)
from cacs_ray.evaluation.paired import compare_paired

_TRAINING_WINDOW = ("train_start_us", "train_end_us")
_UNPAIRED = {
    "no sums": "a report holds no sums to compare in pairs",
    "not the same window": "the sums are of different impressions",
}
_PAIRED = {
    "log_loss_gain": ("paired_log_loss", "predicts clicks surely worse"),
    "snips_lift_cacs": ("paired_snips", "chooses creatives surely worse"),
}
"""Figure of `paired.compare_paired` -> its check, and what is wrong below 0."""


class GateRules(Config):
    """What a challenger must show."""

    min_calibration: float = Field(default=0.8, gt=0)
    max_calibration: float = Field(default=1.25, gt=0)
    """Predicted clicks over clicks, on all logged impressions."""
    min_bucket_calibration: float = Field(default=0.6, gt=0)
    max_bucket_calibration: float = Field(default=1.7, gt=0)
    """The same in each bucket of how often a creative had been shown."""
    min_bucket_clicks: float = Field(default=50.0, gt=0)
    """A bucket with fewer clicks says nothing and is not checked."""
    min_agreement: float = Field(default=0.3, ge=0, le=1)
    """Share of lists where student and teacher put the same creative first."""
    max_reject_share: float = Field(default=0.05, ge=0, le=1)
    """Rejected rows of the judged log."""
    max_drift: float = Field(default=0.05, ge=0, le=1)
    """Jensen-Shannon divergence, in bits, of a field between the training window and
    the judged one; about a population stability index of 0.25."""
    max_id_drift: float = Field(default=0.3, ge=0, le=1)
    """The same for ids, of which new ones come every day."""
    measured: MeasuredRules = MeasuredRules()


def judge(
    challenger: Report,
    champion: Report | None = None,
    rules: GateRules | None = None,
    *,
    is_intact: bool = True,
    measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compare a challenger's report with the champion's.

    Both must be reports of the same test window, with the sums of `paired.paired_sums`,
    else they are not comparable and the gate says so.

    Args:
        challenger: its report, as of `evaluation.report.plain_report`.
        champion: the report of what is served now; None for the first release.
        rules: thresholds.
        is_intact: whether every file of the bundle has the digest of its manifest.
        measured: as `gate_measured.judge_measured` takes it.

    Returns:
        `passed` (all checks passed), `reason` (one line), `checks`, each with
        `name`, `value`, `threshold`, `passed` and, when it failed, `reason`, and
        `notes`: lines on what was not asked and which thresholds are not the
        defaults. A figure that is missing or not a number fails its check.
    """
    rules = rules or GateRules()
    checks = [
        check("bundle_intact", is_intact, True, is_intact, "digests do not match"),
        *_data(challenger, rules),
        _no_nan(challenger),
        _beats_random(challenger),
        *_calibrated(challenger, rules),
        _agrees(challenger, rules),
        *_against_champion(challenger, champion, rules),
        *judge_measured(measured or {}, rules.measured),
    ]
    failed = [one for one in checks if not one["passed"]]
    reason = "; ".join(f"{one['name']}: {one['reason']}" for one in failed)
    return {
        "passed": not failed,
        "reason": reason or f"all {len(checks)} checks passed",
        "checks": checks,
        "notes": [*not_asked(measured or {}), *_changed(rules)],
    }


def _changed(rules: GateRules) -> list[str]:
    """Name thresholds of one's own: who reads "passed" later shall see them."""
    changed = rules.model_dump(exclude_defaults=True)
    return [f"thresholds changed: {json.dumps(changed)}"] if changed else []


def _data(report: Report, rules: GateRules) -> Iterator[Check]:
    """Yield checks of the judged log: rejects, and drift of every declared field."""
    read, rejected = (at(report, "data", "rows", n) for n in ("read", "rejected"))
    share = rejected / read if is_number(rejected) and read else None
    yield at_most("reject_share", share, rules.max_reject_share, "too many bad rows")
    fields = at(report, "drift") or {}
    if not fields:
        reason = "the report compares no field with the training window"
        yield check("drift", None, "all fields", False, reason)
    for name, field in fields.items():
        limit = rules.max_id_drift if at(field, "kind") == "id" else rules.max_drift
        reason = "the window is not like the one that was trained on"
        yield at_most(f"drift {name}", at(field, "divergence"), limit, reason)


def _no_nan(report: Report) -> Check:
    """Figures on which the decision rests must exist."""
    figures = {
        "sctr": at(report, "policies", "cacs", "sctr", "value"),
        "snips": at(report, "policies", "cacs", "snips", "value"),
        "lift": at(report, "policies", "cacs", "lift_over_random", "snips", "value"),
    }
    missing = [name for name, value in figures.items() if not is_number(value)]
    return check(
        "figures_exist",
        len(missing),
        0,
        not missing,
        f"no number for {', '.join(missing)}",
    )


def _beats_random(report: Report) -> Check:
    high = at(report, "policies", "cacs", "lift_over_random", "snips", "high")
    reason = "the lift over random is surely negative"
    return not_surely_below("not_below_random", high, 0.0, reason)


def _calibrated(report: Report, rules: GateRules) -> Iterator[Check]:
    """Yield the check of all impressions, and of each bucket that can say something."""
    reason = "predicted clicks are not the clicks"
    ranker = at(report, "ranker", "all")
    ratio = at(report, "ranker", "all", "calibration", "ratio")
    limits = rules.min_calibration, rules.max_calibration
    yield within("calibration", ratio, limits, reason)
    limits = rules.min_bucket_calibration, rules.max_bucket_calibration
    for bucket, figures in (at(ranker or {}, "by_bucket") or {}).items():
        clicks = at(figures, "calibration", "clicks")
        if is_number(clicks) and clicks >= rules.min_bucket_clicks:
            ratio = at(figures, "calibration", "ratio")
            yield within(f"calibration {bucket}", ratio, limits, reason)


def _agrees(report: Report, rules: GateRules) -> Check:
    share = at(report, "agreement", "all", "top1")
    passed = is_number(share) and share >= rules.min_agreement
    return check(
        "teacher_agreement",
        share,
        rules.min_agreement,
        passed,
        "the selector does not follow its teacher",
    )


def _against_champion(
    challenger: Report, champion: Report | None, rules: GateRules
) -> Iterator[Check]:
    """Yield the checks that need two reports; none for the first release."""
    if champion is None:
        return
    same = all(
        at(challenger, name) == at(champion, name)
        for name in ("rows", "impressions", "clicks")
    )
    yield check(
        "same_window",
        at(challenger, "rows"),
        at(champion, "rows"),
        same,
        "the two reports judge different impressions",
    )
    yield from _paired(challenger, champion)
    for metric in ("sctr", "snips"):
        yield _not_worse(challenger, champion, metric)
    # Buckets count impressions in training: only equal windows make equal buckets.
    trained = [
        [at(report, "windows", name) for name in _TRAINING_WINDOW]
        for report in (challenger, champion)
    ]
    if None in trained[0] or trained[0] != trained[1]:
        return
    for bucket, figures in (
        at(champion, "policies", "cacs", "by_bucket") or {}
    ).items():
        clicks = at(figures, "matched_clicks")
        if is_number(clicks) and clicks >= rules.min_bucket_clicks:
            yield _not_worse(challenger, champion, "snips", bucket)


def _paired(challenger: Report, champion: Report) -> Iterator[Check]:
    """Yield checks on the very same impressions: log loss and SNIPS of the choices.

    An interval of its own is wide enough to hide a challenger that is surely worse
    on the same rows, and says nothing of the ranker.
    """
    before, now = (at(one, "paired") or {} for one in (champion, challenger))
    compared = compare_paired(before, now)
    status = compared["status"]
    reason = f"{_UNPAIRED.get(status)}; name a dataset with --logs"
    yield check("same_impressions", status, "ok", status == "ok", reason)
    if status == "ok":
        for figure, (name, wrong) in _PAIRED.items():
            high = at(compared, "figures", figure, "high")
            yield not_surely_below(name, high, 0.0, f"{wrong} than the champion")


def _not_worse(
    challenger: Report, champion: Report, metric: str, bucket: str | None = None
) -> Check:
    """Compare lifts over random, of one bucket of the chosen creative if it is named.

    A bucket in which the challenger chooses nothing has no lift and fails.
    """
    part = () if bucket is None else ("by_bucket", bucket)
    where = ("policies", "cacs", *part, "lift_over_random", metric)
    name = f"not_worse_{metric}" if bucket is None else f"not_worse_{metric} {bucket}"
    return not_surely_below(
        name,
        at(challenger, *where, "high"),
        at(champion, *where, "value"),
        "the champion's lift lies above the challenger's interval",
    )
