"""Stages in the gateway's process: those of its own releases."""

from serve.gateway import ServedRelease
from serve.holder import Holds
from serve.ranker import Ranker
from serve.selector import Selector
from serve.stage import InProcess, StageRelease, Stages
from serve.straight import LocalStages


def local_stages(releases: Holds[ServedRelease]) -> LocalStages:
    """Return stages that answer in this process, with one holder for both."""
    held = _HeldStages(releases)
    selector, ranker = Selector(held), Ranker(held)
    return LocalStages(selector.selector_scores, ranker.teacher_scores, ranker.pctr)


def in_process(stages: LocalStages) -> Stages:
    """Return the same stages in the manner of handles, each with its own threads.

    To open the page meanwhile does not pay here: both need the interpreter.
    """
    return Stages(
        selector_scores=InProcess(stages.selector_scores),
        teacher_scores=InProcess(stages.teacher_scores),
        pctr=InProcess(stages.pctr),
    )


class _HeldStages:
    """The stages of what a gateway holds."""

    def __init__(self, releases: Holds[ServedRelease]) -> None:
        self._releases = releases

    @property
    def live(self) -> StageRelease:
        return _stage(self._releases.live)

    @property
    def held(self) -> dict[str, StageRelease]:
        return {key: _stage(held) for key, held in self._releases.held.items()}

    def get(self, bundle_id: str) -> StageRelease | None:
        held = self._releases.get(bundle_id)
        return None if held is None else _stage(held)


def _stage(served: ServedRelease) -> StageRelease:
    assert served.stage is not None, "stages in this process are loaded with a release"
    return served.stage
