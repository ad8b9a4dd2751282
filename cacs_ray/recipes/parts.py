"""What a cycle hands over to be bundled."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from cacs_ray import __version__
from cacs_ray.bundle import creative_vectors
from cacs_ray.bundling import BundleParts
from cacs_ray.features.context import Entities
from cacs_ray.features.profile import make_profile
from cacs_ray.features.store import open_encoded, open_fitted
from cacs_ray.models.calibration import Calibration
from cacs_ray.models.saved import load_selector
from cacs_ray.schema import Column

if TYPE_CHECKING:
    from cacs_ray.recipes.cycle import Cycle


def bundle_parts(cycle: "Cycle") -> BundleParts:
    """Collect what a bundle holds; nothing is calibrated yet."""
    encoded = open_encoded(cycle.work / "features", "validation")
    fitted = open_fitted(cycle.work / "features")
    entities = Entities(encoded.users, encoded.ads, encoded.creatives, {})
    earlier = cycle.warm_started_from
    selector = load_selector(cycle.selector_directory, fitted.spec)
    return BundleParts(
        fitted=fitted,
        entities=entities,
        user_ids=cycle.validated.users.select([Column.USER_ID]),
        model_directories={
            "selector": cycle.selector_directory,
            "ranker": cycle.work / "ranker",
            "teacher": cycle.work / "teacher",
        },
        creative_vectors=creative_vectors(selector, entities, fitted.catalogue),
        calibration=Calibration(),
        config=cycle.config.model_dump(mode="json"),
        lineage={
            "dataset": cycle.dataset.root.name,
            "dataset_digest": cycle.digest,
            "windows": cycle.stages.summaries["features"]["windows"],
            "code_version": __version__,
            "torch": version("torch").partition("+")[0],
            **({"warm_started_from": earlier} if earlier else {}),
        },
        profile=make_profile(
            open_encoded(cycle.work / "features", "train"), fitted.spec
        ),
    )
