"""What a model card promises: figures that were measured, and the word missing."""

import pytest

from cacs_ray.evaluation.gate import GateRules
from cacs_ray.evaluation.model_card import (
    MISSING,
    Origin,
    limits,
    render_card,
    slices,
    version_description,
)
from cacs_ray.evaluation.offline import EvaluationSettings, evaluate
from cacs_ray.evaluation.report import plain_report
from tests.unit.evaluation.logs import simulated

DAY_US = 86_400_000_000
RULES = GateRules()

ORIGIN = Origin(
    manifest={
        "bundle_id": "b-1",
        "lineage": {"dataset_digest": "d1gest", "code_version": "1.2", "torch": "2"},
    },
    config={name: {"loop": {"seed": 7}} for name in ("teacher", "student", "ranker")},
    recipe="smoke",
    code={"git_commit": "c0ffee", "git_dirty": "true"},
)


@pytest.fixture(scope="module")
def report():
    judged = evaluate(simulated(0)[0], EvaluationSettings(replicates=100))
    rows = {"read": 900, "accepted": 890, "rejected": 10}
    return plain_report(
        {
            **judged,
            "dataset": "summer | sale",
            "windows": {
                "train_start_us": 0,
                "train_end_us": 6 * DAY_US,
                "validation_end_us": 7 * DAY_US,
                "test_end_us": 8 * DAY_US,
            },
            "data": {
                "rows": {**rows, "rejected_by_rule": {"bad_slot": 10}},
                "clicks": 77.0,
                "first_ts_us": 0,
                "last_ts_us": 8 * DAY_US,
                "rows_per_policy": {"uniform": 890},
                "with_propensity": 890,
            },
            "stages": {"features": {"train": 600, "validation": 100, "test": 190}},
            "drift": {
                "user.region": {
                    "kind": "category",
                    "divergence": 0.5,
                    "unknown_share": 0.25,
                },
                "ad.ad_id": {"kind": "id", "divergence": 0.25, "unknown_share": 0.0},
            },
        }
    )


def card_of(report, origin=ORIGIN):
    return render_card(report, origin, "The outcome.")


def told(report, rules=RULES):
    return "\n".join(limits(report, rules))


