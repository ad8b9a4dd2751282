"""Rules that the source text keeps, beyond what the linters check."""

import ast

import pytest

from cacs_ray.schema import Column
from tests.contracts.sources import ROOT, name_of, python_files, tree

MAX_FILE_LINES = 400
MAX_JOB_LINES = 60
MAX_FUNCTION_LINES = 50

UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "torch.load",
    "torch.save",
    "yaml.load",
    "yaml.unsafe_load",
    "os.system",
}
DRAWERS = {"utils", "util", "helpers", "common", "misc"}

# Everyday words that are columns too; the others are unmistakable.
ORDINARY_WORDS = {"slot", "weight", "policy", "rule", "release", "pctr", "propensity"}
COLUMN_NAMES = {
    value
    for name, value in vars(Column).items()
    if name.isupper() and value not in ORDINARY_WORDS
}
# Where the same word is another language's: JSON on the wire, files of arrays.
OTHER_LANGUAGES = {
    "cacs_ray/features/store.py",
    "cacs_ray/recipes/demo.py",
    "cacs_ray/recipes/shown.py",
    "serve/api.py",
}


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` of a name or an attribute, else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


@pytest.mark.parametrize("path", python_files(), ids=name_of)
def test_nothing_unpickles_or_executes_text(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            assert not {name.name for name in node.names} & UNSAFE_MODULES
        if isinstance(node, ast.ImportFrom):
            assert node.module not in UNSAFE_MODULES
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            assert called not in UNSAFE_CALLS, f"line {node.lineno}"
            assert not called.endswith(".load_model"), f"line {node.lineno}"
            allowing = {
                keyword.arg
                for keyword in node.keywords
                if isinstance(keyword.value, ast.Constant)
                and keyword.value.value is True
            }
            assert not allowing & {"allow_pickle", "shell"}, f"line {node.lineno}"


@pytest.mark.parametrize("path", python_files(), ids=name_of)
def test_columns_are_named_by_the_schema_only(path):
    if name_of(path) in {"cacs_ray/schema.py"} | OTHER_LANGUAGES:
        return
    quoted = [
        f"line {node.lineno}: {node.value}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value in COLUMN_NAMES
    ]
    assert quoted == []


@pytest.mark.parametrize("path", python_files(), ids=name_of)
def test_files_and_functions_can_be_read_at_once(path):
    lines = path.read_text().splitlines()
    limit = MAX_JOB_LINES if path.parent == ROOT / "jobs" else MAX_FILE_LINES
    assert len(lines) <= limit
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                length = (body[-1].end_lineno or 0) - body[0].lineno + 1
                assert length <= MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", python_files(), ids=name_of)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(tree(path))
    assert path.stem not in DRAWERS


@pytest.mark.parametrize(
    "path", [p for p in python_files() if p.name == "__init__.py"], ids=name_of
)
def test_packages_import_nothing(path):
    imports = [n for n in tree(path).body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert imports == []
