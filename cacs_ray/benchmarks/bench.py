"""All comparisons by name, and the run of some of them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cacs_ray.benchmarks.deaths import deaths
from cacs_ray.benchmarks.machine import machine
from cacs_ray.benchmarks.outcome import Comparison, Outcome, Settings
from cacs_ray.benchmarks.preprocessing import preprocessing
from cacs_ray.benchmarks.report import markdown, replace_section, show, write_report
from cacs_ray.benchmarks.scale import scale
from cacs_ray.benchmarks.tracking import tracking
from cacs_ray.benchmarks.training import peers, training
from cacs_ray.benchmarks.vocabulary import vocabulary
from cacs_ray.errors import InputError

log = logging.getLogger(__name__)

COMPARISONS: Final[Mapping[str, Comparison]] = {
    "preprocessing": preprocessing,
    "training": training,
    "peers": peers,
    "vocabulary": vocabulary,
    "scale": scale,
    "deaths": deaths,
    "tracking": tracking,
}
"""What `--only` may name."""


def run_bench(
    settings: Settings,
    names: Sequence[str],
    *,
    comparisons: Mapping[str, Comparison] = COMPARISONS,
    results: Path | None = None,
) -> dict[str, Any]:
    """Run some comparisons one after the other and write what they say.

    Results are written after each comparison, so that one that fails leaves those
    before it.

    Args:
        settings: rows, repeats and where to write.
        names: of `comparisons`.
        comparisons: what there is; `COMPARISONS` and what stands above this package.
        results: document whose marked section gets the table; None leaves it.

    Returns:
        For the last line of the job.

    Raises:
        InputError: a name is not known, or the document has no markers.
    """
    unknown = sorted(set(names) - set(comparisons))
    if unknown or not names:
        raise InputError(
            f"no comparison {unknown}; known: {sorted(comparisons)}",
            source="--only",
            rule="known_comparison",
        )
    settings.out.mkdir(parents=True, exist_ok=True)
    facts = machine()
    outcomes: list[Outcome] = []
    for name in names:
        log.info("%s ...", name)
        outcomes += comparisons[name](settings)
        write_report(settings.out, outcomes, facts)
        if results is not None:
            replace_section(results, markdown(outcomes, facts))
    show(outcomes)
    return {
        "out": settings.out,
        "comparisons": len(outcomes),
        "goals": sum(o.is_met is not None for o in outcomes),
        "missed": [o.comparison for o in outcomes if o.is_met is False],
    }
