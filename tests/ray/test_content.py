"""Many missing contents are encoded by Ray Data workers, with the same result."""

import numpy as np
import pyarrow as pa
import pytest

from cacs_ray.features import content
from cacs_ray.features.content import encode_content
from cacs_ray.features.text import HashedNgrams


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(HashedNgrams, "chunk_size", 10)


def test_workers_encode_as_this_process_does(
    ray_local, tmp_path, monkeypatch, small_chunks
):
    titles = pa.array([f"title {n % 45}" for n in range(60)] + [None, ""])
    asked = []
    start = content._map_with_ray
    monkeypatch.setattr(
        content, "_map_with_ray", lambda *args: asked.append(1) or start(*args)
    )

    def encode(cache):
        return encode_content(
            titles, "text", "hashed-ngrams", cache=tmp_path / cache, root=tmp_path
        )

    by_workers = encode("ray")
    assert asked == [1]
    assert np.array_equal(encode("ray"), by_workers)  # from the cache
    monkeypatch.setattr(content, "_may_start_workers", lambda: False)
    assert np.array_equal(encode("local"), by_workers)
    assert asked == [1]


def test_inside_a_task_no_workers_are_started(ray_local):
    import ray

    assert content._may_start_workers()
    assert not ray.get(ray.remote(num_cpus=0)(_may_start_workers).remote())


def _may_start_workers():
    from cacs_ray.features import content

    return content._may_start_workers()
