"""Losses, metrics and gates state their shapes, show an example, and are checked."""

import ast
import re

import pytest

from tests.contracts.sources import ROOT, name_of, tree

PURE = [
    ROOT / "cacs_ray" / "losses.py",
    *sorted((ROOT / "cacs_ray" / "metrics").glob("[a-z]*.py")),
    ROOT / "cacs_ray" / "models" / "adaptive_dropout.py",
    ROOT / "cacs_ray" / "models" / "calibration.py",
    ROOT / "cacs_ray" / "models" / "coins.py",
    ROOT / "cacs_ray" / "decision" / "auction.py",
]
PLAIN_ARRAYS = {"np.ndarray", "Tensor", "torch.Tensor"}
# Shown by their callers: a generator's state, and a reading of a batch.
WITHOUT_EXAMPLE = {"row_numbers", "next_throw"}

every_file = pytest.mark.parametrize("path", PURE, ids=name_of)


def functions(path):
    return [node for node in tree(path).body if isinstance(node, ast.FunctionDef)]


@every_file
def test_every_public_function_has_an_example_that_runs(path):
    for function in functions(path):
        if function.name.startswith("_") or function.name in WITHOUT_EXAMPLE:
            continue
        assert ">>>" in (ast.get_docstring(function) or ""), function.name


@every_file
def test_every_array_of_a_public_function_has_a_shape(path):
    for function in functions(path):
        if function.name.startswith("_"):
            continue
        arguments = function.args.args + function.args.kwonlyargs
        for hint in [*(a.annotation for a in arguments), function.returns]:
            assert hint is not None, function.name
            parts = {part.strip() for part in ast.unparse(hint).split("|")}
            assert not parts & PLAIN_ARRAYS, function.name


def test_tests_check_the_shapes_of_all_these_files(pytestconfig):
    checked = pytestconfig.getoption("--jaxtyping-packages").split(",")
    for path in PURE:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert any(re.match(rf"{re.escape(c)}(\.|$)", module) for c in checked), module
    assert checked[-1] == "beartype.beartype"
