"""What the local Ray promises."""

import ray

from cacs_ray.cluster import start_ray


def test_workers_import_the_library(ray_local):
    @ray.remote(num_cpus=1)
    def module_of_the_error():
        from cacs_ray.errors import InputError

        return InputError.__module__

    assert ray.get(module_of_the_error.remote()) == "cacs_ray.errors"


def test_starting_twice_changes_nothing(ray_local):
    before = ray.get_runtime_context().get_node_id()
    with start_ray():
        assert ray.get_runtime_context().get_node_id() == before
    assert ray.is_initialized()


def test_the_node_has_the_loopback_address_only(ray_local):
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
