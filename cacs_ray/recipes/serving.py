"""The serving graph beside a job, in processes of its own, as `make serve` runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from cacs_ray.cluster import local_environment
from cacs_ray.data.files import write_bytes
from cacs_ray.ingress import ingress_environment
from cacs_ray.local_server import LOOPBACK, free_port, wait_until_healthy

_START_TIMEOUT_S = 180.0
_SERVE_CONFIG = Path(__file__).parents[2] / "serve" / "config.yaml"


@dataclass(frozen=True, slots=True)
class ServedGraph:
    """A serving graph that runs beside this process."""

    url: str
    """The base address."""
    pid: int
    """Everything of the graph descends from this process."""
    decision_log: Path


@contextmanager
def serve_graph(
    out: Path,
    port: int,
    args: Mapping[str, Any],
    *,
    import_path: str | None = None,
    num_replicas: int = 1,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[ServedGraph]:
    """Run the serving graph in processes of its own, as `make serve` does.

    Args:
        out: gets serve.yaml, serve.log and the decision log.
        port: 0 for any free one.
        args: what it is told, over the values of config.yaml; at least its `bundle`.
        import_path: what builds the graph, as `module:function`; None for the
            service's own.
        num_replicas: of every deployment.
        environment: variables of its processes, over those of this one.

    Yields:
        The graph, once it has answered a golden request.

    Raises:
        RuntimeError: the graph ended or did not become healthy in time.
    """
    port = port or free_port()
    config = _configuration(out, port, args, num_replicas)
    if import_path is not None:
        config["applications"][0]["import_path"] = import_path
    write_bytes(out / "serve.yaml", yaml.safe_dump(config).encode())
    url = f"http://{LOOPBACK}:{port}"
    process = _started(out, f"{url}/healthz", environment)
    try:
        yield ServedGraph(url, process.pid, out / "decisions")
    finally:
        _stop(process)


def _configuration(
    out: Path, port: int, args: Mapping[str, Any], num_replicas: int
) -> dict[str, Any]:
    """Return what the shipped configuration becomes on this machine."""
    config = yaml.safe_load(_SERVE_CONFIG.read_text())
    config["http_options"]["port"] = port
    application = config["applications"][0]
    application["args"] |= {
        "state": str(out / "state"),
        "releases": str(Path(args["bundle"]).parent),
        "decision_log": str(out / "decisions"),
        "click_log": str(out / "clicks"),
        # Two cores also run the client and everything else here.
        "budget_ms": 1000,
        **args,
    }
    # Ray Serve refuses settings of deployments that the graph does not have.
    absent = _absent_deployments(application["args"])
    application["deployments"] = [
        one for one in application["deployments"] if one["name"] not in absent
    ]
    for deployment in application["deployments"]:
        # This machine is all there is: nothing scales.
        del deployment["autoscaling_config"]
        deployment["num_replicas"] = num_replicas
    return config


def _absent_deployments(args: Mapping[str, Any]) -> set[str]:
    if args["fused"]:
        return {"Selector", "Ranker"}
    return {"Selector"} if args["selector_in_gateway"] else set()


def _started(
    out: Path, health: str, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start what serve.yaml says; once more if a busy machine was too slow for Ray."""
    for is_last in (False, True):
        process = _launched(out, environment)
        try:
            wait_until_healthy(process, health, out / "serve.log", _START_TIMEOUT_S)
        except BaseException as error:
            _stop(process)
            was_slow = b"timed out during startup" in (out / "serve.log").read_bytes()
            if is_last or not was_slow or not isinstance(error, RuntimeError):
                raise
        else:
            break
    return process


def _launched(out: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    root = str(_SERVE_CONFIG.parents[1])
    with (out / "serve.log").open("wb") as stream:
        return subprocess.Popen(
            [
                *[_script("serve"), "run", "--address", "local"],
                *["--app-dir", root, str(out / "serve.yaml")],
            ],
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={
                **os.environ,
                **local_environment(),
                **ingress_environment(),
                "PYTHONPATH": root,
                **environment,
            },
        )


def _script(name: str) -> str:
    """Return a console script of this very environment."""
    return str(Path(sys.executable).with_name(name))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let the graph flush its decision log, then end what is left of it."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=40)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
