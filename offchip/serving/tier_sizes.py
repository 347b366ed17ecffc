"""Places for caches in a host's memory and on drives, from what is asked and what a machine has."""

from __future__ import annotations

from dataclasses import dataclass

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.files import load_device
from hw_configs.problems import InfeasibleError, InputError, bad_input, nearest
from hw_configs.system import AnyDevice, System
from hw_configs.units import UnitError, format_quantity, parse_quantity
from simulator.serving.exchange_time import gpus_of
from simulator.serving.pricing import host_bandwidth

__all__ = ["CacheTiers", "tiers_of"]


@dataclass(frozen=True)
class CacheTiers:
    """Bytes of one worker in slower memories. ``drive``: bytes per second read and written, and what the drives are."""

    host_bytes: float = 0.0
    drive_bytes: float = 0.0
    drive: tuple[float, float, str] | None = None


def tiers_of(system: System, host: str, drive: str, workers_on_machine: int) -> CacheTiers:
    """Tiers of a worker. ``host``: a size; ``drive``: ``DRIVE:SIZE``, DRIVE a device or a group of the system's.

    Workers on one machine share its memory and its own drives evenly; a drive that is named as a device is each
    worker's own. ``InputError`` where the machine has no such memory, ``InfeasibleError`` with the bytes where it is
    too small.
    """
    host_bytes = _size(host, "--host-cache") if host else 0.0
    if (host or drive) and not host_bandwidth(system, gpus_of(system)[0]):
        raise bad_input(
            f"{system.name!r} has no memory of a host that its GPUs reach; give a system that has, such as dgx-h100",
            path="--host-cache" if host else "--drive-cache",
        )
    if host_bytes:
        has = sum(
            m.usable_bytes
            for n, m in system.memories.items()
            if system.nodes[n].device.kind in ("dram", "cpu")
        )
        _fits("--host-cache", host_bytes, workers_on_machine, float(has), "the host's memory")
    if not drive:
        return CacheTiers(host_bytes)
    name, colon, size = drive.rpartition(":")
    if not (colon and name):
        raise bad_input(
            f"found {drive[:60]!r}; expected DRIVE:SIZE, such as nvme-pcie4-dc-tlc:1TiB", path="--drive-cache"
        )
    drive_bytes = _size(size, "--drive-cache")
    own = [node for node in system.nodes.values() if node.group == name or node.name == name]
    device = own[0].device if own else _drive(name, system)
    if not isinstance(device, Flash | ComputationalStorage):
        raise bad_input(
            f"found {name!r}, a device of kind {device.kind}; expected a drive", path="--drive-cache"
        )
    count, share = (len(own), workers_on_machine) if own else (1, 1)
    store = device.store
    _fits("--drive-cache", drive_bytes, share, float(count * store.capacity), f"{count} x {device.name}")
    source = f"{count} x {device.name}" + (f", shared by {share} workers" if share > 1 else "")
    rates = store.read_bandwidth * count / share, store.write_bandwidth * count / share
    return CacheTiers(host_bytes, drive_bytes, (*rates, source))


def _drive(name: str, system: System) -> AnyDevice:
    try:
        return load_device(name)
    except InputError as error:
        groups = sorted(
            {n.group for n in system.nodes.values() if isinstance(n.device, Flash | ComputationalStorage)}
        )
        problem = error.problems[0]
        raise bad_input(
            f"unknown drive {name!r}: neither a device nor one of the system's ({', '.join(groups) or 'it has none'})",
            path="--drive-cache", suggestion=problem.suggestion or nearest(name, groups),
        ) from None  # fmt: skip


def _size(text: str, path: str) -> float:
    try:
        size = parse_quantity(text, "size")
    except UnitError as error:
        raise bad_input(str(error), path=path) from None
    if size <= 0:
        raise bad_input(f"found {text!r}; expected a size above 0", path=path)
    return size


def _fits(path: str, wanted: float, workers: int, has: float, what: str) -> None:
    if wanted * workers > has:
        need = format_quantity(wanted * workers, "size")
        raise InfeasibleError(
            f"{path}: {workers} workers on a machine want {need}; {what} has {format_quantity(has, 'size')}: short by "
            f"{format_quantity(wanted * workers - has, 'size')}"
        )
