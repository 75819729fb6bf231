"""A fleet of network namespaces whose connections are known: the map has each, and no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tests.fleet.network import Network
from tests.kernel.tracers import Tracer

from tcptrace.cli import cli

EDGE, WEB, STORE, BARE = (f"10.99.0.{at}" for at in range(1, 5))
HAPROXY = f"""
global
    nbthread 1
defaults
    mode tcp
    timeout connect 30s
    timeout client 30s
    timeout server 30s
frontend front
    bind {EDGE}:80
    default_backend behind
backend behind
    balance roundrobin
    server first {WEB}:8081
    server second {WEB}:8082
"""
CLOSES = {"edge": 2 * 10 + 7 + 15 + 5 + 3 + 4, "web": 2 * (15 + 7) + 4, "store": 15 + 7}
"""How many connections end at each host that records."""
SECOND_NS = 1_000_000_000


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Three hosts that record, one that does not, and a container behind the first.

    edge has HAProxy, which passes what it gets on to two web servers of web; these ask a Redis of
    store. The container is behind address translation and has a published port.
    """
    with Network() as network:
        for host, address in {"edge": EDGE, "web": WEB, "store": STORE, "bare": BARE}.items():
            network.host(host, address)
        network.container("edge", "box", (8000, 9000))
        redis = ("redis-server", "--save", "", "--bind", "0.0.0.0", "--protected-mode", "no")
        network.start("store", [*redis, "--dir", str(tmp_path)], tmp_path / "redis.log")
        network.wait_for("store", 6379)
        for name, port in {"web1": 8081, "web2": 8082}.items():
            network.serve("web", name, port, tmp_path / name, STORE, "6379")
        network.serve("box", "boxsrv", 9000, tmp_path / "boxsrv")
        network.serve("bare", "bare", 9000, tmp_path / "bare")
        (tmp_path / "haproxy.cfg").write_text(HAPROXY, encoding="ascii")
        haproxy = ["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")]
        network.start("edge", haproxy, tmp_path / "haproxy.log")
        for host, port in (("web", 8081), ("web", 8082), ("box", 9000), ("bare", 9000)):
            network.wait_for(host, port)
        network.wait_for("edge", 80)
        yield network


def recorder(network: Network, host: str, path: Path, *namespaces: str) -> Tracer:
    """Start what records a host under its name, in a UTS namespace of its own."""
    named = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host)
    filters = [word for name in namespaces for word in ("-N", network.name(name))]
    keep = ("-w", str(path), "--print", "--json")
    return Tracer("--failed", *filters, *keep, command="tracer", prefix=named)


def speak(network: Network) -> None:
    """Make all connections; how many of each is what the test knows."""
    network.ask("box", "boxclient", 10, EDGE, 80)
    network.ask("box", "boxclient", 7, WEB, 8081)
    network.ask("bare", "stranger", 5, EDGE, 80)
    network.ask("box", "boxclient", 3, BARE, 9000)
    network.ask("web", "caller", 4, EDGE, 8000)
    network.ask("box", "boxclient", 2, STORE, 6380)


def put_ahead(path: Path, seconds: int) -> None:
    """Rewrite a recording as if its host's clock had been ahead.

    CLOCK_REALTIME is one for all namespaces of a machine.
    """
    table = pq.read_table(path)
    at, kind = table.schema.get_field_index("time"), table.schema.field("time").type
    later = pc.add(table["time"].cast(pa.int64()), seconds * SECOND_NS).cast(kind)
    pq.write_table(table.set_column(at, table.schema.field("time"), later), path)


def arrows(*arguments: object) -> dict[str, tuple[int, int, int | None, int | None]]:
    """Return attempts, failures and bytes by edge."""
    command = ["map", "--json", *map(str, arguments)]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return {
        f"{end(edge, 'client')} > {end(edge, 'server')}:{edge['port']}": (
            edge["attempts"],
            edge["failed"],
            edge.get("tx_bytes"),
            edge.get("rx_bytes"),
        )
        for edge in found
        if edge["type"] == "edge"
    }


def end(edge: dict[str, Any], which: str) -> str:
    """Return an end of an edge."""
    host = edge.get(f"{which}_host")
    return f"{edge[which]}@{host}" if host else f"{edge[which]}"


def test_the_map_is_what_happened(network: Network, tmp_path: Path) -> None:
    """Each edge, each count: through a balancer, translation both ways, and a clock that is off."""
    files = {host: tmp_path / f"{host}.parquet" for host in CLOSES}
    with ExitStack() as stack:
        tracers = {
            host: stack.enter_context(
                recorder(network, host, path, host, *(["box"] if host == "edge" else []))
            )
            for host, path in files.items()
        }
        speak(network)
        for host, tracer in tracers.items():
            tracer.wait_for(CLOSES[host], type="close")
            assert 0 == tracer.stop().status
    put_ahead(files["store"], 3)
    asked = {name: (tmp_path / name).read_text().count("asked") for name in ("web1", "web2")}
    through = {"web1": asked["web1"] - 7, "web2": asked["web2"]}
    assert 15 == sum(through.values())

    def times(count: int, tx: int = 6, rx: int = 100) -> tuple[int, int, int, int]:
        return count, 0, tx * count, rx * count

    assert {
        "boxclient@edge > haproxy@edge:80": times(10),
        "10.99.0.4 > haproxy@edge:80": times(5),
        "haproxy@edge > web1@web:8081": times(through["web1"]),
        "haproxy@edge > web2@web:8082": times(through["web2"]),
        "boxclient@edge > web1@web:8081": times(7),
        "web1@web > redis-server@store:6379": times(asked["web1"], rx=7),
        "web2@web > redis-server@store:6379": times(asked["web2"], rx=7),
        "boxclient@edge > 10.99.0.4:9000": times(3),
        "caller@web > boxsrv@edge:9000": times(4),
        "boxclient@edge > 10.99.0.3:6380": (2, 2, None, None),
    } == arrows(*files.values())
