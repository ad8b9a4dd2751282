"""What the controls file promises: read again when it changes, never half."""

import os

import pytest

from cacs_ray.errors import InputError
from serve import controls_file
from serve.controls_file import ControlsFile

EXCLUDED = "creatives: [{creative_id: wool, is_excluded: true}]"


@pytest.fixture(autouse=True)
def looks_always(monkeypatch):
    monkeypatch.setattr(controls_file, "LOOK_S", -1.0)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "controls.yaml"
    path.write_text(EXCLUDED)
    return path


def chosen(service, page_view):
    answer = service.send(page_view).json()
    return {p["ad_id"]: p["creative_id"] for p in answer["placements"]}


def test_the_service_keeps_to_it_and_follows_its_changes(make_service, page_view, path):
    service = make_service(rules={"controls": ControlsFile(path)})
    assert chosen(service, page_view)["hat"] == "straw"

    path.write_text("ads: [{ad_id: shoe, pinned_creative_id: red}]")
    os.utime(path, (1, 1))

    assert chosen(service, page_view) == {"hat": "wool", "shoe": "red"}


@pytest.mark.parametrize(
    "text", ["creatives: {", "creatives: [{creative: wool}]", "- a", "\0", "", "\n"]
)
def test_a_wrong_file_changes_nothing(make_service, page_view, path, text):
    service = make_service(rules={"controls": ControlsFile(path)})
    path.write_text(text)
    os.utime(path, (1, 1))
    assert chosen(service, page_view)["hat"] == "straw"


def test_a_wrong_file_at_the_start_is_named(path):
    path.write_text("creatives: [{creative_id: wool, max_share: 2}]")
    with pytest.raises(InputError, match=r"controls\.yaml.*max_share"):
        ControlsFile(path)
    with pytest.raises(InputError, match="cannot be read"):
        ControlsFile(path.with_name("missing.yaml"))


def test_what_is_taken_off_does_not_make_the_service_ill(make_service, path):
    ids = ("wool", "straw", "blue", "red")
    gone = [f"{{creative_id: {one}, is_excluded: true}}" for one in ids]
    path.write_text(f"creatives: [{', '.join(gone)}]")
    service = make_service(rules={"controls": ControlsFile(path)})

    answer = service.send(None, path="/healthz", method="GET")

    assert answer.status_code == 200
