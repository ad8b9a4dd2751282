"""What a local Ray would be started with; no Ray is started here."""

import os

from cacs_ray.cluster import local_environment


def test_a_private_cluster_has_a_token_that_is_new_each_time(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    first, second = local_environment(), local_environment()
    assert first["RAY_AUTH_MODE"] == "token"
    assert len(first["RAY_AUTH_TOKEN"]) == 2 * 32
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


def test_what_the_user_set_wins(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    environment = local_environment()
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & set(environment)
    assert environment["RAY_USAGE_STATS_ENABLED"] == "1"


def test_workers_find_the_library_first(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/a", "/b"]))
    library, *rest = local_environment()["PYTHONPATH"].split(os.pathsep)
    assert os.path.isdir(os.path.join(library, "cacs_ray"))
    assert rest == ["/a", "/b"]
