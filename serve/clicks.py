"""Clicks from the page: taken, logged, counted; joined with decisions later."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
from cachetools import TTLCache

from cacs_ray.schema import CLICKS
from serve.api import Click, ClicksAnswer, ClicksRequest
from serve.decision_log import RowLog
from serve.metrics import Metrics

_PLACES_KEPT = 100_000
_PLACES_KEPT_S = 1800.0


class FirstPlaces:
    """What this gateway showed in slot 0 lately, to tell clicks on it.

    The ranker's CTR holds for slot 0; there predicted and real clicks can be
    compared while they come in. With several gateways only the clicks that reach
    the one that decided are told: the join of the logs knows them all.
    """

    def __init__(self) -> None:
        self._ads: TTLCache[str, str] = TTLCache(_PLACES_KEPT, _PLACES_KEPT_S)

    def remember(self, request_id: str, ad_id: str) -> None:
        """Keep what was shown."""
        self._ads[request_id] = ad_id

    def click(self, request_id: str, ad_id: str) -> bool:
        """Return whether this is the first click on a first place of ours."""
        if self._ads.get(request_id) != ad_id:
            return False
        del self._ads[request_id]
        return True


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
    """Takes clicks into a log, and counts those on first places for calibration.

    Whether a click belongs to a decision, and in time, is for the join to say: the
    replica that takes a click need not be the one that decided.
    """

    def __init__(
        self, log: RowLog, metrics: Metrics, first_places: FirstPlaces | None = None
    ) -> None:
        self._log, self._metrics = log, metrics
        self._first_places = first_places or FirstPlaces()

    def accept(self, request: ClicksRequest) -> ClicksAnswer:
        """Take clicks, all of a call or none."""
        rows = ClickRows(request.clicks, datetime.now(UTC))
        size = len(rows)
        if not self._log.append(rows):
            return ClicksAnswer(accepted=0, dropped=size)
        self._metrics.clicks.inc(size)
        for click in request.clicks:
            if self._first_places.click(click.request_id, click.ad_id):
                self._metrics.first_clicks.inc()
        return ClicksAnswer(accepted=size, dropped=0)

    def close(self) -> None:
        """Write what the log still holds."""
        self._log.close()
