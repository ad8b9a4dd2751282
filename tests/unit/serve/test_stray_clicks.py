"""A click counts for calibration whichever gateway it reaches, and once."""

import os
import time

import pytest

from serve.api import Click, ClicksRequest
from serve.clicks import Clicks, FirstPlaces
from serve.metrics import Metrics
from serve.stray_clicks import KEPT_S, MOST_KEPT, StrayClicks


class TakesAll:
    """A log with room."""

    def append(self, rows):
        return True

    def close(self):
        pass


class OfOne:
    """What a gateway shows and is told."""

    def __init__(self, directory, name):
        self.metrics, self.places = Metrics(), FirstPlaces()
        self.clicks = Clicks(
            TakesAll(),
            self.metrics,
            self.places,
            StrayClicks(directory, name),
            every_s=None,
        )

    def click(self, request_id, ad_id):
        told = Click(request_id=request_id, ad_id=ad_id)
        self.clicks.accept(ClicksRequest(clicks=[told]))

    @property
    def counted(self):
        value = self.metrics.registry.get_sample_value
        return value("cacs_slot0_clicks_total")


@pytest.fixture
def gateways(tmp_path):
    return OfOne(tmp_path, "first"), OfOne(tmp_path, "second")


def exchange(*gateways):
    """All leave their strays, then all look."""
    for _ in range(2):
        for one in gateways:
            one.clicks.exchange()


def test_a_click_that_reaches_another_gateway_is_counted_by_the_one_that_decided(
    gateways,
):
    showed, other = gateways
    showed.places.remember("q1", "hat")
    other.click("q1", "hat")
    assert showed.counted == 0
    exchange(showed, other)
    assert (showed.counted, other.counted) == (1, 0)


def test_it_counts_once_however_often_it_comes_and_is_looked_at(gateways):
    showed, other = gateways
    showed.places.remember("q1", "hat")
    for _ in range(3):
        other.click("q1", "hat")
        exchange(showed, other)
        showed.click("q1", "hat")
    assert (showed.counted, other.counted) == (1, 0)


def test_a_click_on_another_slot_is_nobodys(gateways):
    showed, other = gateways
    showed.places.remember("q1", "hat")
    other.click("q1", "shoe")
    exchange(showed, other)
    assert (showed.counted, other.counted) == (0, 0)
    # And the first place still waits for its own.
    other.click("q1", "hat")
    exchange(showed, other)
    assert showed.counted == 1


def test_without_clicks_nothing_is_written(gateways, tmp_path):
    exchange(*gateways)
    assert not list(tmp_path.iterdir())


def test_what_was_left_goes_with_its_gateway(gateways, tmp_path):
    _, other = gateways
    other.click("q1", "hat")
    other.clicks.exchange()
    assert len(list(tmp_path.iterdir())) == 1
    other.clicks.close()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_gateway_left_is_removed_after_a_while(gateways, tmp_path):
    showed, other = gateways
    other.click("q1", "hat")
    other.clicks.exchange()
    (left,) = tmp_path.iterdir()
    long_ago = time.time() - 3 * KEPT_S
    os.utime(left, (long_ago, long_ago))
    showed.clicks.exchange()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'[["q1"]]', b"7", b"\xff"])
def test_a_file_that_is_none_of_ours_stops_nothing(gateways, tmp_path, caplog, content):
    showed, other = gateways
    (tmp_path / "aaaa.strays").write_bytes(content)
    showed.places.remember("q1", "hat")
    other.click("q1", "hat")
    exchange(showed, other)
    assert showed.counted == 1
    assert "aaaa.strays" in caplog.text


def test_a_disk_that_does_not_take_them_costs_no_click_of_its_own(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    gateway = OfOne(tmp_path / "file", "only")
    gateway.click("q1", "hat")
    gateway.clicks.exchange()
    gateway.places.remember("q2", "hat")
    gateway.click("q2", "hat")
    gateway.clicks.exchange()
    assert gateway.counted == 1
    # Told once, not every two seconds.
    assert caplog.text.count("not left") == 1


def test_of_too_many_the_oldest_are_forgotten(tmp_path):
    mine, other = StrayClicks(tmp_path, "mine"), StrayClicks(tmp_path, "other")
    for number in range(MOST_KEPT + 5):
        mine.note(f"q{number}", "hat")
    mine.leave()
    told = list(other.of_others())
    assert len(told) == MOST_KEPT
    assert told[0] == ("q5", "hat")
    # Nothing new: nothing is read again.
    assert list(other.of_others()) == []


def test_an_exchange_that_stands_still_costs_no_click_that_was_taken(tmp_path):
    told = []

    class Log(TakesAll):
        def close(self):
            told.append("log")

    class StandsStill(StrayClicks):
        def close(self):
            told.append("strays")
            raise TimeoutError

    clicks = Clicks(Log(), Metrics(), strays=StandsStill(tmp_path, "a"), every_s=None)
    with pytest.raises(TimeoutError):
        clicks.close()
    assert told == ["log", "strays"]
