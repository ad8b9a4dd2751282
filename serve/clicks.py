"""Clicks from the page: taken, logged, counted; joined with decisions later."""

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
from cachetools import TTLCache

from cacs_ray.repeating import repeating
from cacs_ray.schema import CLICKS
from serve.api import Click, ClicksAnswer, ClicksRequest
from serve.decision_log import RowLog
from serve.metrics import Metrics
from serve.stray_clicks import EVERY_S, StrayClicks

_PLACES_KEPT = 100_000
_PLACES_KEPT_S = 1800.0

_logger = logging.getLogger(__name__)


class FirstPlaces:
    """What this gateway showed in slot 0 lately, to tell clicks on it.

    The ranker's CTR holds for slot 0; there predicted and real clicks can be
    compared while they come in. Clicks come from two threads, see `Clicks`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ads: TTLCache[str, str] = TTLCache(_PLACES_KEPT, _PLACES_KEPT_S)

    def remember(self, request_id: str, ad_id: str) -> None:
        """Keep what was shown."""
        with self._lock:
            self._ads[request_id] = ad_id

    def click(self, request_id: str, ad_id: str) -> bool:
        """Return whether this is the first click on a first place of ours."""
        with self._lock:
            if self._ads.get(request_id) != ad_id:
                return False
            # It may have expired since.
            self._ads.pop(request_id, None)
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

    Args:
        log: gets the clicks.
        metrics: of the gateway.
        first_places: what this gateway showed; nothing when None.
        strays: hands clicks on between gateways; without it only those that reach
            the gateway that decided are counted for calibration.
        every_s: seconds between two exchanges; `None` exchanges only when told.
    """

    def __init__(
        self,
        log: RowLog,
        metrics: Metrics,
        first_places: FirstPlaces | None = None,
        strays: StrayClicks | None = None,
        *,
        every_s: float | None = EVERY_S,
    ) -> None:
        self._log, self._metrics = log, metrics
        self._first_places = first_places or FirstPlaces()
        self._strays = strays
        self._beside = ExitStack()
        if strays is not None and every_s is not None:
            self._beside.enter_context(
                repeating(self.exchange, every_s, "stray-clicks")
            )

    def accept(self, request: ClicksRequest) -> ClicksAnswer:
        """Take clicks, all of a call or none."""
        rows = ClickRows(request.clicks, datetime.now(UTC))
        size = len(rows)
        if not self._log.append(rows):
            return ClicksAnswer(accepted=0, dropped=size)
        self._metrics.clicks.inc(size)
        for click in request.clicks:
            is_placed = self._place(click.request_id, click.ad_id)
            if not is_placed and self._strays is not None:
                self._strays.note(click.request_id, click.ad_id)
        return ClicksAnswer(accepted=size, dropped=0)

    def exchange(self) -> None:
        """Leave other gateways what was not placed here, and place what they left."""
        if self._strays is None:
            return
        try:
            self._strays.leave()
            for request_id, ad_id in self._strays.of_others():
                self._place(request_id, ad_id)
        except Exception:
            # Were this to end the thread, calibration would fall without a word.
            _logger.exception("clicks not exchanged with other gateways")

    def close(self) -> None:
        """Write what the log still holds; the last strays reach nobody."""
        # First: a disk on which the exchange stands still shall not cost the clicks.
        self._log.close()
        self._beside.close()
        if self._strays is not None:
            self._strays.close()

    def _place(self, request_id: str, ad_id: str) -> bool:
        is_placed = self._first_places.click(request_id, ad_id)
        if is_placed:
            self._metrics.first_clicks.inc()
        return is_placed
