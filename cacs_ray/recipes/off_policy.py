"""A policy valued from another policy's log, beside what it really earned."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cacs_ray.cluster import start_ray
from cacs_ray.data.dataset import read_dataset
from cacs_ray.data.logs import validate_log
from cacs_ray.data.public import POLICY_FILE, PROBABILITY
from cacs_ray.evaluation.off_policy import compare_with_on_policy
from cacs_ray.recipes.report import keep_report
from cacs_ray.schema import Column


def value_off_policy(
    logs: str | Path, on_policy_logs: str | Path, out: str | Path
) -> dict[str, Any]:
    """Value the policy behind one log from the rows of another.

    Args:
        logs: dataset whose propensities are known, for instance uniform.
        on_policy_logs: dataset logged by the policy that is valued; its choice
            probabilities are read from `policy.parquet` beside its dataset.yaml
            (ad_id, creative_id, probability) when there is one, and otherwise
            estimated by the shares of its own impressions.
        out: gets report.json and report.html.

    Returns:
        The estimates with intervals beside the on-policy CTR, for the last line.

    Raises:
        InputError: a dataset breaks a rule, or a propensity is missing.
    """
    root = Path(out).absolute()
    with start_ray():
        off_log, on_log = (
            _impressions(place, root / name)
            for place, name in ((logs, "off_policy"), (on_policy_logs, "on_policy"))
        )
    known = read_dataset(on_policy_logs).root / POLICY_FILE
    target = None
    if known.is_file():
        target = pq.read_table(known).rename_columns({PROBABILITY: Column.PROPENSITY})
    compared = compare_with_on_policy(off_log, on_log, target)
    name = Path(on_policy_logs).name
    report = keep_report({"dataset": name, "off_policy": {name: compared}}, root)
    plain = report["off_policy"][name]
    return {"out": str(root), "report": str(root / "report.html"), **plain}


def _impressions(logs: str | Path, out: Path) -> pa.Table:
    validated = validate_log(read_dataset(logs), out)
    return pa.concat_tables(pq.read_table(file) for file in validated.impression_files)
