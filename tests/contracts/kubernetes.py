"""The fields that our Kubernetes manifests use, and no others: a typo is an error.

Kubernetes drops what a custom resource's schema does not know, and says so at most in
a warning. The models below are the part of each type that the manifests need, with the
names, types and values of the references:

    RayService, RayJob, RayCluster   KubeRay's API reference for `ray.io/v1`,
        https://docs.ray.io/en/latest/cluster/kubernetes/references/api.html
        (fields of KubeRay 1.5.1 to 1.7; `authOptions` came with 1.5.1), compared with
        the Go types of its schemas, `ray-operator/apis/ray/v1`, in November 2026
    pods, network policies           Kubernetes' API reference, `core/v1` and
        `networking.k8s.io/v1`, https://kubernetes.io/docs/reference/kubernetes-api/
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt
from pydantic.alias_generators import to_camel

Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|[KMGT]i?)?$", strict=True)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Texts = dict[str, Text]
Count = Annotated[int, Field(ge=0, strict=True)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


# Kubernetes, core/v1.


class Metadata(Strict):
    name: Name | None = None
    generate_name: (
        Annotated[str, Field(pattern=r"^[a-z0-9][-a-z0-9]{0,50}$")] | None
    ) = None
    labels: Texts = {}
    annotations: Texts = {}


class SecretKey(Strict):
    name: Name
    key: Text
    optional: StrictBool = False


class EnvSource(Strict):
    secret_key_ref: SecretKey


class EnvVar(Strict):
    name: Text
    value: Text | None = None
    value_from: EnvSource | None = None


class ContainerPort(Strict):
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,15}$")]
    container_port: Port


class Quantities(Strict):
    cpu: Quantity
    memory: Quantity


class Resources(Strict):
    requests: Quantities
    limits: Quantities


class Exec(Strict):
    command: list[Text]


class Probe(Strict):
    exec: Exec
    initial_delay_seconds: Count
    period_seconds: Count
    timeout_seconds: Count
    failure_threshold: Annotated[int, Field(ge=1, strict=True)]


class Capabilities(Strict):
    drop: list[Text]


class SecurityContext(Strict):
    allow_privilege_escalation: StrictBool
    run_as_non_root: StrictBool
    run_as_user: Annotated[int, Field(ge=1, strict=True)]
    capabilities: Capabilities


class VolumeMount(Strict):
    name: Name
    mount_path: Annotated[str, Field(pattern="^/")]


class Container(Strict):
    name: Name
    image: Text
    env: list[EnvVar] = []
    ports: list[ContainerPort] = []
    resources: Resources
    readiness_probe: Probe
    security_context: SecurityContext
    volume_mounts: list[VolumeMount] = []


class Claim(Strict):
    claim_name: Name


class Volume(Strict):
    name: Name
    persistent_volume_claim: Claim


def _mounts_exist(pod: "PodSpec") -> "PodSpec":
    known = {volume.name for volume in pod.volumes}
    for container in pod.containers:
        assert {mount.name for mount in container.volume_mounts} <= known
    return pod


class PodSpec(Strict):
    automount_service_account_token: StrictBool
    termination_grace_period_seconds: Count = 30
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume] = []


class PodTemplate(Strict):
    metadata: Metadata
    spec: Annotated[PodSpec, AfterValidator(_mounts_exist)]


# KubeRay, ray.io/v1.


class AuthOptions(Strict):
    mode: Literal["disabled", "token"]


class AutoscalerOptions(Strict):
    idle_timeout_seconds: Count
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"]


class HeadGroup(Strict):
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    ray_start_params: Texts
    template: PodTemplate


class WorkerGroup(Strict):
    group_name: Name
    replicas: Count
    min_replicas: Count
    max_replicas: Count
    ray_start_params: Texts
    template: PodTemplate


class RayClusterSpec(Strict):
    ray_version: Text
    auth_options: AuthOptions
    enable_in_tree_autoscaling: StrictBool
    autoscaler_options: AutoscalerOptions
    head_group_spec: HeadGroup
    worker_group_specs: Annotated[list[WorkerGroup], Field(min_length=1)]


class UpgradeStrategy(Strict):
    type: Literal["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]


class RayServiceSpec(Strict):
    upgrade_strategy: UpgradeStrategy
    exclude_head_pod_from_serve_svc: StrictBool
    serve_config_v2: Text
    ray_cluster_config: RayClusterSpec


class RayService(Strict):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: RayServiceSpec


class RayJobSpec(Strict):
    entrypoint: Text
    submission_mode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]
    backoff_limit: Count
    active_deadline_seconds: Annotated[int, Field(ge=1, strict=True)]
    shutdown_after_job_finishes: StrictBool
    ttl_seconds_after_finished: StrictInt
    ray_cluster_spec: RayClusterSpec


class RayJob(Strict):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


# Kubernetes, networking.k8s.io/v1.


class Selector(Strict):
    match_labels: Texts


class Peer(Strict):
    pod_selector: Selector | None = None
    namespace_selector: Selector | None = None


class PolicyPort(Strict):
    protocol: Literal["TCP", "UDP", "SCTP"]
    port: Port


class IngressRule(Strict):
    # An empty list of peers would admit everybody.
    peers: Annotated[list[Peer], Field(alias="from", min_length=1)]
    ports: list[PolicyPort] = []


class NetworkPolicySpec(Strict):
    pod_selector: Selector
    policy_types: list[Literal["Ingress", "Egress"]]
    ingress: list[IngressRule]


class NetworkPolicy(Strict):
    api_version: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    metadata: Metadata
    spec: NetworkPolicySpec


KINDS: dict[str, type[RayService | RayJob | NetworkPolicy]] = {
    "RayService": RayService,
    "RayJob": RayJob,
    "NetworkPolicy": NetworkPolicy,
}
