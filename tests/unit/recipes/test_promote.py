"""From a bundle to the champion, and back."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from cacs_ray.data.files import read_json
from cacs_ray.errors import InputError
from cacs_ray.manifest import read_manifest, write_manifest
from cacs_ray.recipes import counterfactual, promote
from cacs_ray.recipes.promote import Evidence, roll_back, try_out
from cacs_ray.registry import PREVIOUS, Registry
from cacs_ray.tracking.store import open_client
from jobs import promote as job
from tests.unit.recipes.hats import release, write_logs

MODEL = "creative-selector-market"


def report_of(lift):
    """Return a report whose lift over random is known within 0.01."""
    around = {"value": lift, "low": lift - 0.01, "high": lift + 0.01}
    figure = {"value": 0.05, "low": 0.04, "high": 0.06}
    return {
        "rows": 100,
        "impressions": 100.0,
        "clicks": 5.0,
        "policies": {
            "cacs": {
                "sctr": figure,
                "snips": figure,
                "lift_over_random": {"sctr": around, "snips": around},
            }
        },
        "ranker": {"all": {"calibration": {"ratio": 1.0}}},
        "agreement": {"all": {"top1": 0.8}},
        "data": {"rows": {"read": 100, "rejected": 0}},
        "drift": {"user.age": {"kind": "category", "divergence": 0.0}},
        "paired": {
            "digest": "one window",
            "weight": [50.0, 50.0],
            "log_loss": [20.0, 21.0],
            "policies": {"cacs": {"mass": [50.0, 50.0], "clicks": [2.0, 3.0]}},
        },
    }


def opens(challenger, champion):
    """Stand in for fresh process and service: these bundles hold no models."""
    side = {"p50_ms": 1.0, "p99_ms": 2.0}
    ratio = champion and {"p50": {"low": 0.9}, "p99": {"low": 0.5}}
    replica = {
        "error": None,
        "golden": 4,
        "challenger": side,
        "champion": champion and side,
        "ratio": ratio,
    }
    service = {"error": None, "rows": 4, "ready_s": 1.0, "memory_mb": 200.0}
    return {"replica": replica, "service": service}


promote_bundle = partial(promote.promote_bundle, try_it=opens)


def write_report(bundle, lift):
    (bundle.parent / "report.json").write_text(json.dumps(report_of(lift)))


@pytest.fixture
def make_bundle(tmp_path):
    """Write a bundle of one small file with its report beside it."""

    def make(name, lift):
        root = tmp_path / name / "bundle"
        root.mkdir(parents=True)
        (root / "config.json").write_text(json.dumps({"name": name}))
        write_manifest(root, "fingerprint", {"dataset": "market"})
        write_report(root, lift)
        return root

    return make


def bundle_id_of(bundle):
    return read_manifest(bundle)["bundle_id"]


def champion(uri):
    """Return the bundle id of the champion."""
    found = Registry(uri, MODEL).find()
    return found and found.bundle_id


def test_the_first_good_bundle_becomes_the_champion(mlflow_uri, make_bundle):
    verdict = promote_bundle(make_bundle("a", lift=0.1), tracking_uri=mlflow_uri)
    assert verdict["is_promoted"]
    assert champion(mlflow_uri) == verdict["bundle_id"]


def test_a_worse_bundle_is_registered_but_never_the_champion(mlflow_uri, make_bundle):
    good = promote_bundle(make_bundle("good", lift=0.1), tracking_uri=mlflow_uri)

    worse = promote_bundle(make_bundle("worse", lift=0.05), tracking_uri=mlflow_uri)

    assert not worse["is_promoted"]
    assert "not_worse_sctr" in worse["reason"]
    assert champion(mlflow_uri) == good["bundle_id"]
    challenger = Registry(mlflow_uri, MODEL).find("challenger")
    assert challenger.bundle_id == worse["bundle_id"]
    assert challenger.tags["gate"] == "refused"


def test_a_better_bundle_takes_over_and_can_be_rolled_back(mlflow_uri, make_bundle):
    first = promote_bundle(make_bundle("first", lift=0.1), tracking_uri=mlflow_uri)
    second = promote_bundle(make_bundle("second", lift=0.2), tracking_uri=mlflow_uri)
    assert champion(mlflow_uri) == second["bundle_id"]

    roll_back(MODEL, mlflow_uri)

    assert champion(mlflow_uri) == first["bundle_id"]
    previous = Registry(mlflow_uri, MODEL).find(PREVIOUS)
    assert previous.bundle_id == second["bundle_id"]


def test_the_champion_may_be_promoted_again(mlflow_uri, make_bundle):
    bundle = make_bundle("a", lift=0.1)
    versions = [
        promote_bundle(bundle, tracking_uri=mlflow_uri)["version"] for _ in range(2)
    ]
    assert versions == ["1", "1"]


def test_a_dry_run_registers_nothing(mlflow_uri, make_bundle):
    bundle = make_bundle("a", lift=0.1)
    verdict = promote_bundle(bundle, tracking_uri=mlflow_uri, is_dry_run=True)
    assert verdict["would_promote"]
    assert not verdict["is_promoted"]
    assert Registry(mlflow_uri, MODEL).find("challenger") is None


def test_a_bundle_without_a_report_is_refused_by_name(mlflow_uri, make_bundle):
    bundle = make_bundle("a", lift=0.1)
    (bundle.parent / "report.json").unlink()
    with pytest.raises(InputError, match=r"report\.json"):
        promote_bundle(bundle, tracking_uri=mlflow_uri)


def test_datasets_have_champions_of_their_own(mlflow_uri, make_bundle, tmp_path):
    promote_bundle(make_bundle("a", lift=0.2), tracking_uri=mlflow_uri)
    other = make_bundle("b", lift=0.1)
    write_manifest(other, "fingerprint", {"dataset": "upworthy"})
    assert promote_bundle(other, tracking_uri=mlflow_uri)["is_promoted"]


def test_what_does_not_open_in_a_fresh_process_never_gets_the_alias(
    mlflow_uri, make_bundle
):
    good = promote_bundle(make_bundle("good", lift=0.1), tracking_uri=mlflow_uri)

    def breaks(challenger, champion):
        replica = {"error": "golden requests get other scores", "golden": None}
        return {"replica": replica}

    better = make_bundle("better", lift=0.3)
    verdict = promote.promote_bundle(better, tracking_uri=mlflow_uri, try_it=breaks)

    assert not verdict["is_promoted"]
    assert champion(mlflow_uri) == good["bundle_id"]
    tags = Registry(mlflow_uri, MODEL).find("challenger").tags
    assert tags["gate"] == "refused"
    assert "golden requests get other scores" in tags["gate.opens_in_replica"]

    assert promote_bundle(better, tracking_uri=mlflow_uri)["is_promoted"]
    tags = Registry(mlflow_uri, MODEL).find().tags
    assert tags["gate"] == "passed"
    assert "gate.opens_in_replica" not in tags


def test_the_verdict_is_kept_with_the_version(mlflow_uri, make_bundle, tmp_path):
    verdict = promote_bundle(make_bundle("a", lift=0.1), tracking_uri=mlflow_uri)
    client = open_client(mlflow_uri)
    version = client.get_model_version(MODEL, verdict["version"])
    file = client.download_artifacts(version.run_id, "gate.json", str(tmp_path))
    kept = read_json(file)
    assert kept["passed"]
    assert kept["checks"] == verdict["checks"]
    assert kept["measured"]["replica"]["golden"] == 4


def test_the_description_is_the_last_verdict_above_the_model_card(
    mlflow_uri, make_bundle, tmp_path
):
    def description(version):
        kept = open_client(mlflow_uri).get_model_version(MODEL, version)
        return kept.description

    promote_bundle(make_bundle("good", lift=0.2), tracking_uri=mlflow_uri)
    worse = make_bundle("worse", lift=0.1)
    (worse.parent / "model_card.md").write_text("# Model card\n\n## Data\n\nRows.\n")
    refused = promote_bundle(worse, tracking_uri=mlflow_uri)

    told = description(refused["version"])
    assert told.startswith("Gate: refused, ")
    assert "- `not_worse_sctr`: " in told
    assert "- Note: would it have won: not asked" in told
    assert told.endswith("## Data\n\nRows.")
    client = open_client(mlflow_uri)
    run_id = client.get_model_version(MODEL, refused["version"]).run_id
    card = client.download_artifacts(run_id, "model_card.md", str(tmp_path))
    assert Path(card).read_text() == (worse.parent / "model_card.md").read_text()

    write_report(worse, lift=0.3)
    passed = promote_bundle(worse, tracking_uri=mlflow_uri)
    assert passed["version"] == refused["version"]
    assert description(passed["version"]).startswith("Gate: passed, all ")


@pytest.fixture
def promoted(monkeypatch, mlflow_uri, capsys):
    """The job, but for the fresh process; its exit code and its last line."""
    monkeypatch.setattr(promote, "promote_bundle", promote_bundle)

    def run(*options):
        code = job.main([*map(str, options), "--tracking-uri", mlflow_uri])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_thresholds_are_set_from_the_command_line(promoted, make_bundle):
    bundle = make_bundle("a", lift=0.1)
    code, line = promoted("--bundle", bundle, "--set", "min_agreement=0.9")
    assert code == 1
    assert "teacher_agreement" in line["error"]
    code, line = promoted(
        "--bundle", bundle, "--set", "min_agreement=0.9", "measured.max_p99_ms=1.5",
        "--set", "min_agreement=0.8",
    )  # fmt: skip
    assert code == 1
    assert "latency_p99_ms" in line["error"]
    assert "teacher_agreement" not in line["error"]


def test_a_threshold_that_does_not_exist_is_refused_by_name(promoted, make_bundle):
    bundle = make_bundle("a", lift=0.1)
    code, line = promoted("--bundle", bundle, "--set", "max_drifts=1")
    assert code == 1
    assert line["error"].startswith("--set: max_drifts: no such field")
    assert "did you mean 'max_drift'" in line["error"]
    assert not (bundle.parent / "gate").exists()


def test_a_dry_run_says_what_would_become_of_it(promoted, make_bundle):
    bundle = make_bundle("a", lift=0.1)
    strict = ["--set", "min_agreement=0.9"]
    for options, outcome in ((strict, False), ([], True)):
        code, line = promoted("--bundle", bundle, "--dry-run", *options)
        assert code == 0
        assert (line["status"], line["would_promote"]) == ("ok", outcome)
        assert line["is_promoted"] is False


@pytest.fixture
def hats(monkeypatch, promoted, make_bundle, tmp_path):
    """Promote the release that likes straw; ask its log whether another had won."""

    def load(path):
        favourite = read_json(Path(path) / "config.json")["name"].split()[0]
        return release(favourite, bundle_id=bundle_id_of(Path(path)))

    monkeypatch.setattr(counterfactual, "Predictor", SimpleNamespace(load=load))
    served = make_bundle("straw", lift=0.1)
    assert promoted("--bundle", served)[0] == 0

    def ask(name, decided_by=None):
        decided_by = decided_by or bundle_id_of(served)
        decisions, clicks = write_logs(tmp_path, "straw", release=decided_by)
        bundle = make_bundle(name, lift=0.1)
        asked = ["--decisions", decisions, "--clicks", clicks]
        code, line = promoted("--bundle", bundle, *asked)
        kept = read_json(bundle.parent / "gate" / "gate.json")
        return code, line, kept["measured"]["counterfactual"]

    return ask


def test_a_release_that_would_have_won_less_is_refused(hats, mlflow_uri):
    before = champion(mlflow_uri)
    code, line, answer = hats("felt")
    assert code == 1
    for name in ("would_have_won_snips", "would_have_won_dr"):
        assert f"{name}: would surely have earned fewer clicks" in line["error"]
    assert answer["compared_with"] == "champion"
    assert champion(mlflow_uri) == before


def test_one_that_chooses_as_the_champion_did_passes(hats):
    code, line, answer = hats("straw again")
    assert (code, line["is_promoted"], line["notes"]) == (0, True, [])
    assert answer["lift"]["snips"]["value"] == 0


def test_a_log_without_the_champion_is_a_refusal_with_a_verdict(hats, mlflow_uri):
    before = champion(mlflow_uri)
    code, line, answer = hats("felt", decided_by="another")
    assert code == 1
    assert "counterfactual_support: the decision log cannot tell" in line["error"]
    assert f"release {before} showed nothing" in line["error"]
    assert answer["status"] == "refused"
    assert champion(mlflow_uri) == before


@pytest.mark.parametrize("named", ["--model", "--bundle"])
def test_going_back_needs_no_whole_bundle(promoted, mlflow_uri, make_bundle, named):
    first, second = (make_bundle(name, lift=0.1) for name in ("first", "second"))
    for bundle in (first, second):
        assert promoted("--bundle", bundle)[0] == 0
    (second / "config.json").write_text("damaged")

    value = {"--model": MODEL, "--bundle": second}[named]
    code, line = promoted(named, value, "--rollback")

    assert (code, line["model"]) == (0, MODEL)
    assert champion(mlflow_uri) == line["bundle_id"] == bundle_id_of(first)


def test_a_model_alone_is_not_judged(promoted):
    code, line = promoted("--model", MODEL)
    assert code == 1
    assert line["error"].startswith("--model: only --rollback")


def test_there_is_nothing_to_go_back_to_in_an_unknown_model(promoted):
    code, line = promoted("--model", "creative-selector-markt", "--rollback")
    assert code == 1
    assert "creative-selector-markt: there is no previous version" in line["error"]


def test_a_fresh_process_says_why_a_bundle_does_not_open(make_bundle):
    told = try_out(make_bundle("a", lift=0.1), None)
    assert "spec.json" in told["replica"]["error"]
    assert "service" not in told


def test_a_bundle_that_opens_must_also_serve(monkeypatch, mlflow_uri, make_bundle):
    monkeypatch.setattr(promote, "try_release", lambda *_: opens(None, None)["replica"])
    broken = {"error": "the service ended with 1; it said: no creatives"}
    monkeypatch.setattr(promote, "try_service", lambda _: broken)

    verdict = promote.promote_bundle(
        make_bundle("a", lift=0.1), tracking_uri=mlflow_uri
    )

    assert not verdict["is_promoted"]
    assert "serves_golden: the service ended with 1" in verdict["reason"]
    assert champion(mlflow_uri) is None


def test_decisions_without_clicks_are_half_a_question():
    with pytest.raises(InputError, match="name both"):
        Evidence(decisions="log")
