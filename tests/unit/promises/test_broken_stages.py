"""Which stages may end and leave the gateway alive."""

import pytest

from cacs_ray.promises.broken_stages import FAULTS, faults_of


@pytest.mark.parametrize(
    ("graph", "apart"),
    [
        ("fused", set()),
        ("selector_in_gateway", {"ranker"}),
        ("composed", {"selector", "ranker"}),
    ],
)
def test_only_a_stage_of_its_own_process_is_told_to_end(graph, apart):
    for stage in ("selector", "ranker"):
        faults = set(faults_of(stage, graph))
        assert ("exit" in faults) == (stage in apart)
        assert faults | {"exit"} == set(FAULTS)
