"""What the spool keeps, and for whom."""

import pytest

from cacs_ray.tracking.spool import Spool, take_over_all


@pytest.fixture
def spool(tmp_path):
    spool = Spool.create(tmp_path)
    yield spool
    spool.close()


def test_records_come_back_in_order_until_marked(spool):
    spool.append({"n": 1})
    spool.append({"n": 2})
    records, end = spool.pending()
    assert records == [{"n": 1}, {"n": 2}]

    spool.mark_delivered(end)
    spool.append({"n": 3})

    assert spool.pending()[0] == [{"n": 3}]


def test_half_a_line_is_no_record(spool):
    spool.append({"n": 1})
    with spool.path.open("ab") as stream:
        stream.write(b'{"n": 2')
    assert spool.pending()[0] == [{"n": 1}]


def test_a_file_in_use_is_not_taken_over(spool, tmp_path):
    spool.append({"n": 1})
    assert take_over_all(tmp_path) == []

    spool.close()

    (taken,) = take_over_all(tmp_path)
    assert taken.pending()[0] == [{"n": 1}]
    taken.close()


def test_what_was_delivered_is_not_delivered_again_by_the_next_process(spool, tmp_path):
    spool.append({"n": 1})
    spool.mark_delivered(spool.pending()[1])
    spool.append({"n": 2})
    spool.close()
    (taken,) = take_over_all(tmp_path)
    assert taken.pending()[0] == [{"n": 2}]
    taken.close()


def test_an_empty_spool_leaves_nothing_behind(tmp_path):
    assert Spool.create(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
