"""A log small enough to hold in the head: two ads, three creatives, two users."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

NOON = datetime(2024, 1, 10, 12, tzinfo=UTC)

IMPRESSION = {
    "request_id": "r1",
    "request_ts": NOON,
    "user_id": "u1",
    "ad_id": "hat",
    "creative_id": "wool",
    "slot": 0,
    "is_clicked": False,
    "device": "phone",
}
TABLES = {
    "impressions": [IMPRESSION, IMPRESSION | {"request_id": "r2", "is_clicked": True}],
    "creatives": [
        {"creative_id": "wool", "ad_id": "hat", "look": [0.1, 0.2]},
        {"creative_id": "felt", "ad_id": "hat", "look": [0.3, 0.4]},
        {"creative_id": "blue", "ad_id": "shoe", "look": None},
    ],
    "ads": [{"ad_id": "hat", "price": 9.5}, {"ad_id": "shoe", "price": 30.0}],
    "users": [{"user_id": "u1"}, {"user_id": "u2"}],
}
DESCRIPTION = {
    "version": 1,
    "tables": {name: f"{name}.parquet" for name in TABLES},
    "features": [
        {"name": "user_id", "of": "user", "kind": "id"},
        {"name": "device", "of": "request", "kind": "category"},
        {"name": "price", "of": "ad", "kind": "number"},
        {"name": "look", "of": "creative", "kind": "vector", "size": 2},
    ],
}


class LogWriter:
    """Writes the small log, or one that differs from it in a few places."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, description=None, **tables) -> Path:
        """Replace whole tables (rows) and keys of the description by name."""
        for name, rows in (TABLES | tables).items():
            table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
            pq.write_table(table, self.root / f"{name}.parquet")
        self.describe(**(description or {}))
        return self.root

    def describe(self, **keys) -> Path:
        content = {k: v for k, v in (DESCRIPTION | keys).items() if v is not None}
        path = self.root / "dataset.yaml"
        path.write_text(yaml.safe_dump(content))
        return path


@pytest.fixture
def write_log(tmp_path) -> LogWriter:
    root = tmp_path / "log"
    root.mkdir()
    return LogWriter(root)
