"""KubeRay's manifests: Ray's fields by the operator's schemas or a list of ours, the rest by Kubernetes'.

KUBERAY_CRD_DIR names a folder with ray.io_rayclusters.yaml and ray.io_rayjobs.yaml of KubeRay 1.7.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.cluster_files import misspelt, read, train_arguments, train_commands

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install '.[dev]'")

Manifest = dict[str, Any]
_KUBERNETES = "1.33"
_FILES = {"RayJob": "rayjob.yaml", "RayCluster": "raycluster.yaml"}
_CRD_DIR = os.environ.get("KUBERAY_CRD_DIR", "")


def _closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


_TEXT, _NUMBER, _FLAG, _ANY = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_GROUP = _closed(
    groupName=_TEXT,
    replicas=_NUMBER,
    minReplicas=_NUMBER,
    maxReplicas=_NUMBER,
    rayStartParams=_TEXTS,
    labels=_TEXTS,
    template=_ANY,
)
_CLUSTER = _closed(
    rayVersion=_TEXT,
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_closed(version={"enum": ["v2"]}, idleTimeoutSeconds=_NUMBER, securityContext=_ANY),
    authOptions=_closed(mode={"enum": ["token"]}, secretName=_TEXT),
    headGroupSpec=_closed(rayStartParams=_TEXTS, template=_ANY),
    workerGroupSpecs={"type": "array", "items": _GROUP},
)
_JOB = _closed(
    entrypoint=_TEXT,
    runtimeEnvYAML=_TEXT,
    backoffLimit=_NUMBER,
    preRunningDeadlineSeconds=_NUMBER,
    shutdownAfterJobFinishes=_FLAG,
    ttlSecondsAfterFinished=_NUMBER,
    rayClusterSpec=_CLUSTER,
    submitterPodTemplate=_ANY,
)
# The fields of KubeRay 1.7 that the manifests use. Pods inside them are checked as Kubernetes' own.
_OURS = {
    kind: _closed(apiVersion={"const": "ray.io/v1"}, kind=_TEXT, metadata=_closed(name=_TEXT), spec=spec)
    for kind, spec in {"RayJob": _JOB, "RayCluster": _CLUSTER}.items()
}


@cache
def _operators_schema(kind: str) -> dict[str, Any]:
    text = (Path(_CRD_DIR) / f"ray.io_{kind.lower()}s.yaml").read_text(encoding="utf-8")
    versions = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    [schema] = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    schema["properties"]["metadata"]["properties"] = {"name": _TEXT}
    _close(schema)
    return dict(schema)


def _close(schema: Any) -> None:
    """Forbid, in place, all fields that a schema does not name, as a strict `kubectl apply` does."""
    if isinstance(schema, list):
        for each in schema:
            _close(each)
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for each in schema.values():
        _close(each)


@pytest.fixture(
    params=[
        "ours",
        pytest.param("operator's", marks=pytest.mark.skipif(not _CRD_DIR, reason="needs KUBERAY_CRD_DIR")),
    ]
)
def schemas(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def check(manifest: Manifest, schemas: str) -> None:
    schema = _OURS[manifest["kind"]] if schemas == "ours" else _operators_schema(manifest["kind"])
    jsonschema.Draft7Validator(schema).validate(manifest)
    for template in _templates(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        kubernetes_validate.validate(pod, _KUBERNETES, strict=True)


def _templates(manifest: Manifest) -> Iterator[Manifest]:
    """Yield the templates of all pods."""
    spec = manifest["spec"]
    yield from (group["template"] for group in _groups(manifest).values())
    if "submitterPodTemplate" in spec:
        yield spec["submitterPodTemplate"]


def _cluster(manifest: Manifest) -> Manifest:
    return dict(manifest["spec"].get("rayClusterSpec", manifest["spec"]))


def _groups(manifest: Manifest) -> dict[str, Manifest]:
    cluster = _cluster(manifest)
    return {
        "head": cluster["headGroupSpec"],
        **{group["groupName"]: group for group in cluster["workerGroupSpecs"]},
    }


@pytest.mark.parametrize("kind", _FILES)
def test_manifests_are_accepted(kind: str, schemas: str) -> None:
    manifest = read(f"kuberay/{_FILES[kind]}")
    assert manifest["kind"] == kind
    check(manifest, schemas)


_HEAD: tuple[Any, ...] = ("headGroupSpec", "template", "spec")
_ROLLOUT: tuple[Any, ...] = ("workerGroupSpecs", 1)
_IN_CLUSTER: list[tuple[Any, ...]] = [
    ("rayVersion",),
    ("enableInTreeAutoscaling",),
    ("autoscalerOptions", "idleTimeoutSeconds"),
    ("authOptions", "mode"),
    ("headGroupSpec", "rayStartParams"),
    (*_HEAD, "terminationGracePeriodSeconds"),
    (*_HEAD, "securityContext", "seccompProfile"),
    (*_HEAD, "containers", 0, "securityContext", "allowPrivilegeEscalation"),
    (*_HEAD, "containers", 0, "volumeMounts", 0, "mountPath"),
    (*_HEAD, "volumes", 0, "persistentVolumeClaim", "claimName"),
    (*_ROLLOUT, "maxReplicas"),
    (*_ROLLOUT, "labels"),
    (*_ROLLOUT, "template", "spec", "automountServiceAccountToken"),
    (*_ROLLOUT, "template", "spec", "nodeSelector"),
    (*_ROLLOUT, "template", "spec", "tolerations", 0, "operator"),
    (*_ROLLOUT, "template", "spec", "containers", 0, "resources", "limits"),
]
_IN_JOB = [
    ("spec", "entrypoint"),
    ("spec", "backoffLimit"),
    ("spec", "shutdownAfterJobFinishes"),
    ("spec", "submitterPodTemplate", "spec", "restartPolicy"),
    *(("spec", "rayClusterSpec", *path) for path in _IN_CLUSTER),
]


@pytest.mark.parametrize(
    ("kind", "path"),
    [("RayJob", path) for path in _IN_JOB] + [("RayCluster", ("spec", *path)) for path in _IN_CLUSTER],
    ids=lambda value: value if isinstance(value, str) else ".".join(map(str, value)),
)
def test_a_misspelt_field_is_refused(kind: str, path: tuple[Any, ...], schemas: str) -> None:
    changed = misspelt(read(f"kuberay/{_FILES[kind]}"), path)
    with pytest.raises(jsonschema.ValidationError):
        check(changed, schemas)


@pytest.mark.parametrize("name", ["networkpolicy.yaml", "storage.yaml"])
def test_policy_and_volume_are_accepted(name: str) -> None:
    kubernetes_validate.validate(read(f"kuberay/{name}"), _KUBERNETES, strict=True)


_SELECTOR: tuple[Any, ...] = ("spec", "ingress", 0, "from", 0, "podSelector")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("networkpolicy.yaml", ("spec", "podSelector")),
        ("networkpolicy.yaml", ("spec", "policyTypes")),
        ("networkpolicy.yaml", ("spec", "ingress", 0, "from")),
        ("networkpolicy.yaml", (*_SELECTOR, "matchLabels")),
        ("networkpolicy.yaml", ("spec", "ingress", 1, "ports", 0, "protocol")),
        ("storage.yaml", ("spec", "accessModes")),
        ("storage.yaml", ("spec", "storageClassName")),
        ("storage.yaml", ("spec", "resources", "requests")),
    ],
)
def test_a_misspelt_field_of_policy_or_volume_is_refused(name: str, path: tuple[Any, ...]) -> None:
    changed = misspelt(read(f"kuberay/{name}"), path)
    with pytest.raises(jsonschema.ValidationError):
        kubernetes_validate.validate(changed, _KUBERNETES, strict=True)


def test_the_job_makes_the_cluster_that_the_other_file_describes() -> None:
    assert _cluster(read("kuberay/rayjob.yaml")) == _cluster(read("kuberay/raycluster.yaml"))


@pytest.mark.parametrize("kind", _FILES)
def test_no_pod_is_root_or_keeps_a_capability_and_each_is_limited(kind: str) -> None:
    manifest = read(f"kuberay/{_FILES[kind]}")
    for template in _templates(manifest):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    autoscaler = _cluster(manifest)["autoscalerOptions"]["securityContext"]
    assert autoscaler["capabilities"] == {"drop": ["ALL"]}


def test_groups_grow_from_zero_and_only_rollouts_are_on_spot_nodes() -> None:
    groups = _groups(read("kuberay/rayjob.yaml"))
    learner, rollout = groups["learner"], groups["rollout"]
    assert groups["head"]["rayStartParams"] == {"num-cpus": "0"}
    assert (learner["minReplicas"], learner["maxReplicas"]) == (0, 1)
    assert rollout["minReplicas"] == 0 < rollout["maxReplicas"]
    assert learner["labels"] == {"ray.io/market-type": "on-demand"}
    assert rollout["labels"] == {"ray.io/market-type": "spot"}
    limits = [
        group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in (learner, rollout)
    ]
    assert [limit.get("nvidia.com/gpu") for limit in limits] == [1, None]
    assert rollout["template"]["spec"]["tolerations"]
    for group in groups.values():
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= 60


def test_a_repeated_attempt_resumes_from_the_volume_that_head_and_learner_share() -> None:
    manifest, claim = read("kuberay/rayjob.yaml"), read("kuberay/storage.yaml")
    [words] = train_commands(manifest["spec"]["entrypoint"])
    command = train_arguments(words)
    assert manifest["spec"]["backoffLimit"] > 0
    assert (command.resume, command.run_dir) == ("auto", "/shared/first")
    assert command.settings.learner.device == "cuda"  # asks the autoscaler for the learner's group
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    groups = _groups(manifest)
    for name in ("head", "learner"):
        pod = groups[name]["template"]["spec"]
        assert pod["containers"][0]["volumeMounts"] == [{"name": "runs", "mountPath": "/shared"}]
        assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    per_pod = int(groups["rollout"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert command.settings.num_workers <= per_pod * groups["rollout"]["maxReplicas"]


@pytest.mark.parametrize("kind", _FILES)
def test_the_policy_selects_every_pod(kind: str) -> None:
    policy = read("kuberay/networkpolicy.yaml")["spec"]
    labels = policy["podSelector"]["matchLabels"]
    for template in _templates(read(f"kuberay/{_FILES[kind]}")):
        assert labels.items() <= template["metadata"]["labels"].items()
    assert policy["ingress"][0] == {"from": [{"podSelector": {"matchLabels": labels}}]}
    assert [rule["ports"] for rule in policy["ingress"][1:]] == [[{"protocol": "TCP", "port": 8265}]]


def test_the_token_is_in_a_secret_that_the_page_makes() -> None:
    page = (Path(__file__).resolve().parents[2] / "cluster/kuberay/README.md").read_text(encoding="utf-8")
    for kind in _FILES:
        assert _cluster(read(f"kuberay/{_FILES[kind]}"))["authOptions"] == {
            "mode": "token",
            "secretName": "maddpg-token",
        }
    assert "kubectl create secret generic maddpg-token --from-file=auth_token=/dev/stdin" in page
