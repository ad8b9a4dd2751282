"""One request, decided: what answer, decision log and shadow read."""

from dataclasses import dataclass, field

import pyarrow as pa

from cacs_ray.answers.prepare import PreparedRequests
from cacs_ray.answers.table import DecisionOrigin, decisions_table
from cacs_ray.decision.candidates import Decisions
from cacs_ray.features.catalogue import Catalogue
from serve.api import Rung


@dataclass(frozen=True, slots=True)
class Decided:
    """One request, decided by one release from end to end; a row per candidate ad."""

    request_id: str
    prepared: PreparedRequests
    decisions: Decisions
    catalogue: Catalogue
    origin: DecisionOrigin
    seconds: dict[str, float]
    """Time in each stage and in `total`."""
    rung: Rung = field(default_factory=Rung)

    @property
    def is_ranked(self) -> bool:
        """Whether every CTR is the ranker's own."""
        return self.rung.ctr == "ranker"

    def __len__(self) -> int:
        return self.prepared.requests.num_rows

    def table(self) -> pa.Table:
        """Return its rows in the contract's decisions schema."""
        return decisions_table(
            self.prepared, self.decisions, self.catalogue, self.origin
        )
