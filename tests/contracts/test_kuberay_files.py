"""The manifests for Kubernetes: known fields, a token, nothing open to the outside."""

import copy
import importlib
import shlex

import kubernetes_validate
import pydantic
import pytest
import ray
import yaml
from ray._common.utils import import_attr
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

from serve.app import TOKEN_VARIABLE
from tests.contracts.kubernetes import KINDS
from tests.contracts.sources import ROOT

FILES = ("serve/kuberay_rayservice.yaml", "serve/kuberay_rayjob.yaml")


def documents(name):
    return list(yaml.safe_load_all((ROOT / name).read_text()))


def read(name, kind):
    (found,) = [one for one in documents(name) if one["kind"] == kind]
    return KINDS[kind].model_validate(found)


def cluster_of(name):
    if name.endswith("rayjob.yaml"):
        return read(name, "RayJob").spec.ray_cluster_spec
    return read(name, "RayService").spec.ray_cluster_config


def templates(cluster):
    groups = [cluster.head_group_spec, *cluster.worker_group_specs]
    return [group.template for group in groups]


@pytest.mark.parametrize("name", FILES)
def test_every_field_is_one_of_its_kind(name):
    for document in documents(name):
        KINDS[document["kind"]].model_validate(document)


def kubernetes_documents(name):
    """Return what Kubernetes itself has a schema for: pods of a template, policies."""
    for document in documents(name):
        if document["kind"] == "NetworkPolicy":
            yield document
            continue
        spec = document["spec"]
        cluster = spec.get("rayClusterConfig") or spec["rayClusterSpec"]
        for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
            yield {"apiVersion": "v1", "kind": "Pod", **group["template"]}


@pytest.mark.parametrize("version", ["1.29", "1.34"])
@pytest.mark.parametrize("name", FILES)
def test_pods_and_policies_are_valid_by_the_schemas_of_kubernetes(name, version):
    checked = [
        kubernetes_validate.validate(document, version, strict=True)
        for document in kubernetes_documents(name)
    ]
    assert len(checked) >= 2


def test_the_schemas_of_kubernetes_would_refuse_a_misspelt_field_or_type():
    for field, value in (("image", 1), ("readinesProbe", {}), ("env", {})):
        pod = next(kubernetes_documents(FILES[0]))
        pod["spec"]["containers"][0][field] = value
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, "1.34", strict=True)


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "serveConfigV3"),
        ("spec", "rayClusterConfig", "authOption"),
        ("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "container"),
    ],
)
def test_a_misspelt_field_would_be_refused(path):
    broken = copy.deepcopy(documents(FILES[0])[0])
    level = broken
    for key in path[:-1]:
        level = level[key]
    level[path[-1]] = "x"
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        KINDS["RayService"].model_validate(broken)


@pytest.mark.parametrize("name", FILES)
def test_the_token_is_asked_for_and_nothing_is_open_to_the_outside(name):
    cluster = cluster_of(name)
    assert cluster.auth_options.mode == "token"
    assert cluster.head_group_spec.service_type == "ClusterIP"
    (policy,) = [
        one.spec
        for one in [read(FILES[0], "NetworkPolicy")]
        if "Ingress" in one.spec.policy_types
    ]
    for template in templates(cluster):
        assert (
            policy.pod_selector.match_labels.items() <= template.metadata.labels.items()
        )
    # From outside the namespace comes the operator alone.
    outside = [
        peer
        for rule in policy.ingress
        for peer in rule.peers
        if peer.namespace_selector
    ]
    assert len(outside) == 1
    assert "kuberay-operator" in outside[0].pod_selector.match_labels.values()


@pytest.mark.parametrize("name", FILES)
def test_all_pods_run_one_image_of_the_ray_that_is_locked(name):
    cluster = cluster_of(name)
    assert cluster.ray_version == ray.__version__
    assert f"ray=={ray.__version__}" in (ROOT / "requirements.lock").read_text()
    assert (
        f"FROM rayproject/ray:{ray.__version__}-py311" in (ROOT / FILES[0]).read_text()
    )
    containers = [c for one in templates(cluster) for c in one.spec.containers]
    assert len({container.image for container in containers}) == 1
    for container in containers:
        # Bursts over the request would take memory from the neighbours.
        assert container.resources.requests == container.resources.limits
        assert any(variable.name == "PYTHONPATH" for variable in container.env)
    assert cluster.head_group_spec.ray_start_params["num-cpus"] == "0"
    for group in cluster.worker_group_specs:
        assert 1 <= group.min_replicas <= group.replicas <= group.max_replicas