def rows_below(card, title):
    section = card.partition(title)[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_slice_that_was_measured_is_a_row_with_its_interval(report):
    table = rows_below(card_of(report), "## Figures by slice")[1:]

    measured = report["policies"]["cacs"]["by_bucket"]
    assert [row[0] for row in table] == [*(s["name"] for s in slices(report)), "all"]
    assert set(measured) <= {row[0] for row in table}
    assert len({len(row) for row in table}) == 1
    for row in table[:-1]:
        lift = measured[row[0]]["lift_over_random"]["snips"]
        assert row[2] == f"{lift['value']:.1f} [{lift['low']:.1f}, {lift['high']:.1f}]"


def test_the_data_stand_there_with_their_windows_rejects_and_lineage(report):
    card = card_of(report)

    assert rows_below(card, "## Data")[1:] == [
        ["train", "1970-01-01 00:00", "1970-01-07 00:00", "600"],
        ["validation", "1970-01-07 00:00", "1970-01-08 00:00", "100"],
        ["test", "1970-01-08 00:00", "1970-01-09 00:00", "190"],
    ]
    assert "890 accepted, 10 rejected (bad_slot: 10); 77 clicks" in card
    assert "dataset digest `d1gest`; no warm start." in card


def test_a_warm_start_names_its_parent(report):
    lineage = {**ORIGIN.manifest["lineage"], "warm_started_from": "b-0"}
    manifest = {**ORIGIN.manifest, "lineage": lineage}
    origin = Origin(manifest, ORIGIN.config, ORIGIN.recipe, ORIGIN.code)
    assert "warm start from bundle `b-0`" in card_of(report, origin)


def test_how_it_was_made_names_commit_recipe_and_seeds(report):
    made = card_of(report).partition("## How it was made")[2]
    for told_of in ("`c0ffee` with uncommitted changes", "`smoke`", "student 7,"):
        assert told_of in made


def test_what_is_not_measured_is_called_missing():
    empty = card_of({}, Origin({}, {}, "smoke"))

    assert rows_below(empty, "## Figures by slice")[1:] == [["all", *[MISSING] * 6]]
    assert "no policies, no ranker, no agreement, no drift" in empty
    assert "parent missing" in empty
    # A sign of a figure that nobody measured.
    assert "None" not in empty
    assert "nan" not in empty


def test_a_name_does_not_break_a_table_or_run_as_markup(report):
    evil = {**report, "data": {"rows_per_policy": {"a|b <script>": 5}}}
    card = card_of(evil)
    assert "a/b &lt;script&gt; 5 rows" in card
    assert "`summer / sale`" in card


def changed(report, path, value):
    """Return the report with one figure changed."""
    name, *rest = path
    return {**report, name: changed(report[name], rest, value) if rest else value}


@pytest.mark.parametrize(
    ("path", "weak", "fine", "word"),
    [
        (("policies", "cacs", "unsupported_share"), 0.125, 0.0, "12.5 %"),
        (("known_propensity_share",), 0.5, 1.0, "Exposure bias"),
        (("ranker", "all", "calibration", "ratio"), 1.5, 1.0, "on all impressions 1.5"),
        (("ranker", "chosen", "calibration", "ratio"), 0.5, 1.0, "on the choices 0.5"),
        (
            ("policies", "cacs", "lift_over_random", "snips", "low"),
            -2.0,
            1.0,
            "begins at -2.0 %",
        ),
        (
            ("drift", "user.region", "divergence"),
            0.5,
            0.01,
            "`user.region` (0.50 bits)",
        ),
        (("drift", "user.region", "unknown_share"), 0.5, 0.0, "`user.region` 50.0 %"),
        (("truth",), {}, {"next_day": {"cacs": {}}}, "No true click probabilities"),
    ],
)
def test_a_weakness_is_told_where_it_was_measured_and_only_there(
    report, path, weak, fine, word
):
    report = {**report, "truth": {}}
    assert word in told(changed(report, path, weak))
    assert word not in told(changed(report, path, fine))


def test_an_id_may_drift_as_far_as_the_gate_lets_it(report):
    assert "ad.ad_id" not in told(report)
    strict = RULES.model_copy(update={"max_id_drift": 0.125})
    assert "`ad.ad_id` (0.25 bits)" in told(report, strict)


def test_slices_with_few_clicks_are_named_with_their_clicks(report):
    counted = {s["name"]: s["clicks"] for s in slices(report)}
    name, clicks = min(counted.items(), key=lambda one: one[1])
    strict = RULES.model_copy(update={"min_bucket_clicks": clicks + 1})
    lenient = RULES.model_copy(update={"min_bucket_clicks": clicks})
    assert f"{name} ({clicks:,.0f} clicks)" in told(report, strict)
    assert "few rows" not in told(report, lenient)


def test_a_description_begins_with_the_verdict_and_has_no_title(report):
    card = card_of(report)
    assert version_description(card).startswith("The outcome.")
    judged = version_description(card, "Gate: passed.")
    assert judged.splitlines()[:3] == ["Gate: passed.", "", "The outcome."]
    assert version_description("", "Gate: passed.") == "Gate: passed."


def test_a_description_keeps_whole_sections_and_says_that_there_is_more(report):
    card = card_of(report)
    room = card.index("## Figures by slice") + 40
    short = version_description(card, most=room)
    assert len(short) <= room
    assert "## Known limits" in short
    assert "## Figures by slice" not in short
    assert short.endswith("`model_card.md` among the artifacts of its run.")


def test_a_long_verdict_is_cut_to_what_is_kept():
    assert len(version_description("# Title\n\nShort.", "x" * 9000, most=5000)) == 5000
