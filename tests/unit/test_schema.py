"""JSON Lines are as schema.json says, for every record that there is."""

from __future__ import annotations

import errno
import importlib
import json
import pkgutil
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from tests.unit.records import ABSENT, accept_bytes, accepted, to_json

import tcptrace.probes
from tcptrace.model.events import Decoder, Event, Layout, json_keys
from tcptrace.probes.probe import Probe

SCHEMA: dict[str, Any] = json.loads(
    files("tcptrace").joinpath("schema.json").read_text(encoding="utf-8")
)
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
UNITS = {"ms": "Milliseconds", "ns": "nanoseconds", "bytes": "bytes"}


def probes() -> list[Probe]:
    """Return all probes in the package."""
    found = pkgutil.iter_modules(tcptrace.probes.__path__)
    names = [module.name for module in found if module.ispkg]
    modules = [importlib.import_module(f"tcptrace.probes.{name}.probe") for name in names]
    return [
        value for module in modules for value in vars(module).values() if isinstance(value, Probe)
    ]


ALL_RECORDS = {record for probe in probes() for record in probe.records}
# What has a tail of bytes is no row: a command makes rows of it.
RECORDS = sorted(
    (record for record in ALL_RECORDS if not Layout(record).has_tail), key=lambda r: r.type
)


def as_json(event: Event) -> dict[str, Any]:
    """Return an event as the JSON renderer writes it, and as its reader gets it."""
    return to_json(event, "tracepoint")


def test_the_schema_is_one_and_has_a_version() -> None:
    """It is valid by itself, and its $id ends in its version."""
    Draft202012Validator.check_schema(SCHEMA)
    assert f"urn:tcptrace:events:{SCHEMA['version']}" == SCHEMA["$id"]


def test_every_type_refuses_unknown_keys() -> None:
    """No key is written that is not described."""
    types = {
        name: definition for name, definition in SCHEMA["$defs"].items() if name.endswith("_event")
    }
    assert {"accept_event", "connect_event", "close_event", "dns_event"} <= types.keys()
    assert [False] * len(types) == [
        definition["additionalProperties"] for definition in types.values()
    ]


def described(definition: dict[str, Any]) -> str:
    """Return the description of a property, its own or that of what it refers to."""
    if "description" in definition or "$ref" not in definition:
        return str(definition.get("description", ""))
    return described(SCHEMA["$defs"][definition["$ref"].rpartition("/")[2]])


def test_every_key_is_described_with_its_unit() -> None:
    """A key with a unit in its name has it in its description."""
    for name, event in SCHEMA["$defs"].items():
        for key, definition in event.get("properties", {}).items():
            text = described(definition)
            assert text or key == "type", f"{name}.{key} has no description"
            assert UNITS.get(key.rpartition("_")[2], "") in text, f"{name}.{key} has no unit"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.type)
@pytest.mark.parametrize("byte", [b"\0", b"\x01", b"\x2e"])
def test_every_record_is_valid(record: type[Event], byte: bytes) -> None:
    """Any record's JSON is valid, whether its fields are empty or full."""
    layout = Layout(record)
    kind, family = (1).to_bytes(4, "little"), (4).to_bytes(2, "little")
    data = bytearray(byte * layout.size)
    data[16:20], data[76:78] = kind, family
    if byte == b"\0":
        data[40] = data[56] = data[74] = 1  # an event has addresses
        data[72] = record.type != "connect"  # which may fail before it has a port
    VALIDATOR.validate(as_json(Decoder([record]).decode(bytes(data))))


@pytest.mark.parametrize("probe", probes(), ids=lambda probe: probe.name)
def test_every_key_of_rows_is_described(probe: Probe) -> None:
    """A row's keys are in the schema, also of rows that commands make of records."""
    for row in probe.row_classes:
        known = SCHEMA["$defs"][f"{row.type}_event"]["properties"]
        assert [] == [key for key in json_keys(row) if key not in known]


@pytest.mark.parametrize(
    "data",
    [
        accept_bytes(),
        accept_bytes(laddr="2001:db8::1", raddr="::1"),
        accept_bytes(pid=0),
        accept_bytes(comm=b"\xff\x1b"),
        accept_bytes(raddr="0.0.0.0", rport=0, error=-errno.EMFILE),
        accept_bytes(cgroup_id=0, mntns=0, netns=0, backlog=ABSENT, backlog_max=ABSENT),
        accept_bytes(cgroup_id=2**64 - 1, ts_ns=2**63, uid=2**32 - 2),
    ],
)
def test_accepts_are_valid(data: bytes) -> None:
    """What an accept can be is valid."""
    VALIDATOR.validate(as_json(accepted(data)))


VALID = {
    "time": "2026-11-20T14:13:00.123456789Z",
    "ts_ns": 1,
    "pid": 1,
    "tid": 1,
    "uid": 0,
    "comm": "curl",
    "family": 4,
    "laddr": "192.0.2.1",
    "lport": 40000,
    "raddr": "192.0.2.2",
    "rport": 443,
    "netns": 1,
    "mntns": 1,
    "cgroup_id": 1,
    "cgroup": "/system.slice",
    "unit": "docker.service",
    "container": "0123456789abcdef" * 4,
    "container_name": "web",
    "runtime": "docker",
    "pod": "web-7d4b9",
    "pod_namespace": "shop",
    "pod_container": "nginx",
    "pod_uid": "5b3f5a4e-2c1d-4f6a-9b8e-0a1b2c3d4e5f",
    "outer_containers": "node/builder",
    "ppid": 1,
    "parent_comm": "systemd",
    "exe": "/usr/bin/curl (deleted)",
    "args": ["curl", "", "\x1b"],
    "args_cut": True,
    "backend": "fentry",
}
OTHERS: dict[str, dict[str, Any]] = {
    "connect": {
        "error": None,
        "query": "example.org",
        "query_age_ms": 0.5,
        "outcome": "established",
        "latency_ms": 1.5,
    },
    "close": {
        "duration_ms": 12.5,
        "tx_bytes": 1,
        "rx_bytes": 2**40,
        "retransmits": 0,
        "ended_by": "reset",
        "closer": "owner",
        "error": "ECONNRESET",
    },
    "open": {"holders": [1, 181]},
    "dns": {
        "query": "example.org",
        "qtype": "A",
        "rcode": "NOERROR",
        "answers": ["192.0.2.2"],
        "server": "192.0.2.53",
        "latency_ms": 3,
    },
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_types_are_described(kind: str) -> None:
    """Each type takes its keys, and not those of another type."""
    VALIDATOR.validate({"type": kind, **VALID, **OTHERS[kind]})
    with pytest.raises(ValidationError):
        VALIDATOR.validate({"type": kind, **VALID, **OTHERS[kind], "backlog": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"type": "opened"},
        {"pid": "1"},
        {"pid": None},
        {"family": 5},
        {"lport": 65536},
        {"laddr": "nowhere"},
        {"netns": 0},
        {"cgroup": "system.slice"},
        {"container": "a/b"},
        {"runtime": "chroot"},
        {"exe": "curl"},
        {"args": "curl"},
        {"args_cut": False},
        {"pod_uid": "web"},
        {"time": "2026-11-20 14:13:00"},
        {"backend": "guess"},
        {"error": None},
        {"extra": 1},
    ],
)
def test_what_is_wrong_is_refused(change: dict[str, Any]) -> None:
    """The schema is not satisfied by anything."""
    with pytest.raises(ValidationError):
        VALIDATOR.validate({"type": "accept", **VALID, **change})
