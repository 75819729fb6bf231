"""The layers: who imports whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tcptrace

PACKAGE = Path(tcptrace.__file__).parent
# From the top; a module imports from its own layer and from those below.
LAYERS = (
    ("__main__", "program", "cli"),
    ("commands",),
    ("shell",),
    ("diff",),
    ("map",),
    ("sinks", "sources"),
    ("top",),
    ("probes",),
    ("model",),
    ("kernel", "errors", "version"),
)
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
# Layers whose parts know nothing of each other.
APART = {"sinks": "sources", "sources": "sinks"}
TOUCH_BCC = {"sources/bpf/compile.py", "sources/bpf/find_bcc.py"}
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imports(module: str) -> Iterator[str]:
    """Yield the full names that a module imports, those inside functions too."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def attributes(module: str) -> Iterator[str]:
    """Yield what a module reads of names, as ``sys.stdout``."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def part(name: str) -> str:
    """Return the part of the package that a module's path or an imported name belongs to."""
    return name.removesuffix(".py").replace("/", ".").removeprefix("tcptrace.").split(".")[0]


def test_every_part_has_a_layer() -> None:
    """A new part of the package is given its place in the list above."""
    assert not {part(module) for module in MODULES} - DEPTH.keys() - {"__init__"}


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__.py"])
def test_imports_point_down(module: str) -> None:
    """A module imports nothing from above, and sinks and sources not from each other."""
    own = part(module)
    for name in imports(module):
        if name.startswith("tcptrace."):
            other = part(name)
            assert DEPTH[own] <= DEPTH[other], f"{module} imports {name}, which is above it"
            assert APART.get(own) != other, f"{module} imports {name}, which is beside it"


def graph() -> dict[str, set[str]]:
    """Return which modules each module imports, late imports included.

    The package's own interface is left out: it names what is in all of it.
    """
    paths = {
        f"tcptrace.{module.removesuffix('.py').replace('/', '.')}": module for module in MODULES
    }
    paths |= {name.removesuffix(".__init__"): module for name, module in paths.items()}

    def found(name: str) -> str | None:
        while name and name not in paths:
            name = name.rpartition(".")[0]
        return paths.get(name)

    modules = [module for module in MODULES if module != "__init__.py"]
    return {
        module: {other for name in imports(module) if (other := found(name))} - {"__init__.py"}
        for module in modules
    }


def test_no_module_imports_itself_by_way_of_others() -> None:
    """There is no circle, not even one that an import inside a function hides."""
    sorter = TopologicalSorter(graph())
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) == "model"])
def test_the_model_knows_neither_kernel_nor_terminal(module: str) -> None:
    """Records, filters and columns are data about data: they can be used on any machine."""
    names = list(imports(module))
    assert not [name for name in names if name.startswith("tcptrace.kernel")]
    assert not [name for name in names if part(name) in {"click", "rich"}]


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES if part(module) in {"sources", "probes", "model", "kernel"}],
)
def test_only_what_is_above_knows_standard_output(module: str) -> None:
    """Where rows go is the affair of sinks; what runs them says which stream."""
    assert not {"sys.stdout", "click.echo"} & set(attributes(module))


@pytest.mark.parametrize("module", MODULES)
def test_only_the_loader_s_child_touches_bcc(module: str) -> None:
    """No module imports bcc by name, and only two import what finds it."""
    names = list(imports(module))
    assert not [name for name in names if part(name) == "bcc"]
    finds = [name for name in names if name.endswith("find_bcc.import_bcc")]
    assert not finds or module in TOUCH_BCC


@pytest.mark.parametrize("module", MODULES)
def test_only_sinks_import_rich(module: str) -> None:
    """What knows rich is in sinks/."""
    assert part(module) == "sinks" or not [name for name in imports(module) if part(name) == "rich"]


@pytest.mark.parametrize("module", MODULES)
def test_only_the_screen_imports_textual(module: str) -> None:
    """It is an extra: what knows it is in sinks/screen/."""
    is_screen = module.startswith("sinks/screen/")
    assert is_screen or not [name for name in imports(module) if part(name) == "textual"]


@pytest.mark.parametrize("module", MODULES)
def test_only_an_engine_imports_what_it_is_of(module: str) -> None:
    """Engines are extras: what knows them is map/duck.py and map/spark.py."""
    of = {"duckdb": "map/duck.py", "pyspark": "map/spark.py"}
    assert not [name for name in imports(module) if of.get(part(name), module) != module]


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) == "sources"])
def test_sources_know_no_click(module: str) -> None:
    """Sources know nothing of the command line."""
    assert not [name for name in imports(module) if part(name) == "click"]


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) == "commands"])
def test_commands_know_the_kernel_only_through_questions(module: str) -> None:
    """Commands make no system call and load no program themselves."""
    forbidden = {"tcptrace.kernel.bpf", "tcptrace.kernel.syscalls", "tcptrace.kernel.hooks"}
    assert not {name for name in imports(module) if name.startswith(tuple(forbidden))}


SLOW = ("bcc", "rich", "dnslib", "pyroute2", "importlib.metadata", "traceback", "json", "csv")


def imported_by(*arguments: str) -> set[str]:
    """Return the modules that a command line imports; it must succeed."""
    script = (
        "import sys\n"
        "before = {*sys.modules}\n"
        f"sys.argv = ['tcptrace', *{arguments!r}]\n"
        "from tcptrace.__main__ import run\n"
        "assert run() == 0\n"
        "print('imported:', *sys.modules.keys() - before)\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_no_command(arguments: list[str]) -> None:
    """The list of commands is quick: it imports none of them, and nothing that is slow."""
    imported = imported_by(*arguments)
    assert not {name for name in imported if name.startswith("tcptrace.commands.")}
    assert not {"tcptrace.shell.command", "dataclasses", *SLOW} & imported


def test_help_of_a_command_imports_nothing_slow() -> None:
    """Neither its sinks nor what compiles is imported."""
    imported = imported_by("accept", "--help")
    assert not {"tcptrace.sinks.machine", "tcptrace.sources.tracefs.session"} & imported
    assert not {"tcptrace.sources.bpf.compile", "tcptrace.sources.bpf.find_bcc"} & imported


@pytest.mark.parametrize(
    "arguments", [["--help"], ["accept", "--help"], ["top", "--help"], ["--version"]]
)
def test_help_imports_neither_bcc_nor_rich(arguments: list[str]) -> None:
    """Help is quick: what is slow to import is left out."""
    script = (
        "import sys\n"
        f"sys.argv = ['tcptrace', *{arguments!r}]\n"
        "from tcptrace.__main__ import run\n"
        "assert run() == 0\n"
        "print('imported:', *sorted({'bcc', 'rich', 'dnslib', 'textual'} & sys.modules.keys()))\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "imported:" == result.stdout.splitlines()[-1]