@pytest.fixture
def served():
    return yaml.safe_load(read(FILES[0], "RayService").spec.serve_config_v2)


def test_ray_knows_every_key_of_the_serve_config(served):
    # Ray ignores keys that it does not know, so their names are compared here.
    ServeDeploySchema.model_validate(served)
    assert served.keys() <= ServeDeploySchema.model_fields.keys()
    (application,) = served["applications"]
    assert application.keys() <= ServeApplicationSchema.model_fields.keys()
    for deployment in application["deployments"]:
        assert deployment.keys() <= DeploymentSchema.model_fields.keys()
        scaling = deployment["autoscaling_config"]
        assert scaling.keys() <= AutoscalingConfig.model_fields.keys()
        parsed = AutoscalingConfig.model_validate(scaling)
        assert 2 <= parsed.min_replicas <= parsed.max_replicas
        # Replicas are added before answers become cheaper and requests are refused,
        # and stages while a gateway has as many calls under way as it may.
        args = served["applications"][0]["args"]
        is_gateway = deployment["name"] == "Gateway"
        most = args["max_in_full"] if is_gateway else args["stage_calls"]
        assert parsed.target_ongoing_requests < most
        assert args["max_in_full"] < args["max_in_flight"] < args["max_in_burst"]


def test_it_serves_the_graph_of_the_config_file(served):
    plain = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    (here,), (there,) = served["applications"], plain["applications"]
    assert here["import_path"] == there["import_path"]
    assert here["args"].keys() == there["args"].keys()
    builder = import_attr(here["import_path"])
    builder.__annotations__["args"].model_validate(here["args"])
    for ours, theirs in zip(here["deployments"], there["deployments"], strict=True):
        scaled = {"num_replicas", "autoscaling_config", "ray_actor_options"}
        assert {k: v for k, v in ours.items() if k not in scaled} == {
            k: v for k, v in theirs.items() if k not in scaled
        }


def test_the_replicas_that_must_run_fit_on_the_workers_that_must_run(served):
    (group,) = cluster_of(FILES[0]).worker_group_specs
    (container,) = group.template.spec.containers
    (application,) = served["applications"]
    least, most = (
        sum(
            one["ray_actor_options"]["num_cpus"] * one["autoscaling_config"][bound]
            for one in application["deployments"]
        )
        for bound in ("min_replicas", "max_replicas")
    )
    cpus = int(container.resources.requests.cpu)
    assert least <= cpus * group.min_replicas
    assert most <= cpus * group.max_replicas


def test_the_admin_token_comes_from_a_secret_and_never_from_the_file():
    variables = [
        one
        for template in templates(cluster_of(FILES[0]))
        for container in template.spec.containers
        for one in container.env
        if one.name == TOKEN_VARIABLE
    ]
    assert len(variables) == 2
    assert all(one.value is None and one.value_from for one in variables)


def test_traffic_waits_for_the_proxy_and_the_log_is_written_before_the_end(served):
    (group,) = cluster_of(FILES[0]).worker_group_specs
    (container,) = group.template.spec.containers
    port = served["http_options"]["port"]
    asked = container.readiness_probe.exec.command[-1]
    assert f":{port}/readyz | grep -q ready" in asked
    assert port in [one.container_port for one in container.ports]
    (application,) = served["applications"]
    longest = max(
        one.get("graceful_shutdown_timeout_s", 0) for one in application["deployments"]
    )
    assert group.template.spec.termination_grace_period_seconds > longest


def test_the_job_runs_a_command_of_ours_and_writes_where_the_service_reads(
    served, capsys
):
    job = read(FILES[1], "RayJob").spec
    python, flag, module, *options = shlex.split(job.entrypoint)
    assert (python, flag) == ("python", "-m")
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    known = capsys.readouterr().out
    assert all(one in known for one in options if one.startswith("--"))
    out = options[options.index("--out") + 1]
    (application,) = served["applications"]
    assert application["args"]["bundle"] == f"{out}/bundle"
    assert job.shutdown_after_job_finishes


def test_who_submits_the_job_is_admitted_by_the_network_policy():
    # In the other modes a pod without our labels would have to reach the dashboard.
    assert read(FILES[1], "RayJob").spec.submission_mode == "HTTPMode"
    admitted = [
        port.port
        for rule in read(FILES[0], "NetworkPolicy").spec.ingress
        for port in rule.ports
        if any(peer.namespace_selector for peer in rule.peers)
    ]
    head = cluster_of(FILES[1]).head_group_spec.template.spec.containers[0]
    (dashboard,) = [
        port.container_port for port in head.ports if port.name == "dashboard"
    ]
    assert dashboard in admitted
