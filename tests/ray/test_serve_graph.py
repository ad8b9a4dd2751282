"""The composed graph on a real Ray Serve: one page view over HTTP and back."""

import json
import re
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import serve

from cacs_ray.features.catalogue import Catalogue
from cacs_ray.features.spec import FeatureSpec, FieldSpec
from serve.app import compose
from serve.arguments import AppArgs
from serve.board import Entry, ReleaseBoard
from serve.release import Release
from serve.wiring import Wiring

FIELD = FieldSpec(name="device", of="request", kind="category", column="device")
PAGE_VIEW = {
    "request_id": "q1",
    "features": {"device": "phone"},
    "candidates": [
        {"ad_id": "hat", "bid_micros": 100_000},
        {"ad_id": "shoe", "bid_micros": 400_000},
    ],
}


@pytest.fixture(scope="module")
def port(ray_local) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    serve.start(
        proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": free}
    )
    yield free
    serve.shutdown()


def tiny_loaders():
    """Loaders of a market that needs no bundle; closures travel to the replicas."""
    catalogue = Catalogue.from_tables(
        pa.table(
            {"creative_id": ["wool", "straw", "blue"], "ad_id": ["hat", "hat", "shoe"]}
        ),
        pa.table({"ad_id": ["hat", "shoe"]}),
    )
    fields = (FIELD,)
    spec = FeatureSpec(fields=fields, vocabularies=())

    def load_predictor(_):
        return SimpleNamespace(
            bundle_id="r1",
            fitted=SimpleNamespace(spec=spec),
            catalogue=catalogue,
            context=lambda requests: requests.num_rows,
            # The later creative is liked better; pinned down by its row number.
            selector_scores=lambda _, lists: lists.astype(np.float32),
            teacher_scores=lambda _, lists: lists.astype(np.float32),
            context_part=lambda _: None,
            pctr=lambda _, row, __: row / 100,
        )

    return lambda _: Release("r1", catalogue, fields), load_predictor


def addresses_of_replicas():
    """Where the replicas of this graph listen, as bare IPv4 addresses."""
    replicas = [
        one
        for one in psutil.Process().children(recursive=True)
        if one.name().startswith("ray::ServeRepli")
    ]
    assert replicas
    return {
        socket.laddr.ip.removeprefix("::ffff:")
        for replica in replicas
        for socket in replica.net_connections("tcp")
        if socket.status == psutil.CONN_LISTEN
    }


def replica_of(deployment):
    """The process of a deployment that has one replica."""
    (found,) = [
        one
        for one in psutil.Process().children(recursive=True)
        if one.cmdline()[:1] and f":{deployment}" in one.cmdline()[0]
    ]
    return found


def test_a_gateway_that_is_told_to_end_writes_what_it_decided(port, tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 1, "bundle_id": "r1"}')
    args = AppArgs(
        bundle="tiny", budget_ms=5_000, fused=True, decision_log=str(tmp_path)
    )
    board = ReleaseBoard(tmp_path / "board")
    board.begin(Entry(bundle_id="r1", path=str(tmp_path)), ("gateway",))
    serve.run(
        compose(Wiring(args, board, {}, *tiny_loaders())), name="ads", route_prefix="/"
    )
    gateway = replica_of("Gateway")

    url = f"http://127.0.0.1:{port}/v1/decide"
    answer = httpx.post(url, json=PAGE_VIEW, timeout=20)
    gateway.terminate()
    gateway.wait(20)
    # Another one has started by itself, and has decided nothing.
    files = list(tmp_path.glob("decisions-*.parquet"))
    serve.delete("ads")

    assert answer.status_code == 200, answer.text
    assert [pq.read_table(file).num_rows for file in files] == [2]


@pytest.mark.parametrize(
    "graph",
    [{}, {"selector_in_gateway": True}, {"fused": True}],
    ids=["composed", "selector in the gateway", "fused"],
)
def test_a_page_view_travels_the_graph_and_is_logged(port, tmp_path, graph):
    args = AppArgs(bundle="tiny", budget_ms=5_000, decision_log=str(tmp_path), **graph)
    board = ReleaseBoard(tmp_path / "board")
    (tmp_path / "manifest.json").write_text(
        json.dumps({"format": 1, "bundle_id": "r1"})
    )
    board.begin(Entry(bundle_id="r1", path=str(tmp_path)), args.kinds)
    wiring = Wiring(args, board, {}, *tiny_loaders())
    serve.run(compose(wiring), name="ads", route_prefix="/")

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        answer = client.post("/v1/decide", json=PAGE_VIEW)
        health = client.get("/healthz")
        metrics = client.get("/metrics")
    heard = addresses_of_replicas()
    serve.delete("ads")

    assert answer.status_code == 200, answer.text
    # wool is row 1, straw 2, blue 3: 0.03 x 400 000 beats 0.02 x 100 000.
    assert [(p["ad_id"], p["creative_id"]) for p in answer.json()["placements"]] == [
        ("shoe", "blue"),
        ("hat", "straw"),
    ]
    assert not answer.json()["is_fallback"]
    assert "selector;dur=" in answer.headers["server-timing"]
    assert health.json() == {"status": "ok", "release": "r1"}
    assert re.search(
        r'^cacs_requests_total\{gateway="\w+",status="200"\} 2\.0$', metrics.text, re.M
    )
    # Ray Serve's own choice would be every address, for pickled calls.
    assert heard == {"127.0.0.1"}
    # Deleting the graph drains it: what was decided is on disk.
    (file,) = tmp_path.glob("decisions-*.parquet")
    assert pq.read_table(file)["ad_id"].to_pylist() == ["hat", "shoe"]
