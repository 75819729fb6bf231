"""The page of a map in a real browser: it draws, searches and zooms, and no name acts in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.fleet.browser import Browser
from tests.kernel.harness import eventually
from tests.unit.fleet import SECOND, Fleet, Host

from tcptrace.cli import cli
from tcptrace.map.edges import PROCESS, Edge, Map, Node
from tcptrace.map.page import page as page_of

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A browser of the test's own."""
    with Browser(tmp_path / "profile") as browser:
        yield browser


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A map of three hosts, of which some names would be markup."""
    fleet = Fleet(tmp_path / "fleet")
    web, app, db = (Host(name, f"10.0.0.{at}") for at, name in enumerate(("web", "app", "db")))
    fleet.connect(web, app, 8080, programs=("nginx", "gunicorn"))
    for _ in range(3):
        fleet.connect(app, db, 5432, programs=("gunicorn", "postgres"), name="db.example")
    fleet.connect(app, None, 443, programs=(HOSTILE, ""), name=HOSTILE, address="198.51.100.1")
    fleet.fail(web, "10.0.0.9", 6379, comm="nginx")
    path = tmp_path / "map.html"
    place = fleet.keep(web, app, db)
    CliRunner().invoke(cli, ["map", str(place), "--html", str(path)], catch_exceptions=False)
    return path


def boxes(browser: Browser) -> list[str]:
    """Return what is written in the boxes, in order."""
    found: list[str] = browser.value(
        "[...document.querySelectorAll('#picture g.node title')].map((it) => it.textContent)"
    )
    return sorted(found)


def test_the_picture_has_all_ends_and_edges(browser: Browser, page: Path) -> None:
    """Boxes for ends, paths for edges, and a row of the table for each."""
    browser.open(page)
    assert [
        "10.0.0.9",
        HOSTILE,
        f"{HOSTILE}@app",
        "gunicorn@app",
        "nginx@web",
        "postgres@db",
    ] == boxes(browser)
    assert 4 == browser.value("document.querySelectorAll('#picture path').length")
    assert 1 == browser.value("document.querySelectorAll('#picture path.bad').length")
    assert 4 == browser.value("document.querySelectorAll('tbody tr').length")
    row = browser.value("document.querySelector('tbody tr').innerText").split("\t")
    assert ["gunicorn@app", "postgres@db:5432", "db.example", "3"] == row[:4]
    assert not browser.complaints()


def test_names_are_text(browser: Browser, page: Path) -> None:
    """Markup in a name makes no element, and runs nothing."""
    browser.open(page)
    assert 0 == browser.value("document.querySelectorAll('img').length")
    assert 2 == browser.value("document.scripts.length")
    assert not browser.complaints()


def test_the_page_forbids_all_but_its_own(browser: Browser, page: Path) -> None:
    """A script that came in after all would not run, and nothing is loaded."""
    browser.open(page)
    browser.value(
        "(() => { const it = document.createElement('script'); it.textContent = 'window.came = 1';"
        " document.body.append(it); const img = new Image(); img.src = 'http://192.0.2.1/';"
        " document.body.append(img); })()"
    )
    assert browser.value("window.came") is None
    eventually(
        lambda: bool(browser.value("1")) and "Content Security" in str(browser.complaints()),
        "a complaint of the policy",
    )


def test_the_search_finds_ends(browser: Browser, page: Path) -> None:
    """What is typed is looked for in programs, hosts, names and ports; Escape shows all again."""
    browser.open(page)
    browser.value("document.getElementById('search').focus()")
    browser.type("DB.exam")
    assert ["gunicorn@app", "postgres@db"] == boxes(browser)
    assert "1 of 4 edges, 2 ends" == browser.value("document.getElementById('shown').innerText")
    browser.ask("Input.dispatchKeyEvent", {"type": "keyDown", "key": "Escape"})
    assert 6 == len(boxes(browser))
    browser.type(":6379")
    assert ["10.0.0.9", "nginx@web"] == boxes(browser)


def test_a_click_shows_what_an_end_talks_to(browser: Browser, page: Path) -> None:
    """The table has its edges alone; another click shows all again."""
    browser.open(page)
    x, y = browser.value(
        "(() => { const it = [...document.querySelectorAll('g.node')].find((node) =>"
        " node.querySelector('title').textContent === 'postgres@db').getBoundingClientRect();"
        " return [it.x + it.width / 2, it.y + it.height / 2]; })()"
    )
    browser.click(x, y)
    assert 1 == browser.value("document.querySelectorAll('tbody tr').length")
    assert "postgres@db" == browser.value("document.querySelector('g.chosen title').textContent")
    browser.click(x, y)
    assert 4 == browser.value("document.querySelectorAll('tbody tr').length")


def test_the_wheel_zooms(browser: Browser, page: Path) -> None:
    """Boxes are larger then."""
    browser.open(page)
    width = "document.querySelector('g.node').getBoundingClientRect().width"
    before = browser.value(width)
    browser.wheel(600, 300, -200)
    eventually(lambda: browser.value(width) > before * 1.2, "larger boxes")


def test_failures_and_hosts_can_be_picked(browser: Browser, page: Path) -> None:
    """Failures only; and a program of all hosts in one box."""
    browser.open(page)
    browser.value("document.getElementById('failed').click()")
    assert ["10.0.0.9", "nginx@web"] == boxes(browser)
    browser.value("document.getElementById('merge').click()")
    assert ["10.0.0.9", "nginx"] == boxes(browser)


def many(count: int) -> Map:
    """Return a map of a large fleet: each host asks a hundred others; one edge has a failure."""
    known: dict[str, Any] = {
        "name": "service.example",
        "refused": 0,
        "timed_out": 0,
        "unreachable": 0,
    }
    known |= {"aborted": 0, "tx_bytes": 1000, "rx_bytes": 10, "first_ns": 1, "last_ns": SECOND}
    known |= {"latency_p50_ms": 0.5, "latency_p95_ms": 1.5}
    edges = [
        Edge(
            client=Node(PROCESS, f"app-{number % 7}", f"host-{number // 100:05}"),
            server=Node(PROCESS, f"server-{number % 100}", f"host-{number * 7 % 1000:05}"),
            port=8000 + number % 100,
            attempts=count - number,
            failed_otherwise=int(number == 77_777),
            **known,
        )
        for number in range(count)
    ]
    return Map(edges, [])


def test_a_large_fleet_is_searched_as_well(browser: Browser, tmp_path: Path) -> None:
    """Of a hundred thousand edges the busiest are drawn, and any is found."""
    path = tmp_path / "map.html"
    path.write_text(page_of(many(100_000), "program"), encoding="utf-8")
    assert path.stat().st_size < 30_000_000
    browser.open(path)
    shown = "document.getElementById('shown').textContent"
    browser.value("document.getElementById('merge').click()")
    assert browser.value(shown).startswith("400 of 100000 edges")
    browser.value("document.getElementById('search').focus()")
    browser.type("host-00777 server-77@host-00439:8077")
    assert browser.value(shown).startswith("1 of 100000 edges, 2 ends")
    assert 1 == browser.value("document.querySelectorAll('#picture path.bad').length")
    assert not browser.complaints()
