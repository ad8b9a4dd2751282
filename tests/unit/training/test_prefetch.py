"""What making batches ahead promises."""

import threading

import pytest

from cacs_ray.training.prefetch import ahead


def test_things_come_in_order_from_one_other_thread():
    threads = set()

    def make(number: int) -> int:
        threads.add(threading.get_ident())
        return number * number

    with ahead(make, range(50)) as made:
        assert list(made) == [n * n for n in range(50)]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_error_is_raised_where_the_thing_is_taken():
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("torn")
        return number

    with ahead(make, range(4)) as made:
        assert [next(made), next(made)] == [0, 1]
        with pytest.raises(ValueError, match="torn"):
            next(made)


def test_leaving_early_drops_the_rest():
    made_so_far = []
    with ahead(lambda n: made_so_far.append(n) or n, range(1000)) as made:
        next(made)
    assert len(made_so_far) <= 4
