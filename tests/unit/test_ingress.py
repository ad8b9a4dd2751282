"""What the way in promises: one machine's graph is heard on that machine alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cacs_ray.ingress import ingress_environment

WRAPPER = Path(__file__).parents[2] / "serve" / "haproxy_on_loopback.sh"
CONFIG = """global
    stats socket /tmp/admin.sock mode 666 level admin expose-fd listeners
frontend prometheus
    bind :9101
frontend http_frontend
    bind 0.0.0.0:8000
listen stats
  bind *:8404
"""


def test_what_is_for_operators_listens_on_loopback_and_obeys_its_owner(tmp_path):
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    ran = subprocess.run(
        [WRAPPER, "-db", "-f", config, "-sf", "7"],
        env={**os.environ, "CACS_HAPROXY": "/bin/echo"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == f"-db -f {config} -sf 7\n"
    bound = re.findall(r"bind (\S+)", config.read_text())
    # Where requests come in is the operator's own choice.
    assert bound == ["127.0.0.1:9101", "0.0.0.0:8000", "127.0.0.1:8404"]
    assert "mode 600 level admin" in config.read_text()


def test_the_wrapper_finds_the_binary_that_came_with_ray():
    home = Path(sys.executable).parent
    env = {"PATH": f"{home}:{os.environ['PATH']}"}
    ran = subprocess.run([WRAPPER, "-v"], env=env, capture_output=True, check=True)
    assert ran.stdout.startswith(b"HAProxy")


def test_the_template_of_ray_serve_is_still_what_the_wrapper_reads():
    templates = pytest.importorskip("ray.serve._private.haproxy_templates")
    text = Path(templates.__file__).read_text()
    assert "bind *:{{ config.stats_port }}" in text
    assert "bind :{{ config.metrics_port }}" in text
    assert text.count("bind *:") + text.count("bind :") == 2
    assert "mode 666 level admin" in text


def test_what_is_set_already_wins(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    assert ingress_environment()["RAY_SERVE_ENABLE_HA_PROXY"] == "0"


def test_every_port_of_ray_serve_is_a_graphs_own():
    """A port that two graphs share lets one answer what the other was asked."""
    constants = pytest.importorskip("ray.serve._private.constants")
    told = ingress_environment()
    # On one machine there are no worker nodes.
    ports = re.compile(r"RAY_SERVE_(?!WORKER)\w*_PORT")
    known = {name for name in vars(constants) if ports.fullmatch(name)}
    assert known <= set(told)


def test_ray_serve_still_reads_what_shall_be_asked_again():
    constants = pytest.importorskip("ray.serve._private.constants")
    told = ingress_environment()
    assert told["RAY_SERVE_HAPROXY_RETRY_ON"].split() == [
        constants.RAY_SERVE_HAPROXY_RETRY_ON,
        "empty-response",
    ]
    assert int(told["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]) > (
        constants.RAY_SERVE_HAPROXY_TUNE_BUFSIZE
    )


def test_a_shell_can_read_it():
    shown = subprocess.run(
        [
            *["/bin/sh", "-c"],
            f'eval "$({sys.executable} -m cacs_ray.ingress)"; '
            'test -x "$RAY_SERVE_HAPROXY_BINARY_PATH" && "$CACS_HAPROXY" -v',
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith("HAProxy")
