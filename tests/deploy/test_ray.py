"""The files for Ray: Ray reads them as its launcher and its autoscaler on Kubernetes would.

What only the KubeRay operator knows is held against the fields of its API that these files use.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest

from tests.deploy import DEPLOY
from workers.cli import _parser

yaml = pytest.importorskip("yaml")

VERSION = re.search(r"^ray==(.*)$", (DEPLOY.parent / "constraints.txt").read_text(), re.M)
DOCUMENTS = list(yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text()))
CLUSTER, JOB = DOCUMENTS
GROUPS = [CLUSTER["spec"]["headGroupSpec"], *CLUSTER["spec"]["workerGroupSpecs"]]

# In a process of its own: Ray is large, changes sys.path and is not free of warnings.
READ = """
import json, sys
import ray, yaml
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

launched, on_kubernetes = json.load(sys.stdin)
launched = prepare_config(launched)
validate_config(launched)
on_kubernetes["metadata"]["namespace"] = "default"
derived = autoscaling_config._derive_autoscaling_config_from_ray_cr(on_kubernetes)
flags = [flag for parameter in start.params for flag in parameter.opts]
print(json.dumps([launched, derived["available_node_types"], flags]))
"""


@pytest.fixture(scope="module")
def read() -> list[Any]:
    """The launcher's configuration, the groups on Kubernetes and the flags of `ray start`."""
    pytest.importorskip("ray")
    launched = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    done = subprocess.run(
        [sys.executable, "-c", READ],
        input=json.dumps([launched, CLUSTER]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_the_launcher_starts_ray_everywhere_by_flags_that_it_has(read: list[Any]) -> None:
    launched, _, flags = read
    (machines,) = launched["available_node_types"].values()
    assert (
        machines["min_workers"]
        == machines["max_workers"]
        == len(launched["provider"]["worker_ips"])
    )
    head, worker = launched["head_start_ray_commands"], launched["worker_start_ray_commands"]
    for command in (head[-1], worker[-1]):
        start = shlex.split(command)
        assert start[:2] == ["ray", "start"]
        given = {flag: value for flag, _, value in (word.partition("=") for word in start[2:])}
        assert set(given) <= set(flags)


def test_kubernetes_gives_what_is_asked_for(read: list[Any]) -> None:
    _, groups, flags = read
    assert groups["headgroup"]["resources"]["CPU"] == 0
    assert groups["memory"]["resources"]["memstore"] == 1
    assert groups["memory"]["min_workers"] == groups["memory"]["max_workers"]
    assert "memstore" not in groups["trainers"]["resources"]
    for group in GROUPS:
        assert {f"--{name}" for name in group["rayStartParams"]} <= set(flags)
    wanted = json.loads(JOB["spec"]["entrypointResources"])
    able = [name for name, group in groups.items() if fits(wanted, group["resources"])]
    assert able == ["memory"]


def fits(wanted: dict[str, float], there: dict[str, float]) -> bool:
    return all(there.get(name, 0) >= amount for name, amount in wanted.items())


def test_the_operator_knows_the_fields() -> None:
    for document in (CLUSTER, JOB):
        assert document["apiVersion"] == "ray.io/v1"
    assert set(CLUSTER["spec"]) == {
        "rayVersion",
        "enableInTreeAutoscaling",
        "headGroupSpec",
        "workerGroupSpecs",
    }
    head, *workers = GROUPS
    assert set(head) == {"rayStartParams", "template"}
    for group in workers:
        assert set(group) == {*head, "groupName", "replicas", "minReplicas", "maxReplicas"}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in GROUPS:  # the operator reads these as text
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert set(JOB["spec"]) == {
        "clusterSelector",
        "entrypoint",
        "entrypointResources",
    }
    assert JOB["spec"]["clusterSelector"] == {"ray.io/cluster": CLUSTER["metadata"]["name"]}


def test_pods_are_as_kubernetes_would_have_them() -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for group in GROUPS:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, **group["template"]}
        validate(pod, "1.33", strict=True)


def test_no_pod_is_root_and_rows_stay_with_their_node() -> None:
    for group in GROUPS:
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert (
            f"USER {spec['securityContext']['runAsUser']}\n" in (DEPLOY / "Dockerfile").read_text()
        )
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
        assert mounted == set(volumes)
        for volume in volumes.values():
            # A folder of a node is of use to who comes back to that node and its address.
            assert volume["hostPath"]["type"] == "Directory"
            assert spec["hostNetwork"]
            assert spec["nodeSelector"]


def test_ray_is_everywhere_the_version_that_is_tested() -> None:
    assert VERSION is not None
    assert CLUSTER["spec"]["rayVersion"] == VERSION[1]


def test_the_job_starts_parts_where_there_is_a_disk_for_them(read: list[Any]) -> None:
    program, *words = shlex.split(JOB["spec"]["entrypoint"])
    assert program == "memtrain"
    options = _parser().parse_args(words)
    (mount,) = GROUPS[1]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert str(options.folder) == mount["mountPath"]
    groups = read[1]
    able = [name for name, group in groups.items() if group["resources"]["CPU"] >= options.cpus]
    assert able == ["memory"]
    assert options.parts == groups["memory"]["min_workers"]
    # The launcher's file says the same in its head.
    assert shlex.join(words) in (DEPLOY / "ray-cluster.yaml").read_text()
