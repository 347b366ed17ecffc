"""What rows and cached parts are known by: digests of everything that decides them.

A key is complete by construction. It takes whole things (the resolved machine, every option that ``load_model`` has,
every file of the program) rather than a list of parts that somebody has to keep: a part that is added later is in the
key from its first day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hw_configs.digest import digest
from hw_configs.problems import InputError
from offchip.sweep.expression import ExpressionError
from offchip.sweep.machine import Machines, Value
from workloads.transformer.adapters import CONFIG_NAME
from workloads.transformer.quantization import SIDE_FILES

if TYPE_CHECKING:
    from hw_configs.system import System
    from offchip.sweep.space import Space
    from workloads.graph import Graph

__all__ = [
    "beside",
    "code_digest",
    "file_digest",
    "libraries",
    "plan_key",
    "plugins",
    "point_key",
    "workload_key",
    "workload_options",
]

CODE: Final = (
    "hw_configs", "workloads", "simulator", "mapping", "offchip/sweep", "offchip/serving", "offchip/api.py",
    "offchip/run_options.py",
)  # fmt: skip
"""What decides an outcome; commands and reports may change without it."""
BESIDE: Final = (*SIDE_FILES, CONFIG_NAME)
"""Files beside a ``config.json`` that decide its workload too."""
WHOLE_BYTES: Final = 2**30
BLOCK_BYTES: Final = 2**24
LIBRARIES: Final = (
    "offchip", "numpy", "scipy", "numba", "networkx", "simpy", "pulp", "highspy", "pydantic", "PyYAML", "onnx",
    "ortools",
)  # fmt: skip
"""Distributions whose code computes or solves: another version may find another plan or the last bit otherwise."""


@cache
def code_digest() -> str:
    """SHA-256 over the program, its constants, its libraries and its plug-ins: a row of other code is another row."""
    total = hashlib.sha256()
    root = Path(__file__).parents[2]
    for part in CODE:
        for path in sorted((root / part).rglob("*")) or [root / part]:
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(str(path.relative_to(root)).encode() + b"\0")
                total.update(path.read_bytes())
    total.update(digest([libraries(), plugins()]).encode())
    return total.hexdigest()


def libraries() -> dict[str, str | None]:
    """Version of every library that takes part; None for one that is not installed."""
    return {name: _version(name) for name in LIBRARIES}


def plugins() -> list[tuple[str, ...]]:
    """Every entry of another package in a registry: group, name, location, distribution, its version."""
    groups = [group for group in entry_points().groups if group.startswith("offchip.")]
    return sorted(
        (group, point.name, point.value, *((point.dist.name, point.dist.version) if point.dist else ()))
        for group in groups
        for point in entry_points(group=group)
    )


def beside(name: str, folder: Path | None) -> str:
    """A model's name, or the path of its file: beside the space file if it stands there."""
    if folder is not None and (folder / name).exists():
        return str(folder / name)
    return name


def file_digest(path: str) -> str:
    """What stands in a file, as a digest; names that are no files stand for themselves."""
    file = Path(path)
    if file.is_dir():
        file = file / "config.json"
    if not file.is_file():
        return path
    whole = _read(str(file.resolve()), *_state(file))
    others = [file.with_name(name) for name in BESIDE if file.name == "config.json"]
    found = [[other.name, _read(str(other.resolve()), *_state(other))] for other in others if other.is_file()]
    return digest([whole, *found]) if found else whole


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


_UNNAMED: Final = frozenset({"dims", "adapters", "types", "trained"})


@cache
def workload_options() -> tuple[str, ...]:
    """Every option that describes a workload; ``dims`` is asked for apart, and a space names no adapters, no element
    types of a training step and no trained parts.
    """
    from workloads.workload import WorkloadOptions

    return tuple(f.name for f in fields(WorkloadOptions) if f.name not in _UNNAMED)


def workload_key(model: str, options: Mapping[str, Any], code: str) -> str:
    """SHA-256 of everything that decides a workload. ``model``: a name, or the path of a file."""
    own = {name: options.get(name) for name in workload_options()}
    dims = sorted(options["dims"].items())
    return digest(["workload", Path(model).name, file_digest(model), own, dims, code])


def plan_key(workload: str, options: Mapping[str, Any], graph: Graph, system: System) -> str:
    """SHA-256 of everything that decides a plan. ``workload`` is a :func:`workload_key`."""
    own = {name: value for name, value in options.items() if name not in (*workload_options(), "dims")}
    return digest(["plan", workload, dict(sorted(own.items())), graph.structure or graph.name, system.digest])


def point_key(space: Space, machines: Machines, values: Mapping[str, Value], stage: int, code: str) -> str:
    """SHA-256 of everything that decides a point's outcome: space, machine, model, options, fidelity, code, seed."""
    content: list[Any] = [
        space.digest,
        space.stages[stage].fidelity,
        code,
        space.seed,
        sorted(values.items()),
    ]
    # What cannot be had decides by its being so: the point is refused, and the key is another once it can be had.
    with suppress(ValueError, ExpressionError, InputError):
        settings = space.settings(values)
        content += [sorted(settings.items()), file_digest(beside(str(settings["model"]), space.beside))]
        if "requests" in settings:
            content.append(file_digest(beside(str(settings["requests"]), space.beside)))
        content.append(machines.structure(str(settings["hw"]), settings).digest)
    return digest(content)


@cache
def _read(path: str, modified_ns: int, size: int) -> str:
    found = hashlib.sha256()
    with Path(path).open("rb") as stream:
        for _ in range(0, min(size, WHOLE_BYTES), BLOCK_BYTES):
            found.update(stream.read(BLOCK_BYTES))
    if size > WHOLE_BYTES:
        # A checkpoint: what is read of it, its header, stands in front.
        found.update(digest([size, modified_ns]).encode())
    return found.hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
