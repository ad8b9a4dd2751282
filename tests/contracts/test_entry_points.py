"""What people type: every job and sweep explains itself."""

import importlib

import pytest

from tests.contracts.sources import entry_points


@pytest.mark.parametrize("name", entry_points())
def test_it_explains_itself(name, capsys):
    module = importlib.import_module(name)

    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])

    shown = capsys.readouterr().out
    first_line = module.__doc__.splitlines()[0]
    assert stopped.value.code == 0
    assert first_line.split()[0] in shown
    assert "--out" in shown or "--bundle" in shown
