"""How much of tomorrow is new: the share of later impressions without a memory.

A training log shows every creative as seen; the traffic after it does not. A gate
that is trained on seen ones alone leaves to memory what content has to say.
"""

import numpy as np

from cacs_ray.models.adaptive_dropout import SIDES
from cacs_ray.schema import Side
from cacs_ray.training.rows import Rows
from cacs_ray.training.stage import StageInput


def cold_shares(inputs: StageInput, later: Rows | None) -> dict[Side, float]:
    """Measure the share of new creatives and ads after the training window.

    Args:
        inputs: gives the identity fields and the training counts.
        later: the validation rows; None when there are none.

    Returns:
        Side -> weighted share in [0, 1] of impressions where no identity of the
        shown creative (or ad) was seen in training; empty when nothing can be
        said. A side without identities has nothing to forget: 0.
    """
    if later is None:
        return {}
    log = later.log
    shown = log.lists[log.list_row, log.shown_index]
    weight = np.asarray(log.weight, np.float64)
    rows = {"creative": shown, "ad": np.asarray(log.ad_row)}
    tables = {"creative": log.creatives, "ad": log.ads}
    shares: dict[Side, float] = {}
    for side in SIDES:
        fields = [f for f in inputs.spec.of(side) if f.kind == "id"]
        is_new = np.full(len(log), bool(fields))
        for field in fields:
            counts = inputs.counts[field.vocabulary or ""]
            index = tables[side][field.key][rows[side]]
            is_new &= (index == 0) | (counts[index] == 0)
        shares[side] = float(weight @ is_new / max(weight.sum(), 1e-12))
    return shares
