"""From a bundle to the champion: gate, register, switch; and the way back."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cacs_ray.data.files import read_json
from cacs_ray.errors import InputError
from cacs_ray.evaluation.gate import judge
from cacs_ray.manifest import verify_bundle
from cacs_ray.recipes.evaluate import evaluate_bundle
from cacs_ray.registry import Registry, Release, model_name

log = logging.getLogger(__name__)

Report = Mapping[str, Any]


def promote_bundle(
    bundle: str | Path,
    *,
    tracking_uri: str | None = None,
    logs: str | Path | None = None,
    is_dry_run: bool = False,
) -> dict[str, Any]:
    """Judge a bundle against the champion and, if it passes, make it the champion.

    Args:
        bundle: directory of the bundle, with its report.json beside it.
        tracking_uri: as for `Tracker.open`.
        logs: a dataset later than what either bundle has learnt from; both are then
            judged on it. Without it the reports of their cycles are compared, which
            must be of the same test window.
        is_dry_run: only judge; nothing is registered.

    Returns:
        The gate's verdict (`passed`, `reason`, `checks`) with `is_promoted`,
        `model`, `bundle_id`, and `version` where one was registered.

    Raises:
        InputError: the bundle is damaged, has no report, or MLflow is away.
    """
    root = Path(bundle).absolute()
    manifest = verify_bundle(root)
    registry = Registry(tracking_uri, model_name(manifest))
    champion = registry.find()
    is_champion = champion is not None and champion.bundle_id == manifest["bundle_id"]
    rival = None if is_champion else champion
    challenger_report, rival_report = _reports(root, registry, rival, logs)
    verdict = judge(challenger_report, rival_report)
    result = {
        **verdict,
        "is_promoted": False,
        "model": registry.model,
        "bundle_id": manifest["bundle_id"],
        "champion": champion.bundle_id if champion else None,
    }
    _tell(verdict)
    if is_dry_run:
        return result
    tags = {"gate": "passed" if verdict["passed"] else "refused"}
    report = root.parent / "report.json"
    release = registry.register(root, report=report if report.is_file() else None)
    registry.tag(release.version, {**tags, "gate_reason": verdict["reason"]})
    if verdict["passed"]:
        registry.promote(release.version)
    return {**result, "is_promoted": verdict["passed"], "version": release.version}


def roll_back(model: str, tracking_uri: str | None = None) -> dict[str, Any]:
    """Make the champion before the present one the champion again.

    Raises:
        InputError: there is none.
    """
    release = Registry(tracking_uri, model).roll_back()
    log.info("%s is the champion again: version %s", release.bundle_id, release.version)
    return {
        "model": model,
        "bundle_id": release.bundle_id,
        "version": release.version,
    }


def _reports(
    root: Path, registry: Registry, rival: Release | None, logs: str | Path | None
) -> tuple[Report, Report | None]:
    """Return the reports of the challenger and of its rival, if there is one."""
    if logs is None:
        own = root.parent / "report.json"
        if not own.is_file():
            raise InputError(
                "there is no report beside the bundle; name a dataset with --logs",
                source=str(own),
                rule="report",
            )
        return read_json(own), registry.report(rival) if rival else None
    work = root.parent / "gate"
    evaluate_bundle(root, logs, work / "challenger")
    challenger = read_json(work / "challenger" / "report.json")
    if rival is None:
        return challenger, None
    evaluate_bundle(registry.fetch(rival, work / "bundles"), logs, work / "champion")
    return challenger, read_json(work / "champion" / "report.json")


def _tell(verdict: Mapping[str, Any]) -> None:
    """Say what the gate found, a line a check."""
    for check in verdict["checks"]:
        mark = "ok " if check["passed"] else "NO "
        value = check["value"]
        shown = f"{value:.4g}" if isinstance(value, float) else value
        log.info("gate  %s %-22s %s", mark, check["name"], shown)
