"""What a cycle promises before it learns, and of its stages as a whole."""

from contextlib import nullcontext
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.data.dataset import FeatureDeclaration, read_dataset, write_dataset
from cacs_ray.errors import InputError
from cacs_ray.recipes import cycle
from cacs_ray.recipes.config import smoke
from cacs_ray.recipes.cycle import Cycle
from cacs_ray.recipes.stages import LAST_STAGE, STAGES

CREATIVE = FeatureDeclaration(name="creative_id", of="creative", kind="id")
DEVICE = FeatureDeclaration(name="device", of="request", kind="category")
COLUMNS = (
    *("request_id", "request_ts", "ad_id", "creative_id", "slot", "is_clicked"),
    "device",
)

METHODS = (
    "validate",
    "encode",
    "train_teacher",
    "write_soft_labels",
    "train_student",
    "train_ranker",
    "make_bundle",
    "evaluate",
)


@pytest.fixture
def refusal(monkeypatch):
    """A log that is refused as soon as it is looked at, without Ray."""

    def refuse(*_, **__):
        raise InputError("12 of 100 rows rejected", rule="max_reject_share")

    monkeypatch.setattr(cycle, "start_ray", nullcontext)
    monkeypatch.setattr(cycle, "validate_log", refuse)


def write_log(root, *features):
    """Write a dataset whose rows nobody looks at."""
    root.mkdir()
    tables = {
        "impressions": COLUMNS,
        "creatives": ("creative_id", "ad_id"),
        "ads": ("ad_id",),
    }
    for name, columns in tables.items():
        table = pa.table({column: pa.array([], pa.string()) for column in columns})
        pq.write_table(table, root / f"{name}.parquet")
    places = {name: f"{name}.parquet" for name in tables}
    write_dataset(root, tables=places, features=features)
    return root


@pytest.mark.usefixtures("refusal")
def test_a_refused_log_leaves_neither_a_run_nor_a_directory(tmp_path):
    logs = write_log(tmp_path / "logs", CREATIVE)
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    with pytest.raises(InputError, match="12 of 100"):
        cycle.run_cycle(logs, tmp_path / "new" / "out", smoke(), tracking_uri=uri)
    assert list(tmp_path.iterdir()) == [logs]


@pytest.mark.usefixtures("refusal")
def test_a_refused_log_leaves_an_earlier_run_as_it_was(tmp_path):
    logs, out = write_log(tmp_path / "logs", CREATIVE), tmp_path / "out"
    (out / "work" / "teacher").mkdir(parents=True)
    with pytest.raises(InputError, match="12 of 100"):
        cycle.run_cycle(logs, out, smoke())
    assert [path.relative_to(out).as_posix() for path in out.rglob("*")] == [
        "work",
        "work/teacher",
    ]


@pytest.mark.parametrize("features", [(), (DEVICE,)])
def test_something_must_tell_creatives_apart(tmp_path, features):
    logs = write_log(tmp_path / "logs", *features)
    with pytest.raises(InputError, match=r"features: .*\[creative_feature\]"):
        cycle.run_cycle(logs, tmp_path / "out", smoke())
    assert not (tmp_path / "out").exists()


@pytest.fixture
def called(monkeypatch):
    """The methods of stages in the order of their calls."""
    calls = []
    for name in METHODS:
        monkeypatch.setattr(Cycle, name, lambda _, name=name: calls.append(name))
    return calls


def bare_cycle(*done):
    """A cycle without a dataset, some of whose stages were run just now."""
    made = object.__new__(Cycle)
    made.stages = SimpleNamespace(summaries=dict.fromkeys(done))
    return made


def test_a_stage_that_was_run_just_now_is_not_run_again(called):
    bare_cycle("validate").run_until("features")
    assert called == ["encode"]


def test_stages_run_in_order_up_to_the_named_one(called):
    bare_cycle().run_until("soft_labels")
    assert called == ["validate", "encode", "train_teacher", "write_soft_labels"]


def test_the_last_stage_means_all_of_them(called):
    bare_cycle().run_until(LAST_STAGE)
    assert tuple(called) == METHODS
    assert len(STAGES) == len(METHODS)


@pytest.mark.parametrize(
    ("sharing", "place"), [("frozen", "student"), ("joint", "ranker/selector")]
)
def test_the_bundle_takes_the_selector_that_the_ranker_reads(tmp_path, sharing, place):
    logs = write_log(tmp_path / "logs", CREATIVE)
    config = smoke().override({"ranker.model.sharing": sharing})
    made = Cycle(read_dataset(logs), tmp_path / "out", config)
    assert made.selector_directory == tmp_path / "out" / "work" / place
