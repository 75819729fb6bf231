"""DuckDB and Spark make the same map of the same recordings."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pyspark import SparkContext
from tests.unit.fleet import NETNS, SECOND, START_NS, Fleet, Host, write

from tcptrace.map import spark
from tcptrace.map.duck import DuckDb
from tcptrace.map.edges import Edge, Map
from tcptrace.map.engine import Engine
from tcptrace.map.find import around, find
from tcptrace.map.inputs import LABELS, Wanted
from tcptrace.map.join import make_map
from tcptrace.map.spark import Spark
from tcptrace.model.filters import Filters
from tcptrace.model.ranges import Ranges

MEMORY = 2_000_000_000


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What happens between twelve hosts: some with numbers, some translated, some not recorded.

    Two hosts have one name, two have recorded as it was before, one is there twice as single files.
    """
    fleet = Fleet(tmp_path_factory.mktemp("recordings") / "f*{le}et? [1] it's")
    chance = random.Random(17)  # noqa: S311 - for data, not for secrets
    hosts = [_host(at) for at in range(12)]
    for number in range(600):
        client, server = chance.sample(hosts, 2)
        port = 8000 + number % 3
        at_s = number / 10
        roll = chance.random()
        if roll < 0.1:
            fleet.fail(client, server.address, port, chance.choice(("refused", "EPERM")), at_s=at_s)
        elif roll < 0.15:
            fleet.connect(client, None, 443, address="198.51.100.1", name='it\'s \\ "a" name')
        elif roll < 0.2:
            fleet.connect(None, server, port, address="2001:db8::1", at_s=at_s)
        else:
            inside, outside = ("172.17.0.2", 30000 + number), ("192.0.2.1", 20000 + number)
            peer = (server.address, port)
            is_translated = roll < 0.5
            seen = ((*inside, *peer), (*peer, *outside)) if is_translated else ()
            fleet.connect(client, server, port, at_s=at_s, seen=seen, numbers=number % 5 > 0)
    root = fleet.keep(*hosts[:8])
    fleet.keep(*hosts[8:10], numbers=False)
    write(root / "namesake.parquet", hosts[11], at_s=30)
    write(root / "single.parquet", hosts[10], at_s=0)
    hosts[10].rows = [row for row in hosts[10].rows if "iss" in row]
    write(root / "copy.parquet", hosts[10], at_s=60)
    (root / "date=2026-11-30" / "host=ho%st 3").rename(
        root / "date=2026-11-30" / "host=ho%25st%203"
    )
    return root


def _host(at: int) -> Host:
    """Return a host; the last two have one name."""
    name = "ho%st 3" if at == 3 else f"host-{min(at, 10)}"
    return Host(
        name,
        f"10.0.0.{at}",
        ahead_s=3.0 * (at == 5),
        boot_id=f"{at:08}-boot",
        netns=NETNS + at % 2,
        unit=f"unit-{at % 3}.service",
        container="0123456789abcdef" * 4 if at % 3 else None,
        container_name="box" if at % 3 == 1 else None,
        pod=f"pod-{at}" if at % 2 else None,
        pod_namespace="shop" if at % 4 else None,
        pid=at,
        uid=at % 2 * 33,
    )


def made(engine: Engine, recordings: Path, place: Path, wanted: Wanted) -> Map:
    """Return the map that an engine makes."""
    try:
        found = find([recordings], place, around(wanted.since_ns, wanted.until_ns))
        assert {"host-10"} == found.namesakes
        return make_map(engine, found.tables, wanted._replace(namesakes=found.namesakes))
    finally:
        engine.close()


def rough(edge: Edge) -> tuple[object, ...]:
    """Return an edge with times to connect to a tenth of a percent."""
    values = [getattr(edge, name) for name in edge.__slots__]
    return tuple(f"{value:.3g}" if isinstance(value, float) else value for value in values)


FILTERS = {
    "comm": (b"curl", b"it's"),
    "port": Ranges((), ((8001, 8001),)),
    "uid": Ranges(((33, 33),), ()),
}
MIDDLE_NS = START_NS + 30 * SECOND


@pytest.mark.parametrize(
    "wanted",
    [
        *map(Wanted, LABELS),
        Wanted(filters=Filters(FILTERS)),
        Wanted("pod", Filters({"unit": ("unit-1*",)})),
        Wanted("unit", since_ns=MIDDLE_NS),
        Wanted("host", Filters({"netns": (NETNS,)}), START_NS + SECOND, MIDDLE_NS),
    ],
    ids=lambda wanted: f"{wanted.by} {[*wanted.filters.values]} {wanted.since_ns}",
)
def test_both_engines_make_the_same_map(
    recordings: Path, tmp_path: Path, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each edge, each clock, each count."""
    monkeypatch.setattr(spark, "end_java", lambda: None)  # it is slow at first, each time
    ours = made(DuckDb(MEMORY), recordings, tmp_path, wanted)
    theirs = made(Spark("local[2]", MEMORY, str(tmp_path)), recordings, tmp_path, wanted)
    assert ours.edges
    assert [*map(rough, ours.edges)] == [*map(rough, theirs.edges)]
    assert ours.clocks == theirs.clocks
    assert ours.counts == theirs.counts


def test_nothing_is_left_on_disk(tmp_path: Path) -> None:
    """What Java would make there again does not come: it has ended, too."""
    engine = Spark("local[1]", MEMORY, str(tmp_path))
    try:
        engine.run("CREATE TABLE numbers AS SELECT id FROM range(10)")
        assert [(10,)] == engine.rows("SELECT COUNT(*) FROM numbers")
        assert [*tmp_path.iterdir()]
        java = SparkContext._gateway.proc
        assert java.poll() is None
    finally:
        engine.close()
    assert java.poll() is not None
    assert [] == [*tmp_path.iterdir()]
