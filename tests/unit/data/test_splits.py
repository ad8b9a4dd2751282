"""Windows follow each other in time, cover the log and are never empty."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacs_ray.data.splits import SplitSettings, Windows, split_windows
from cacs_ray.data.summary import LogSummary, RowCounts
from cacs_ray.errors import InputError

DAY_US = 86_400_000_000
START = 19_732 * DAY_US  # 2024-01-10


def log_of(times) -> LogSummary:
    """The summary of a log with one row at each of these times."""
    at, rows = np.unique(np.array(times, dtype=np.int64), return_counts=True)
    days, per_day = np.unique(np.array(times) // DAY_US, return_counts=True)
    return LogSummary(
        rows=RowCounts(read=len(times), accepted=len(times)),
        first_ts_us=int(at[0]),
        last_ts_us=int(at[-1]),
        rows_per_day=dict(
            zip(
                np.datetime_as_string(days.astype("datetime64[D]")).tolist(),
                per_day.tolist(),
                strict=True,
            )
        ),
        timeline=tuple(zip(at.tolist(), rows.tolist(), strict=True)),
    )


def counts(times, windows: Windows) -> list[int]:
    sides = (windows.train, windows.validation, windows.test)
    return [sum(start <= t < end for t in times) for start, end in sides]


def test_a_log_of_days_is_cut_at_the_last_two_midnights():
    times = [START + day * DAY_US + hour for day in range(5) for hour in range(10)]
    windows = split_windows(log_of(times))
    assert windows == Windows(
        train_start_us=START,
        train_end_us=START + 3 * DAY_US,
        validation_end_us=START + 4 * DAY_US,
        test_end_us=START + 5 * DAY_US,
    )


def test_four_days_are_cut_by_rows():
    times = [START + day * DAY_US + hour for day in range(4) for hour in range(25)]
    assert counts(times, split_windows(log_of(times))) == [70, 15, 15]


def test_a_long_thin_log_is_cut_by_rows():
    # 100 days of one row each: a day is 1 % of the rows.
    times = [START + day * DAY_US for day in range(100)]
    assert counts(times, split_windows(log_of(times))) == [70, 15, 15]
    days = split_windows(log_of(times), SplitSettings(by="days"))
    assert counts(times, days) == [98, 1, 1]


def test_a_thin_last_day_is_no_test_window():
    times = [START + day * DAY_US + i for day in range(6) for i in range(100)]
    sliver = [*times, START + 6 * DAY_US]
    assert counts(times, split_windows(log_of(times))) == [400, 100, 100]
    assert counts(sliver, split_windows(log_of(sliver)))[2] == pytest.approx(90, abs=1)


def test_the_shares_may_be_set():
    shares = SplitSettings(by="rows", validation_share=0.1, test_share=0.3)
    times = list(range(START, START + 100))
    assert counts(times, split_windows(log_of(times), shares)) == [60, 10, 30]


def test_rows_of_one_moment_stay_together():
    times = [START] * 10 + [START + 1] * 80 + [START + 2] * 10
    assert counts(times, split_windows(log_of(times))) == [10, 80, 10]


@pytest.mark.parametrize("times", [[START], [START, START + 1]])
def test_too_few_moments_are_told(times):
    with pytest.raises(InputError, match=r"cannot be cut.*\[time_split\]"):
        split_windows(log_of(times))


@pytest.mark.parametrize("days", [[0, 1], [0, 1, 3]])
def test_missing_days_are_told_when_days_are_asked_for(days):
    with pytest.raises(InputError, match="time_split"):
        split_windows(
            log_of([START + day * DAY_US for day in days]), SplitSettings(by="days")
        )


# A busy machine is no failure: no deadline.
@settings(deadline=None)
@given(
    st.lists(
        st.integers(0, 20 * DAY_US) | st.integers(0, 20), min_size=3, max_size=60
    ).filter(lambda times: len(set(times)) >= 3),
    st.floats(0.01, 0.49),
    st.floats(0.01, 0.49),
)
def test_every_row_is_in_one_window_and_no_window_is_empty(times, validation, test):
    times = [START + t for t in times]
    shares = SplitSettings(validation_share=validation, test_share=test)
    windows = split_windows(log_of(times), shares)
    parts = counts(times, windows)
    assert sum(parts) == len(times)
    assert min(parts) >= 1
    assert windows.train_start_us == min(times)
