"""Importing a module does nothing but define names."""

import json
import os
import subprocess
import sys

from tests.contracts.sources import ROOT, module_names

PROBE = """
import importlib, json, logging, os, sys
root, here, names = sys.argv[1], os.getcwd(), sys.argv[2].split(",")
seen = []
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
def watch(event, args):
    if event == "socket.connect":
        seen.append(["connects", str(args[1])])
    if event == "open" and isinstance(args[0], str) and args[2] & WRITING:
        path = os.path.abspath(args[0])
        if path.startswith((root, here)):
            seen.append(["writes", path])
    if event == "os.mkdir":
        path = os.path.abspath(os.fsdecode(args[0]))
        if path.startswith((root, here)):
            seen.append(["makes", path])
sys.addaudithook(watch)
for name in names:
    importlib.import_module(name)
ray = sys.modules.get("ray")
if ray is not None and ray.is_initialized():
    seen.append(["starts", "ray"])
if logging.getLogger().handlers:
    seen.append(["sets up", "logging"])
sys.stdout.write(json.dumps(seen))
"""


def test_no_module_has_side_effects(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(ROOT), ",".join(module_names())],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    # The report is all that was printed: nothing greets at import.
    assert json.loads(done.stdout) == []


def test_a_replica_imports_nothing_that_only_training_needs():
    """It starts when another one has died: every second of it is missed."""
    asked = "import sys, serve.app, cacs_ray.bundle; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", asked],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    needless = ["sklearn", "scipy.stats", "scipy.optimize", "scipy.spatial", "mlflow"]
    needless += ["optuna", "duckdb", "plotly", "ray.data", "ray.train", "ray.tune"]
    assert not set(needless) & set(done.stdout.split())
