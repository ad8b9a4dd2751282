"""What the callers of a job rely on."""

import argparse
import json
import os
import signal

import numpy as np
import pytest

from cacs_ray.command import add_path, add_tracking_uri, run_job
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


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit(15)])
def test_an_interrupted_or_stopped_job_says_so(capsys, stop):
    def body(_):
        raise stop

    code, line, _ = end_of(capsys, body)
    assert (code, line["status"]) == (130, "error")


def test_sigterm_unwinds_what_a_job_has_begun(capsys):
    ended = []

    def body(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            ended.append("server")

    code, line, _ = end_of(capsys, body)
    assert (code, line["error"], ended) == (130, "interrupted", ["server"])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_that_the_body_installs_stays(capsys):
    def body(_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return {}

    try:
        code, _, _ = end_of(capsys, body)
        assert (code, signal.getsignal(signal.SIGTERM)) == (0, signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture
def out_option():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out")
    return parser


@pytest.mark.parametrize("out", ["", "file", "file/run", "closed/run"])
def test_an_out_that_cannot_be_written_is_refused_before_any_work(
    tmp_path, monkeypatch, capsys, out_option, out
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "closed").mkdir()
    # Root may write everywhere, so the mode of the directory would not do.
    may = os.access
    monkeypatch.setattr(os, "access", lambda p, m: p.name != "closed" and may(p, m))
    code = run_job(out_option, lambda _: pytest.fail("began"), ["--out", out])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 1
    assert line["error"].startswith("--out: ")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("out", ["new/run", "."])
def test_an_out_that_can_be_made_or_filled_is_taken(
    tmp_path, monkeypatch, capsys, out_option, out
):
    monkeypatch.chdir(tmp_path)
    assert run_job(out_option, lambda _: {}, ["--out", out]) == 0


def test_a_wrong_option_ends_with_code_2_and_a_last_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_job(argparse.ArgumentParser(prog="x"), lambda _: {}, ["--unknown"])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("usage: x")
    assert json.loads(said.out) == {
        "status": "error",
        "error": "x: error: unrecognized arguments: --unknown",
    }


def test_help_is_no_error(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_job(argparse.ArgumentParser(prog="x"), lambda _: {}, ["--help"])
    assert stopped.value.code == 0
    assert "status" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        (["--out", "out/run"], ["--out out/run", "--tracking-uri"]),
        (["--out", "/tmp", "--tracking-uri", "sqlite:////tmp/x.db"], []),
    ],
)
def test_what_ray_removes_after_a_submitted_job_is_named(
    capsys, caplog, monkeypatch, tmp_path, options, warned
):
    package = tmp_path / "working_dir_files" / "_ray_pkg_0a1b"
    package.mkdir(parents=True)
    monkeypatch.chdir(package)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    parser = argparse.ArgumentParser()
    add_path(parser, "--out", "results")
    add_tracking_uri(parser)

    with caplog.at_level("WARNING"):
        assert run_job(parser, lambda _: {}, options) == 0

    assert len(caplog.messages) == len(warned)
    for message, name in zip(caplog.messages, warned, strict=True):
        assert name in message
        assert str(package) in message
