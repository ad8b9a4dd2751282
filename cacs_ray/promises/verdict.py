"""What a check says: how many failed of how many, and whether the promise is kept."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check of a promise, judged."""

    check: str
    asked: int
    """Requests, answers or records that were looked at."""
    failed: int
    """Of these, those that broke the promise."""
    figure: str
    """What was measured, with its unit."""
    limit: str
    """What it must keep to."""
    is_kept: bool
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A promise: its checks, and the same checks on an injected fault."""

    promise: str
    setting: str
    """Real counts and durations, the requests' size, the graph."""
    verdicts: tuple[Verdict, ...]
    control: tuple[Verdict, ...]
    """Judged on faults that were put in: at least one of them must be broken."""
    injected: str
    """The faults."""
    is_each_found: bool = False
    """Each check of the control must be broken: they are faults of different kinds."""
    seconds: float = 0.0

    @property
    def is_kept(self) -> bool:
        """Whether all checks are kept, and there were any."""
        return bool(self.verdicts) and all(one.is_kept for one in self.verdicts)

    @property
    def is_control_caught(self) -> bool:
        """Whether the injected faults broke what they must."""
        found = [not one.is_kept for one in self.control]
        return bool(found) and (all(found) if self.is_each_found else any(found))

    @property
    def is_shown(self) -> bool:
        """Whether the promise is kept and its check is known to be able to fail."""
        return self.is_kept and self.is_control_caught

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self) | {
            "is_kept": self.is_kept,
            "is_control_caught": self.is_control_caught,
        }


def lines(outcome: Outcome) -> Sequence[str]:
    """Return the outcome for people, one line per check."""
    said = [f"{outcome.promise}: {outcome.setting} ({outcome.seconds:.0f} s)"]
    said += [
        _line(one, "kept" if one.is_kept else "BROKEN") for one in outcome.verdicts
    ]
    caught = "caught" if outcome.is_control_caught else "NOT CAUGHT"
    said.append(f"  negative control, {outcome.injected}: {caught}")
    said += [
        "  " + _line(one, "kept" if one.is_kept else "broken, as it must be")
        for one in outcome.control
    ]
    return said


def _line(verdict: Verdict, word: str) -> str:
    note = f" ({verdict.note})" if verdict.note else ""
    return (
        f"  {verdict.check}: failed {verdict.failed:,} / asked {verdict.asked:,}; "
        f"{verdict.figure}; limit {verdict.limit}: {word}{note}"
    )
