"""The demonstration: market, cycle, service, requests over HTTP, and a table."""

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from cacs_ray.data.files import read_json
from cacs_ray.manifest import read_manifest
from cacs_ray.recipes.config import run_config
from cacs_ray.recipes.cycle import run_cycle
from cacs_ray.recipes.promote import promote_bundle
from cacs_ray.recipes.serving import serve_graph
from cacs_ray.recipes.shown import show_answer, show_end, show_policies, show_step
from cacs_ray.registry import model_name
from cacs_ray.schema import Column
from cacs_ray.simulation.export import write_market
from cacs_ray.simulation.recipes import market_recipe
from cacs_ray.tracking.server import mlflow_server
from cacs_ray.tracking.store import default_uri
from cacs_ray.tracking.views import ML_MODE

log = logging.getLogger(__name__)

NUM_REQUESTS = 200


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line of the demonstration says."""

    out: Path
    recipe: str
    """Of the market and of the run."""
    exits: bool
    """Stop after the table instead of waiting for Ctrl-C."""
    serve_port: int
    """0 for any free one."""
    mlflow_port: int
    """0 for any free one."""


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Walk from nothing to a served, logged decision; see the README.

    Returns:
        Addresses, figures of the policies and of the requests sent.
    """
    started = time.monotonic()
    market = options.out / "market"
    show_step(1, "A market writes its log", f"recipe {options.recipe}")
    if not (market / "dataset.yaml").is_file():
        write_market(market_recipe(options.recipe), market, seed=0)
    show_step(2, "The cycle learns from it", "logs -> features -> models -> bundle")
    uri = default_uri()
    # The market's titles are bags of words: the small encoder reads them as well as
    # the sentence encoder, which would take minutes here.
    config = run_config(options.recipe).override(
        {"features.text_encoder": "hashed-ngrams"}
    )
    out = options.out / "cycle"
    cycle = run_cycle(market, out, config, recipe=options.recipe, tracking_uri=uri)
    show_step(3, "The gate compares it with the champion", "MLflow registry")
    verdict = promote_bundle(out / "bundle", tracking_uri=uri)
    show_step(4, "MLflow and the service start", "loopback only")
    with (
        mlflow_server(
            uri, options.out / "mlflow.log", port=options.mlflow_port
        ) as mlflow_url,
        serve_graph(
            options.out, options.serve_port, _told(cycle, market, mlflow_url)
        ) as service,
    ):
        show_step(5, f"{NUM_REQUESTS} requests over HTTP", "the day after the log")
        asked = send_requests(service.url, market)
        report = read_json(out / "report.json")
        show_policies(report)
        show_answer(asked.last_request, asked.last_answer, titles_of(market))
        addresses = {
            "service": service.url,
            "runs": f"{mlflow_url}/#/experiments?{ML_MODE}",
            "models": f"{mlflow_url}/#/models?{ML_MODE}",
            "report": (out / "report.html").as_uri(),
        }
        seconds = round(time.monotonic() - started, 1)
        show_end(addresses, seconds, stays=not options.exits)
        if not options.exits:
            wait_for_interrupt()
    played = report["truth"]["next_day"]
    return {
        "out": str(options.out),
        **addresses,
        "seconds": seconds,
        "is_promoted": verdict["is_promoted"],
        "requests": asked.figures(),
        "true_ctr": {name: one["true_ctr"]["value"] for name, one in played.items()},
    }


def _told(cycle: Mapping[str, Any], market: Path, mlflow_url: str) -> dict[str, Any]:
    """Return what the service is told; what is promoted later goes live in it."""
    bundle = Path(cycle["bundle"])
    return {
        "bundle": str(bundle),
        "dataset": str(market),
        "model": model_name(read_manifest(bundle)),
        "tracking_uri": mlflow_url,
        # As `make serve` does on one machine.
        "fused": True,
    }


def wait_for_interrupt() -> None:
    """Return when the user presses Ctrl-C."""
    try:
        signal.pause()
    except KeyboardInterrupt:
        log.info("stopping")


@dataclass(frozen=True, slots=True)
class Asked:
    """What came back for the requests that were sent."""

    latencies_ms: tuple[float, ...]
    num_ok: int
    num_fallbacks: int
    last_request: Mapping[str, Any]
    last_answer: Mapping[str, Any]

    def figures(self) -> dict[str, float]:
        """Counts and latencies for the job's last line."""
        spread = pl.Series(self.latencies_ms)
        return {
            "asked": len(self.latencies_ms),
            "ok": self.num_ok,
            "fallbacks": self.num_fallbacks,
            "p50_ms": round(spread.quantile(0.5) or 0.0, 1),
            "p99_ms": round(spread.quantile(0.99) or 0.0, 1),
        }


def send_requests(url: str, market: Path) -> Asked:
    """Send the market's next requests over HTTP, one after the other."""
    bodies = list(_bodies(market))
    latencies, answers = [], []
    with httpx.Client(base_url=url, timeout=10.0) as client:
        for body in bodies:
            started = time.perf_counter()
            answer = client.post("/v1/decide?explain=true", json=body)
            latencies.append(1e3 * (time.perf_counter() - started))
            answers.append(answer)
    decided = [answer.json() for answer in answers if answer.is_success]
    if not decided:
        raise RuntimeError(f"no request was answered: {answers[0].text[:300]}")
    return Asked(
        latencies_ms=tuple(latencies),
        num_ok=len(decided),
        num_fallbacks=sum(answer["is_fallback"] for answer in decided),
        last_request=bodies[-1],
        last_answer=decided[-1],
    )


def _bodies(market: Path) -> Iterator[dict[str, Any]]:
    """Turn the market's next-day requests table into bodies of the service."""
    table = pl.read_parquet(market / "truth" / "requests.parquet")
    own = (Column.REQUEST_ID, Column.REQUEST_TS, Column.USER_ID)
    skipped = {*own, Column.AD_ID, Column.BID_MICROS}
    features = [name for name in table.columns if name not in skipped]
    requests = table.partition_by(Column.REQUEST_ID, maintain_order=True)
    for rows in requests[:NUM_REQUESTS]:
        first = rows.row(0, named=True)
        yield {
            Column.REQUEST_ID: first[Column.REQUEST_ID],
            Column.REQUEST_TS: first[Column.REQUEST_TS].isoformat(),
            Column.USER_ID: first[Column.USER_ID],
            "features": {name: first[name] for name in features},
            "candidates": rows.select(Column.AD_ID, Column.BID_MICROS).to_dicts(),
            "num_slots": 3,
        }


def titles_of(market: Path) -> dict[str, str]:
    """Return the title of each creative, for people."""
    table = pl.read_parquet(market / "creatives.parquet")
    pairs = zip(table[Column.CREATIVE_ID], table["title"], strict=True)
    return {creative_id: title or "" for creative_id, title in pairs}
