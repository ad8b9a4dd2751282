"""One smoke market and its run, made once for all whole turns."""

import pytest

from jobs import cycle, simulate


@pytest.fixture(scope="package")
def walk(ray_local, tmp_path_factory):
    """A smoke market and its run, made once."""
    root = tmp_path_factory.mktemp("walk")
    market = root / "market"
    sizes = ["--set", "traffic.num_impressions=6000"]
    assert simulate.main(["--out", str(market), "--recipe", "smoke", *sizes]) == 0
    assert cycle.main(cycle_arguments(root)) == 0
    return root


def cycle_arguments(root):
    return [
        "--logs", str(root / "market"),
        "--out", str(root / "run"),
        "--recipe", "smoke",
        "--tracking-uri", f"sqlite:///{root}/mlflow.db",
        "--set", "features.text_encoder=hashed-ngrams",
    ]  # fmt: skip
