"""extras/systemd: the service has the least rights, and arguments that tcptrace takes."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tcptrace.commands.tracer import tracer
from tcptrace.model.filters import Filters
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.sources.live import HOST, describe
from tcptrace.sources.plan import Plan

EXTRAS = Path(__file__).parents[2] / "extras"
UNIT = EXTRAS / "systemd/tcptrace-record@.service"
CONTAINER = EXTRAS / "container"


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    """What systemd is told of how it runs."""
    parser = configparser.ConfigParser(
        interpolation=None,
        comment_prefixes=("#",),
        strict=False,  # lists come in several lines
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser["Service"]


def test_it_has_three_capabilities(service: configparser.SectionProxy) -> None:
    """It can trace, and look who it was; no new rights can be had."""
    assert "CAP_BPF CAP_PERFMON CAP_DAC_READ_SEARCH" == service["CapabilityBoundingSet"]
    assert "yes" == service["NoNewPrivileges"]
    assert not {"User", "AmbientCapabilities", "PermissionsStartOnly"} & service.keys()


def test_it_writes_to_its_own_directories(service: configparser.SectionProxy) -> None:
    """All else is read-only, and they are root's alone."""
    assert "strict" == service["ProtectSystem"]
    assert not {"ReadWritePaths", "BindPaths"} & service.keys()
    modes = {service["StateDirectoryMode"], service["CacheDirectoryMode"]}
    assert {"0700"} == modes
    assert f"/var/lib/{service['StateDirectory']}/" in service["ExecStart"]


def test_tcptrace_takes_its_arguments(service: configparser.SectionProxy) -> None:
    """It records in a directory, with limits; the file of settings may change both."""
    known = dict(pair.split("=", 1) for pair in shlex.split(service["Environment"]))
    words: list[str] = []
    for word in service["ExecStart"].split():
        words += known[word[1:]].split() if word.startswith("$") else [word]
    assert ["tcptrace", "tracer"] == words[:2]
    with tracer.make_context("tracer", words[2:]) as context:
        given = context.params
    assert ("/var/lib/tcptrace/%i/", 600) == (given["write"], given["rotate"].seconds)
    assert (7 * 86_400, 10**10) == given["keep"]


def daemon_set(name: str) -> Any:
    """Return what a cluster is told."""
    documents = yaml.safe_load_all((CONTAINER / name).read_text(encoding="utf-8"))
    return next(document for document in documents if document["kind"] == "DaemonSet")


def test_a_cluster_s_nodes_record_with_the_same_rights() -> None:
    """As the DaemonSet that prints; besides, one directory of the node, under the node's name."""
    printing, recording = (daemon_set(name) for name in ("daemonset.yaml", "record.yaml"))
    pods = [each["spec"]["template"]["spec"] for each in (printing, recording)]
    (before,), (container,) = (pod["containers"] for pod in pods)
    assert before["securityContext"] == container["securityContext"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pods[1].keys()
    writable = [
        mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")
    ]
    assert ["/var/lib/tcptrace", "/var/cache/tcptrace"] == writable
    labels = recording["spec"]["template"]["metadata"]["labels"]
    assert recording["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert [HOST] == [variable["name"] for variable in container["env"]]
    with tracer.make_context("tracer", container["args"][1:]) as context:
        assert "/var/lib/tcptrace/" == context.params["write"]


def test_a_host_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, the name of its own would tell nothing."""
    monkeypatch.setenv(HOST, "node-7")
    plan = Plan(TRACER, Filters({}))
    assert "node-7" == describe(plan, "tracepoint").host
