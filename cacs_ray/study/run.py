"""A whole study: units one after the other, their variants side by side on Ray."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import ray

from cacs_ray.cluster import start_ray
from cacs_ray.data.files import write_json
from cacs_ray.errors import InputError
from cacs_ray.evaluation.report import plain_report
from cacs_ray.recipes.config import CycleConfig, run_config
from cacs_ray.recipes.record import by_group, lasting_key, record_made_from
from cacs_ray.simulation.recipes import MarketRecipe, market_recipe
from cacs_ray.study.coverage import count_covered
from cacs_ray.study.figures import Figures
from cacs_ray.study.kept import is_kept
from cacs_ray.study.plan import (
    FULL,
    RANKERS,
    SourceName,
    StudyConfig,
    Variant,
    variants_of,
)
from cacs_ray.study.rankers import RankerInputs, run_ranker
from cacs_ray.study.report import write_study
from cacs_ray.study.summary import metric_agreement, summarise
from cacs_ray.study.unit import Unit
from cacs_ray.study.variant import SharedInputs, can_choose, run_variant
from cacs_ray.tracking.client import Run, Tracker

log = logging.getLogger(__name__)

Inputs = TypeVar("Inputs", SharedInputs, RankerInputs)

LOGGED_METRICS: Final = ("sctr", "nsctr", "snips", "dr")


def run_study(
    config: StudyConfig,
    changes: Mapping[str, str | float | bool],
    *,
    out: str | Path,
    logs: str | Path | None = None,
    coverage: int = 0,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Run what is missing of a study and write its tables.

    Args:
        config: recipe, sources, seeds, variants.
        changes: of the recipe of the cycle; its seeds are replaced in any case.
        out: gets units/, study.json, study.html, study.md; a study that was broken
            off goes on there.
        logs: dataset of the source `logs`.
        coverage: logs to draw for the coverage of off-policy intervals; 0 asks
            nothing.
        tracking_uri: MLflow, as for `run_cycle`.

    Returns:
        The headline for the job's last line.

    Raises:
        InputError: there is no such variant, the source `logs` and its dataset are
            not given together, or `out` was begun with other settings.
    """
    if ("logs" in config.sources) != (logs is not None):
        raise InputError(
            "the source `logs` and its dataset go together",
            source="--logs",
            rule="logs_of_source",
        )
    for source in config.sources:
        variants_of(source, config.variants)
    root = Path(out).absolute()
    cycle = run_config(config.recipe).override(changes)
    market = market_recipe(config.recipe)
    dataset = None if logs is None else Path(logs).absolute()
    units = [
        _unit(cycle, market, root, source, seed, dataset)
        for source in config.sources
        for seed in config.seeds
    ]
    # What is refused leaves the files and the run of the earlier call as they are.
    for unit in units:
        unit.refuse_other_settings()
    results: dict[str, dict[int, dict[str, Any]]] = {}
    with (
        start_ray(),
        Tracker.open(tracking_uri, f"study {root.name}", root / "tracking") as tracker,
        tracker.run(
            f"study {root.name}",
            tags={"stage": "study"},
            key=lasting_key(root / "study.key"),
        ) as run,
    ):
        parts = {"config": config, "market": market, "cycle": cycle}
        made_from = {n: part.model_dump(mode="json") for n, part in parts.items()}
        record_made_from(run, root, made_from)
        # Seeds, sources and variants may grow while a study goes on.
        run.params({"recipe": config.recipe, **changes})
        run.tags({"seeds": config.seeds, "sources": config.sources})
        for unit in units:
            found = _run_unit(unit, variants_of(unit.source, config.variants), run)
            results.setdefault(unit.source, {})[unit.seed] = found
        covered = count_covered(market, root, coverage) if coverage else None
        study = plain_report(_tables(config, results, covered))
        write_json(root / "study.json", study)
        write_study(study, root)
        run.artifact(root / "study.html")
        run.artifact(root / "study.json")
    return _headline(study, root)


def _unit(
    cycle: CycleConfig,
    market: MarketRecipe,
    out: Path,
    source: SourceName,
    seed: int,
    logs: Path | None,
) -> Unit:
    seeded = cycle.override(
        {f"{stage}.loop.seed": seed for stage in ("teacher", "student", "ranker")}
    )
    root = out / "units" / f"{source}-seed{seed}"
    if source == "logs":
        return Unit(source, seed, root, seeded, logs, None, out / "content")
    recipe = market.override({"logging.policy": source})
    return Unit(source, seed, root, seeded, None, recipe)


