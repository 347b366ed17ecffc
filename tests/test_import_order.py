"""The order of the house: a folder imports only what stands before it, and no package loads what is heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("hw_configs", "workloads", "simulator", "mapping", "offchip")
HEAVY = ("numba", "scipy", "pandas", "networkx", "simpy", "pulp", "onnx", "matplotlib")
MODULES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))


def imported(path):
    """The top-level packages that a module imports anywhere, also inside functions, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays inside its package unless it climbs out of it.
            depth = len(path.relative_to(ROOT).parts)
            name = (node.module or "").split(".")[0] if node.level == 0 else path.relative_to(ROOT).parts[0]
            yield (name if node.level < depth else "outside", node.lineno)


def test_every_package_has_modules():
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(ORDER)


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_what_stands_before_it(package):
    later = {*ORDER[ORDER.index(package) + 1 :], "outside", "tests", "benchmarks", "calibration"}
    breaches = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in MODULES
        if path.relative_to(ROOT).parts[0] == package
        for name, line in imported(path)
        if name in later
    ]
    assert breaches == []


def test_the_check_sees_an_import_against_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    module = tmp_path / "hw_configs" / "wrong.py"
    module.parent.mkdir()
    module.write_text("def f():\n    from offchip.api import simulate\n    import mapping.liveness\n")
    assert list(imported(module)) == [("offchip", 2), ("mapping", 3)]


@pytest.mark.parametrize("package", [*ORDER, "offchip.cli.main"])
def test_importing_a_package_loads_nothing_heavy(package):
    code = f"import sys, {package}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []
