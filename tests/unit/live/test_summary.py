"""Means over seeds, paired differences and curves of loops, and what people read."""

import numpy as np
import pytest
from markupsafe import escape

from cacs_ray.evaluation.report import plain_report
from cacs_ray.live.report import tables_of, write_live
from cacs_ray.live.summary import SeedOutcome, summarise_live

DAYS = (3, 4, 5)


def sums(clicks, found=0.0):
    return {
        "impressions": 1000.0,
        "clicks": float(clicks),
        "revenue": 2.0,
        "value": clicks * 0.5,
        "new_impressions": 100.0,
        "won": 3.0,
        "winnable": 6.0,
        "won_new": 1.0,
        "winnable_new": 4.0,
        "found": found,
        "findable": 2.0,
        "found/age 0": found,
        "findable/age 0": 2.0,
    }


def loop(*clicks, found=0.0, promoted=(True, True, False)):
    return {
        day: {"figures": sums(c, found), "is_promoted": p}
        for day, c, p in zip(DAYS, clicks, promoted, strict=True)
    }


@pytest.fixture(scope="module")
def live():
    """Two seeds: exploring costs ten clicks at first and gains twenty at the end."""
    found = {
        seed: SeedOutcome(
            {day: sums(200 + seed) for day in DAYS},
            {
                "greedy": loop(100 + seed, 100 + seed, 100 + seed),
                "epsilon": loop(90 + seed, 100 + seed, 120 + seed + extra, found=1.0),
            },
        )
        for seed, extra in ((0, 0), (1, 2))
    }
    summary = summarise_live(found, 0.95)
    config = {"recipe": "live", "days": 3, "seeds": [0, 1], "level": 0.95}
    return plain_report({"config": config, **summary})


def test_rates_are_of_all_days_and_of_the_last_two(live):
    greedy = live["arms"]["greedy"]
    assert greedy["true_ctr"]["value"] == pytest.approx((0.1 + 0.101) / 2)
    assert greedy["regret"]["value"] == pytest.approx(1 - (300 / 600 + 303 / 603) / 2)
    epsilon = live["arms"]["epsilon"]
    assert epsilon["last/true_ctr"]["value"] == pytest.approx((0.11 + 0.112) / 2)
    assert epsilon["promoted"]["value"] == pytest.approx(2 / 3)


def test_arms_are_paired_with_greedy_by_seed(live):
    less = live["arms"]["epsilon"]["true_ctr"]["less"]
    assert less["value"] == pytest.approx((10 / 3000 + 12 / 3000) / 2)
    assert "less" not in live["arms"]["greedy"]["true_ctr"]
    assert live["arms"]["oracle"]["regret"]["value"] == pytest.approx(0)


def test_cumulative_gain_adds_up_day_by_day(live):
    curve = [one["value"] for one in live["curves"]["cumulative"]["epsilon"]]
    assert curve == pytest.approx([-10, -10, 11])
    own = [one["value"] for one in live["curves"]["cumulative"]["greedy"]]
    assert own == [0, 0, 0]


def test_regret_so_far_weighs_days_by_the_oracles_clicks(live):
    curve = [one["value"] for one in live["curves"]["regret"]["epsilon"]]
    assert curve[1] == pytest.approx(1 - (190 / 400 + 192 / 402) / 2)


def test_what_was_found_is_counted_by_age(live):
    assert live["ages"]["epsilon"]["0"] == {"found": 0.5, "findable": 12.0}
    assert live["ages"]["greedy"]["0"]["found"] == 0


def test_without_greedy_there_is_nothing_to_be_paired_with():
    found = {0: SeedOutcome({d: sums(200) for d in DAYS}, {"random": loop(90, 90, 90)})}
    summary = summarise_live(found, 0.95)
    assert np.isnan(summary["curves"]["cumulative"]["random"][0]["value"])
    assert "less" not in summary["arms"]["random"]["true_ctr"]


def test_page_and_markdown_show_the_tables(live, tmp_path):
    write_live(live, tmp_path)
    page = (tmp_path / "live.html").read_text()
    text = (tmp_path / "live.md").read_text()
    for table in tables_of(live):
        assert table.title in page
        for row in table.rows:
            assert f"| {' | '.join(row)} |" in text
            assert all(str(escape(cell)) in page for cell in row)
    assert page.count("<svg") == 4
