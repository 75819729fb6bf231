"""extras/container: the DaemonSet has the least rights, and arguments that tcptrace takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.test_bcc_options import TOOLS, planned

DIRECTORY = Path(__file__).parents[2] / "extras/container"
COMMANDS = {command.name: command for command, _ in TOOLS.values()}


@pytest.fixture(scope="module")
def daemon_set() -> Any:
    """What the cluster is told."""
    documents = [*yaml.safe_load_all((DIRECTORY / "daemonset.yaml").read_text(encoding="utf-8"))]
    assert ["Namespace", "DaemonSet"] == [document["kind"] for document in documents]
    return documents[1]


def test_its_selector_finds_its_pods(daemon_set: Any) -> None:
    """A cluster refuses one that does not."""
    labels = daemon_set["spec"]["template"]["metadata"]["labels"]
    assert daemon_set["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert "apps/v1" == daemon_set["apiVersion"]


def test_it_has_the_least_rights(daemon_set: Any) -> None:
    """Three capabilities, nothing of the host but what is read, and a root that stays as it is."""
    pod = daemon_set["spec"]["template"]["spec"]
    (first,), (container,) = pod["initContainers"], pod["containers"]
    capabilities = [each["securityContext"]["capabilities"] for each in (first, container)]
    least = {"drop": ["ALL"], "add": ["BPF", "PERFMON", "DAC_READ_SEARCH"]}
    assert [{"drop": ["ALL"]}, least] == capabilities
    for security in (first["securityContext"], container["securityContext"]):
        assert not security["privileged"]
        assert not security["allowPrivilegeEscalation"]
        assert security["readOnlyRootFilesystem"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    of_host = {volume["name"] for volume in pod["volumes"] if "hostPath" in volume}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == mounts.keys()
    assert all(mounts[name]["readOnly"] for name in of_host)


def test_tcptrace_takes_its_arguments(daemon_set: Any) -> None:
    """The container runs what it says."""
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    name, *arguments = container["args"]
    planned(COMMANDS[name], arguments)


def test_the_image_has_what_is_copied() -> None:
    """Each file that the Containerfile copies from here is here."""
    lines = (DIRECTORY / "Containerfile").read_text(encoding="utf-8").splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--" not in line]
    assert copies
    for name in (name for names in copies for name in names):
        assert (DIRECTORY.parents[1] / name).exists()
