"""All loops of a comparison, one after the other, and their report."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cacs_ray.cluster import start_ray
from cacs_ray.data.files import write_json
from cacs_ray.evaluation.report import plain_report
from cacs_ray.live.figures import day_rates
from cacs_ray.live.loop import Loop, Outcome
from cacs_ray.live.market import LiveSeed
from cacs_ray.live.plan import GREEDY, LiveConfig, arms_of
from cacs_ray.live.report import write_live
from cacs_ray.live.summary import SeedOutcome, summarise_live
from cacs_ray.recipes.config import CycleConfig, run_config
from cacs_ray.recipes.record import lasting_key, record_made_from
from cacs_ray.simulation.recipes import MarketRecipe, market_recipe
from cacs_ray.tracking.client import Run, Tracker

log = logging.getLogger(__name__)

Changes = Mapping[str, str | float | bool]


def run_live(
    config: LiveConfig,
    *,
    out: str | Path,
    changes: Changes,
    market_changes: Changes,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Play what is missing of all loops and write their report.

    Args:
        config: recipe, days, seeds, arms.
        out: gets `seeds/`, live.json, live.html, live.md; a comparison that was
            broken off goes on there, day by day.
        changes: of the recipe of the cycle; its seeds are replaced in any case.
        market_changes: of the recipe of the market; its later days are `config.days`.
        tracking_uri: MLflow, as for `run_cycle`: one run a loop, a step a day.

    Returns:
        The headline for the job's last line.

    Raises:
        InputError: there is no such arm or recipe, or `out` was begun with other
            settings.
    """
    arms = arms_of(config.arms)
    root = Path(out).absolute()
    cycle = run_config(config.recipe).override(changes)
    market = market_recipe(config.recipe).override(
        {**market_changes, "traffic.num_later_days": config.days}
    )
    parts = {"config": config, "market": market, "cycle": cycle}
    made_from = {n: part.model_dump(mode="json") for n, part in parts.items()}
    seeds = [_seed(root, cycle, market, seed) for seed in config.seeds]
    # What is refused leaves the files and the run of the earlier call as they are.
    for one in seeds:
        one.refuse_other_settings()
    is_new = not (root / "live.key").is_file()
    with (
        start_ray(),
        Tracker.open(tracking_uri, f"live {root.name}", root / "tracking") as tracker,
        tracker.run(
            f"live {root.name}",
            tags={"stage": "live"},
            key=lasting_key(root / "live.key"),
        ) as run,
    ):
        record_made_from(run, root, made_from)
        tell_settings(run, config, {**changes, **market_changes}, is_new=is_new)
        found: dict[int, SeedOutcome] = {}
        for one in seeds:
            oracle = {day: _oracle(one, day) for day in one.days}
            found[one.seed] = SeedOutcome(oracle, {})
            for name, arm in arms.items():
                loop = Loop(name, arm, one, one.root / "loops" / name)
                found[one.seed].arms[name] = _play(loop, oracle, run)
        live = plain_report({**made_from, **summarise_live(found, config.level)})
        write_json(root / "live.json", live)
        write_live(live, root)
        for name in ("live.html", "live.json"):
            run.artifact(root / name)
    return _headline(live, root)


def tell_settings(
    run: Run, config: LiveConfig, changes: Changes, *, is_new: bool
) -> None:
    """Log what a comparison is of.

    Args:
        run: of the comparison.
        config: recipe, days, seeds, arms.
        changes: of both recipes.
        is_new: whether the run was not there before. Seeds and arms may grow while
            a comparison goes on, which parameters cannot: tags say what is so now.
    """
    run.params({"recipe": config.recipe, "days": config.days, **changes})
    growing = {"seeds": config.seeds, "arms": config.arms}
    run.tags(growing)
    if is_new:
        run.params(growing)


def _seed(root: Path, cycle: CycleConfig, market: MarketRecipe, seed: int) -> LiveSeed:
    seeded = cycle.override(
        {f"{stage}.loop.seed": seed for stage in ("teacher", "student", "ranker")}
    )
    place = root / "seeds" / f"seed{seed}"
    return LiveSeed(seed, place, seeded, market, root / "content")


def _oracle(seed: LiveSeed, day: int) -> dict[str, float]:
    assert seed.market is not None  # claimed and drawn before anything is kept
    return seed.oracle(day)


def _play(
    loop: Loop, oracle: Mapping[int, Mapping[str, float]], run: Run
) -> dict[int, Outcome]:
    """Play one loop to its end; what is new is told to MLflow and to people."""
    name = f"seed{loop.of.seed}-{loop.name}"
    tags = {"stage": "loop", "arm": loop.name, "seed": loop.of.seed}
    days: dict[int, Outcome] = {}
    with run.child(name, tags, key=f"{run.id}/{name}") as child:
        for day, outcome, is_old in loop.play():
            days[day] = outcome
            if is_old:
                continue
            rates = day_rates(outcome["figures"], oracle[day])
            child.metrics({f"live/{k}": v for k, v in rates.items()}, step=day)
            child.metrics({"live/is_promoted": float(outcome["is_promoted"])}, step=day)
            log.info(
                "%s day %d: true CTR %.4f, regret %.1f %%, found %.0f of %.0f, %s",
                name,
                day,
                rates["true_ctr"],
                100 * rates["regret"],
                outcome["figures"]["found"],
                outcome["figures"]["findable"],
                "promoted" if outcome["is_promoted"] else outcome["reason"],
            )
    return days


def _headline(live: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return the figures that one looks at first."""
    headline: dict[str, Any] = {"out": str(out), "report": str(out / "live.html")}
    for arm, figures in live["arms"].items():
        headline[f"{arm}_true_ctr"] = figures["true_ctr"]["value"]
        if arm != GREEDY and "less" in figures["true_ctr"]:
            headline[f"{arm}_less_greedy"] = figures["true_ctr"]["less"]["value"]
    return headline