def _run_unit(unit: Unit, variants: Mapping[str, Variant], run: Run) -> dict[str, Any]:
    tags = {"stage": "unit", "source": unit.source, "seed": unit.seed}
    with run.child(unit.name, tags, key=f"{run.id}/{unit.name}") as child:
        log.info("%s: the full method", unit.name)
        of_variants, of_rankers = unit.prepare(child)
        spec = of_variants.inputs.spec
        able = {n: v for n, v in variants.items() if can_choose(spec, v)}
        return {
            "policies": unit.baselines(),
            "cascade": unit.cascade(),
            "variants": _side_by_side(run_variant, able, of_variants, child),
            "rankers": _side_by_side(run_ranker, RANKERS, of_rankers, child),
        }


def _side_by_side(
    train: Callable[[str, Variant, Inputs], Figures],
    variants: Mapping[str, Variant],
    shared: Inputs,
    run: Run,
) -> dict[str, Figures]:
    """Train what is missing, one task a variant, each on one processor."""
    task = ray.remote(num_cpus=1)(train)
    inputs = ray.put(shared)
    told = {
        name
        for name, variant in variants.items()
        if is_kept(shared.results / f"{name}.json", variant.made_from)
    }
    waiting = {
        task.remote(name, variant, inputs): name for name, variant in variants.items()
    }
    found: dict[str, Figures] = {}
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        name = waiting.pop(done)
        try:
            found[name] = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            # One that diverges must not take the others with it.
            log.error("%s: %s failed: %s", run.name, name, error.cause)
            continue
        if name not in told:
            log.info("%s: %-22s %d of %d", run.name, name, len(found), len(variants))
            _tell(run, name, variants[name], found[name])
    return {name: found[name] for name in variants if name in found}


def _tell(run: Run, name: str, variant: Variant, figures: Figures) -> None:
    """Log a variant as a run of its own."""
    tags = {"stage": "variant", "variant": name}
    with run.child(name, tags, key=f"{run.id}/{name}") as child:
        child.params(dict(variant.changes))
        child.metrics(by_group({f"test/{k}": v for k, v in figures.items()}))


def _tables(
    config: StudyConfig,
    results: Mapping[str, Mapping[int, Mapping[str, Any]]],
    covered: Mapping[str, Any] | None,
) -> dict[str, Any]:
    study: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "coverage": covered,
        "sources": {},
    }
    for source, by_seed in results.items():
        cells: dict[str, dict[int, Figures]] = {}
        for seed, found in by_seed.items():
            policies = {f"policy {n}": f for n, f in found["policies"].items()}
            for name, figures in (found["variants"] | policies).items():
                cells.setdefault(name, {})[seed] = figures
        rankers = {
            name: {
                seed: found["rankers"][name]
                for seed, found in by_seed.items()
                if name in found["rankers"]
            }
            for name in RANKERS
        }
        everything = [
            {**found["policies"], **found["variants"]} for found in by_seed.values()
        ]
        study["sources"][source] = {
            "units": {str(seed): found for seed, found in by_seed.items()},
            "summary": summarise(cells, config.level),
            "rankers": summarise(rankers, config.level, reference="frozen"),
            "metrics": metric_agreement(everything, LOGGED_METRICS),
            "cascade": _cascade(by_seed, config.level),
        }
    return study


def _cascade(
    by_seed: Mapping[int, Mapping[str, Any]], level: float
) -> dict[str, Any] | None:
    """Summarise the orders over seeds, each paired with cacs."""
    found = {s: one["cascade"] for s, one in by_seed.items() if one["cascade"]}
    if not found:
        return None
    orders = next(iter(found.values()))["orders"]
    cells = {
        order: {seed: one["orders"][order] for seed, one in found.items()}
        for order in orders
    }
    regret = {"cacs": {seed: one["regret"] for seed, one in found.items()}}
    return {
        "orders": summarise(cells, level, reference="cacs"),
        "regret": summarise(regret, level, reference="")["cacs"],
    }


def _headline(study: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return the figures that one looks at first."""
    headline: dict[str, Any] = {"out": str(out), "report": str(out / "study.html")}
    for source, tables in study["sources"].items():
        full = tables["summary"][FULL]
        figure = "gain" if "gain" in full else "lift"
        if figure in full:
            headline[f"{source}_{figure}"] = round(full[figure]["value"], 4)
    return headline
