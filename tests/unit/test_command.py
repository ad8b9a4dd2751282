"""What the callers of a job rely on."""

import argparse
import json

import numpy as np
import pytest

from cacs_ray.command import run_job
from cacs_ray.errors import InputError


def end_of(capsys, body):
    """Run a job with this body; return exit code, last line, standard error."""
    parser = argparse.ArgumentParser()
    code = run_job(parser, body, [])
    captured = capsys.readouterr()
    return code, json.loads(captured.out.splitlines()[-1]), captured.err


def test_the_last_line_holds_the_result(capsys, tmp_path):
    code, line, _ = end_of(
        capsys,
        lambda _: {"out": tmp_path, "auc": np.float64(0.75), "rows": np.int64(3)},
    )
    assert code == 0
    assert line == {"status": "ok", "out": str(tmp_path), "auc": 0.75, "rows": 3}


def test_what_is_not_finite_becomes_null(capsys):
    _, line, _ = end_of(capsys, lambda _: {"auc": float("nan")})
    assert line["auc"] is None


def test_bad_input_is_one_line_without_a_traceback(capsys):
    def body(_):
        raise InputError("no such file", source="logs/x.parquet", rule="readable")

    code, line, err = end_of(capsys, body)

    assert code == 1
    assert err == "error: logs/x.parquet: no such file [readable]\n"
    assert line == {
        "status": "error",
        "error": "logs/x.parquet: no such file [readable]",
    }


def test_a_bug_shows_its_traceback_and_still_ends_with_json(capsys):
    code, line, err = end_of(capsys, lambda _: {}["missing"])
    assert code == 1
    assert "Traceback" in err
    assert line == {"status": "error", "error": "KeyError: 'missing'"}


def test_an_interrupted_job_says_so(capsys):
    def body(_):
        raise KeyboardInterrupt

    code, line, _ = end_of(capsys, body)
    assert (code, line["status"]) == (130, "error")


def test_a_wrong_option_ends_with_code_2():
    with pytest.raises(SystemExit) as stopped:
        run_job(argparse.ArgumentParser(), lambda _: {}, ["--unknown"])
    assert stopped.value.code == 2
