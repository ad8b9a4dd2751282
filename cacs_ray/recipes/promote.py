"""From a bundle to the champion: gate, register, switch; and the way back."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cacs_ray.cluster import start_ray
from cacs_ray.data.files import read_json, write_json
from cacs_ray.errors import InputError
from cacs_ray.evaluation.gate import GateRules, judge
from cacs_ray.evaluation.model_card import CARD, version_description
from cacs_ray.evaluation.replica import try_release
from cacs_ray.evaluation.report import plain_report
from cacs_ray.evaluation.served import try_service
from cacs_ray.evaluation.slices import compare_slices
from cacs_ray.manifest import read_manifest, verify_bundle
from cacs_ray.recipes.counterfactual import ask_decisions
from cacs_ray.recipes.evaluate import report_and_scores
from cacs_ray.recipes.shown import show_verdict
from cacs_ray.registry import Registry, Release, model_name

log = logging.getLogger(__name__)

Report = Mapping[str, Any]
TryRelease = Callable[[Path, Path | None], Mapping[str, Any]]
"""Opens a challenger, and the champion beside it, as `try_out`. Who promotes so often
that the seconds count may leave `service` out: the verdict then notes it."""

_MOST_TAGGED = 300


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the gate may ask beside the reports."""

    logs: str | Path | None = None
    """A dataset later than what either bundle has learnt from; both are then judged
    on it, row by row. Without it the reports of their cycles are compared, which must
    be of the same test window."""
    decisions: str | Path | None = None
    clicks: str | Path | None = None
    """The champion's decision log and its clicks, for "would it have won?"."""

    def __post_init__(self) -> None:
        if (self.decisions is None) != (self.clicks is None):
            raise InputError(
                "decisions and clicks are one question: name both",
                source="--decisions",
                rule="decisions_and_clicks",
            )


def try_out(challenger: Path, champion: Path | None) -> dict[str, Any]:
    """Open a challenger in a fresh process, then let the service itself answer with it.

    Args:
        challenger: directory of its bundle.
        champion: directory of the bundle that is served now, None without one.

    Returns:
        `replica`, as of `replica.try_release`, and, of a bundle that opens, `service`,
        as of `served.try_service`.
    """
    replica = try_release(challenger, champion)
    if replica["error"] is not None:
        return {"replica": replica}
    return {"replica": replica, "service": try_service(challenger)}


def promote_or_refuse(
    bundle: str | Path | None,
    *,
    tracking_uri: str | None = None,
    evidence: Evidence | None = None,
    changes: Mapping[str, str | float | bool] | None = None,
    is_dry_run: bool = False,
) -> dict[str, Any]:
    """Do what `promote_bundle` does; a bundle that is refused is an error.

    Args:
        bundle: as there; None, for who named a model alone, is an error too.
        tracking_uri: as there.
        evidence: as there.
        changes: thresholds by their dotted names, as `Config.override` takes them.
        is_dry_run: only judge; the verdict is returned whatever it says.

    Raises:
        InputError: the bundle is refused, there is no such threshold, or as there.
    """
    if bundle is None:
        raise InputError(
            "only --rollback takes a model alone; name a bundle",
            source="--model",
            rule="bundle",
        )
    verdict = promote_bundle(
        bundle,
        tracking_uri=tracking_uri,
        evidence=evidence,
        rules=GateRules().override(changes or {}),
        is_dry_run=is_dry_run,
    )
    if not (verdict["passed"] or is_dry_run):
        raise InputError(verdict["reason"], source=str(bundle), rule="gate")
    return verdict


