"""Variants of the method as changes of its recipe."""

import pytest

from cacs_ray.errors import InputError
from cacs_ray.recipes.config import small
from cacs_ray.study.plan import FULL, VARIANTS, WEIGHTED, StudyConfig, variants_of


@pytest.mark.parametrize("name", [*VARIANTS, *WEIGHTED])
def test_every_variant_is_a_configuration(name):
    variant = {**VARIANTS, **WEIGHTED}[name]
    changed = small().student.override(dict(variant.changes))
    is_other = changed != small().student or variant.without
    # Some variants say what is the default, so that they stay rows if it changes.
    assert is_other or name in (FULL, "gate_learnt", "gate_frequency")


def test_weighted_losses_are_asked_only_of_logs_that_explore_little():
    assert set(WEIGHTED) <= set(variants_of("epsilon_greedy", ()))
    assert not set(WEIGHTED) & set(variants_of("uniform", ()))


def test_the_full_method_is_always_there_and_first():
    chosen = variants_of("uniform", ("no_dropout",))
    assert list(chosen) == [FULL, "no_dropout"]


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match="no_such"):
        variants_of("uniform", ("no_such",))


def test_the_default_study_has_five_seeds_and_both_kinds_of_logs():
    config = StudyConfig()
    assert len(config.seeds) >= 5
    assert config.sources == ("uniform", "epsilon_greedy")
