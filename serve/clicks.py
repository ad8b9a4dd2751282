"""Clicks from the page: taken, logged, counted; joined with decisions later."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from cacs_ray.schema import CLICKS
from serve.api import Click, ClicksAnswer, ClicksRequest
from serve.decision_log import RowLog
from serve.metrics import Metrics


@dataclass(frozen=True, slots=True)
class ClickRows:
    """Clicks of one call, as rows of the contract."""

    clicks: Sequence[Click]
    came: datetime
    """Counts as the moment of a click that does not say its own."""

    def __len__(self) -> int:
        return len(self.clicks)

    def table(self) -> pa.Table:
        """Return them in `schema.CLICKS`."""
        columns = (
            [click.request_id for click in self.clicks],
            [click.ad_id for click in self.clicks],
            [click.click_ts or self.came for click in self.clicks],
        )
        arrays = [
            pa.array(values, field.type)
            for values, field in zip(columns, CLICKS, strict=True)
        ]
        return pa.table(arrays, schema=CLICKS)


class Clicks:
    """Takes clicks into a log.

    Whether a click belongs to a decision, and in time, is for the join to say: the
    replica that takes a click need not be the one that decided.
    """

    def __init__(self, log: RowLog, metrics: Metrics) -> None:
        self._log, self._metrics = log, metrics

    def accept(self, request: ClicksRequest) -> ClicksAnswer:
        """Take clicks, all of a call or none."""
        rows = ClickRows(request.clicks, datetime.now(UTC))
        size = len(rows)
        if not self._log.append(rows):
            return ClicksAnswer(accepted=0, dropped=size)
        self._metrics.clicks.inc(size)
        return ClicksAnswer(accepted=size, dropped=0)

    def close(self) -> None:
        """Write what the log still holds."""
        self._log.close()