def promote_bundle(
    bundle: str | Path,
    *,
    tracking_uri: str | None = None,
    evidence: Evidence | None = None,
    rules: GateRules | None = None,
    is_dry_run: bool = False,
    try_it: TryRelease = try_out,
) -> dict[str, Any]:
    """Judge a bundle against the champion and, if it passes, make it the champion.

    The verdict is printed, written to `gate/gate.json` beside the bundle and, unless
    this is a dry run, kept with the registered version: the file among its artifacts,
    the outcome and each failed check as tags, and in its description above its model
    card.

    Args:
        bundle: directory of the bundle, with its report.json beside it.
        tracking_uri: as for `Tracker.open`.
        evidence: what to ask beside the reports.
        rules: thresholds.
        is_dry_run: only judge; nothing is registered.
        try_it: opens both bundles, as `try_out` does.

    Returns:
        The gate's verdict (`passed`, `reason`, `checks`, `notes`) with `is_promoted`,
        `model`, `bundle_id`, and `version` where one was registered, or, of a dry
        run, `would_promote`.

    Raises:
        InputError: the bundle is damaged, has no report, or MLflow is away.
    """
    root, evidence = Path(bundle).absolute(), evidence or Evidence()
    manifest = verify_bundle(root)
    registry = Registry(tracking_uri, model_name(manifest))
    champion = registry.find()
    is_champion = champion is not None and champion.bundle_id == manifest["bundle_id"]
    rival = None if is_champion else champion
    work = root.parent / "gate"
    rival_bundle = None if rival is None else registry.fetch(rival, work / "bundles")
    reports, measured = _judged(root, registry, rival, rival_bundle, evidence)
    measured |= try_it(root, rival_bundle)
    verdict = judge(*reports, rules, measured=measured)
    result = {
        **verdict,
        "is_promoted": False,
        "model": registry.model,
        "bundle_id": manifest["bundle_id"],
        "champion": champion.bundle_id if champion else None,
    }
    kept = work / "gate.json"
    write_json(kept, plain_report({**result, "measured": measured}))
    show_verdict(result)
    if is_dry_run:
        return {**result, "would_promote": verdict["passed"]}
    report = root.parent / "report.json"
    release = registry.register(root, report=report if report.is_file() else None)
    registry.attach(release.version, kept)
    # What an earlier try failed at must not stand beside what this one did.
    stale = {name: None for name in release.tags if name.startswith("gate.")}
    registry.tag(release.version, {**stale, **verdict_tags(verdict)})
    card = root.parent / CARD
    if card.is_file():
        registry.attach(release.version, card)
    text = card.read_text() if card.is_file() else ""
    note = version_description(text, verdict_note(verdict))
    registry.describe(release.version, note)
    if verdict["passed"]:
        registry.promote(release.version)
    return {**result, "is_promoted": verdict["passed"], "version": release.version}


def verdict_note(verdict: Mapping[str, Any]) -> str:
    """Say a verdict in Markdown: the outcome, each check that failed, the notes."""
    checks = verdict["checks"]
    failed = [check for check in checks if not check["passed"]]
    notes = [f"- Note: {note}" for note in verdict["notes"]]
    if not failed:
        return "\n\n".join([f"Gate: passed, all {len(checks)} checks.", *notes])
    lines = [
        f"- `{check['name']}`: {str(check['reason'])[:_MOST_TAGGED]}"
        for check in failed
    ]
    head = f"Gate: refused, {len(failed)} of {len(checks)} checks failed."
    end = "All checks: `gate.json` of its run."
    return "\n".join([head, "", *lines, *notes, "", end])


def verdict_tags(verdict: Mapping[str, Any]) -> dict[str, str]:
    """Return a verdict as tags of a version: outcome, reason, each failed check."""
    tags = {
        "gate": "passed" if verdict["passed"] else "refused",
        "gate_reason": str(verdict["reason"]),
    }
    failed = [check for check in verdict["checks"] if not check["passed"]]
    return tags | {
        f"gate.{check['name'].replace(' ', '_')}": str(check["reason"])[:_MOST_TAGGED]
        for check in failed
    }


def model_of(bundle: str | Path) -> str:
    """Return the registered model that a bundle is a version of.

    Its other files are not read: who has to go back now may hold a damaged bundle.

    Raises:
        InputError: there is no manifest that can be read.
    """
    return model_name(read_manifest(Path(bundle)))


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


def _judged(
    root: Path,
    registry: Registry,
    rival: Release | None,
    rival_bundle: Path | None,
    evidence: Evidence,
) -> tuple[tuple[Report, Report | None], dict[str, Any]]:
    """Return the reports of challenger and rival, and what was measured beside."""
    measured: dict[str, Any] = {}
    if evidence.decisions is not None and evidence.clicks is not None:
        measured["counterfactual"] = ask_decisions(
            root, evidence.decisions, evidence.clicks, champion=rival_bundle
        )
    if evidence.logs is None:
        own = root.parent / "report.json"
        if not own.is_file():
            raise InputError(
                "there is no report beside the bundle; name a dataset with --logs",
                source=str(own),
                rule="report",
            )
        before = registry.report(rival) if rival else None
        return (read_json(own), before), measured
    work = root.parent / "gate"
    with start_ray():
        challenger, scored = report_and_scores(root, evidence.logs, work / "challenger")
        if rival_bundle is None:
            return (challenger, None), measured
        champion, before_scored = report_and_scores(
            rival_bundle, evidence.logs, work / "champion"
        )
    measured["slices"] = compare_slices(scored, before_scored)
    return (challenger, champion), measured
