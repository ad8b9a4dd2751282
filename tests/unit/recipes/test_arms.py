"""The comparison of arms as a job: files in, report and one line out."""

import json

import pyarrow.parquet as pq
import pytest

from jobs.compare_arms import main
from tests.unit.evaluation.live_test import live_test


@pytest.fixture
def files(tmp_path):
    shown, clicked = live_test(1, ctrs=(0.06, 0.12), users=900)
    (tmp_path / "decisions").mkdir()
    half = shown.num_rows // 2
    pq.write_table(shown[:half], tmp_path / "decisions" / "a.parquet")
    pq.write_table(shown[half:], tmp_path / "decisions" / "b.parquet")
    pq.write_table(clicked, tmp_path / "clicks.parquet")
    return [
        "--decisions",
        str(tmp_path / "decisions"),
        "--clicks",
        str(tmp_path / "clicks.parquet"),
    ]


def test_the_job_writes_the_report_and_says_who_is_better(files, tmp_path, capsys):
    out = tmp_path / "arms"

    code = main([*files, "--out", str(out), "--shares", "0.5", "0.5"])

    shown = capsys.readouterr()
    line = json.loads(shown.out.splitlines()[-1])
    assert code == 0
    assert line["pairs"][0]["ctr"]["better"] == "r2/cacs"
    assert line["is_sample_ratio_mismatch"] is False
    assert "r2/cacs" in shown.err
    report = json.loads((out / "arms.json").read_text())
    assert report["arms"]["r1/cacs"]["users"] > 400
    assert (out / "arms.html").read_text().count("<svg") == 2


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        (["--alpha", "1"], "less_than"),
        (["--window-s", "0"], "greater_than"),
        (["--look-s", "daily"], "float_parsing"),
        (["--arms", "r1/cacs", "r3/cacs"], "known_arm"),
    ],
)
def test_a_wrong_option_is_one_clear_line(files, tmp_path, capsys, option, rule):
    assert main([*files, "--out", str(tmp_path / "arms"), *option]) == 1
    shown = capsys.readouterr().err
    assert f"[{rule}]" in shown
    assert shown.splitlines()[-1].startswith(f"error: {option[0]}: ")
    assert not (tmp_path / "arms").exists()
