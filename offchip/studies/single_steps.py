"""A spiking network that needs one time step: latency, the traffic of potentials, and energy by how often neurons fire.

Chowdhury, Rathi, Roy, One Timestep is All You Need (IIR-SNN), arXiv:2110.05929, on VGG-16. Operations and bytes are
counted layer by layer (:mod:`simulator.spiking.layers`); how often neurons fire follows from training and is swept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

from hw_configs.access_energy import AccessEnergy, energy_per_byte
from hw_configs.arithmetic import add_energy, mac_energy
from offchip.studies.study import Basis, Claim, ClaimResult, Outcome, Study, StudyTable, apart, compare
from simulator.spiking.layers import (
    Fetch,
    LayerCounts,
    Order,
    Prices,
    SpikingLayer,
    dense_counts,
    joules,
    layers_of,
    spiking_counts,
)
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["STUDY", "layers", "rate_for", "times_less"]

NANOMETRES: Final = 45
SRAM: Final = energy_per_byte(AccessEnergy(kind="sram", technology=NANOMETRES), 1 << 20)
DRAM: Final = energy_per_byte(AccessEnergy(kind="ddr3"), 0)
_MAC, _ADD = mac_energy("fp32", NANOMETRES), add_energy("fp32", NANOMETRES)
MEMORIES: Final = {
    "arithmetic alone": Prices(_MAC, _ADD, 0.0, 0.0),
    "all in SRAM": Prices(_MAC, _ADD, SRAM, SRAM),
    "weights in DRAM": Prices(_MAC, _ADD, DRAM, SRAM),
    "all in DRAM": Prices(_MAC, _ADD, DRAM, DRAM),
}
"""Energies of 45 nm and DDR3, as in the tables of :mod:`hw_configs`; SRAM in banks of 1 MiB."""
STEPS: Final = (1, 2, 5, 25, 150, 2500)
RATES: Final = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
IMAGES: Final = {"VGG-16, 224 x 224": 224, "convolutions, 32 x 32": 32}
LARGE: Final = "VGG-16, 224 x 224"
_PAPER: Final = "arXiv:2110.05929, abstract"


@cache
def layers(images: str) -> tuple[SpikingLayer, ...]:
    """VGG-16 on images of one kind; of small ones the convolutions alone, whose products are of another shape."""
    side = IMAGES[images]
    options = WorkloadOptions(dtype="fp32", dims={"height": side, "width": side})
    found = layers_of(load_workload("vgg-16", options).phases[0].graph)
    return found if side == IMAGES[LARGE] else tuple(layer for layer in found if layer.kernel != (1, 1))


def rate_for(times: float, images: str) -> float:
    """Share of neurons that fire in the one step, so that arithmetic alone takes so many times less energy."""
    dense = [count.multiply_adds for count in dense_counts(layers(images))]
    return (sum(dense) * _MAC / times - dense[0] * _MAC) / (sum(dense[1:]) * _ADD)


def _spent(counts: Sequence[LayerCounts], memory: str) -> float:
    return sum(joules(counts, MEMORIES[memory]).values())


def times_less(images: str, rate: float, memory: str, order: Order = "step", fetch: Fetch = "pass",
               steps: int = 1) -> float:  # fmt: skip
    """Energy of the network with numbers over that of the one with spikes."""
    shapes = layers(images)
    spiking = spiking_counts(shapes, steps, [rate] * len(shapes), order, fetch)
    return _spent(dense_counts(shapes), memory) / _spent(spiking, memory)


def _claims() -> list[ClaimResult]:
    def claim(id: str, statement: str, published: float, unit: str, basis: Basis) -> Claim:
        return Claim(id, statement, published, unit, _PAPER, "published", basis)

    depth = len(layers(LARGE))
    passes = "Passes over the network one after another: time goes with the steps."
    results = [
        compare(claim(id, f"latency less than networks of {steps} steps", float(steps), "x", "construction"),
                float(steps), passes,
                f"The others' steps are the claim itself. Were {depth} layers at work on a step each, it would be "
                f"{(depth + steps - 1) / depth:.3g}.")
        for id, steps in (("latency-least", 5), ("latency-most", 2500))
    ]  # fmt: skip
    for times in (25.0, 33.0):
        rate = rate_for(times, LARGE)
        memory = ", ".join(f"{words} {times_less(LARGE, rate, words):.2f}" for words in list(MEMORIES)[1:])
        served = times_less(LARGE, rate, "all in SRAM", fetch="event")
        results.append(
            apart(claim(f"energy-{times:.0f}", f"energy less than the network with numbers ({times:.0f} of 25 to 33)",
                        times, "x", "construction"),
                  times_less(LARGE, rate, "all in SRAM"),
                  f"{LARGE} in one step, all weights and states in SRAM of {NANOMETRES} nm, neurons that fire as often "
                  f"as arithmetic alone needs for the claim: {rate:.3f} of them.",
                  f"How often neurons fire is not in the abstract, and whether memory is counted neither. With memory: "
                  f"{memory}; with a weight fetched for each spike, in SRAM, {served:.2f}.")
        )  # fmt: skip
    for data, accuracy in (("CIFAR-10", 93.05), ("CIFAR-100", 70.15), ("ImageNet", 67.71)):
        results.append(
            compare(claim(f"accuracy-{data.lower()}", f"top-1 on {data}", accuracy, "%", "mechanism"), None,
                    "Not covered.", "Accuracy is an input of Offchip, never an output.")
        )  # fmt: skip
    return results


def _by_rate() -> StudyTable:
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (images, rate, *(times_less(images, rate, memory) for memory in MEMORIES),
         times_less(images, rate, "all in SRAM", fetch="event"))
        for images in IMAGES
        for rate in (*RATES, rate_for(25.0, images), rate_for(33.0, images))
    )  # fmt: skip
    columns = ("network", "share that fires", *MEMORIES, "all in SRAM, weights by spike")
    return StudyTable("Energy of numbers over that of spikes, one step", columns, rows)


def _by_steps() -> StudyTable:
    """What more steps of the same rate cost: nothing else is changed."""
    shapes, rate = layers(LARGE), rate_for(25.0, LARGE)
    orders: tuple[Order, ...] = ("step", "layer")
    rows = []
    for steps in STEPS:
        row: list[str | float] = [float(steps)]
        for order in orders:
            counts = spiking_counts(shapes, steps, [rate] * len(shapes), order)
            row += [1e-6 * sum(c.state_bytes for c in counts), 1e-6 * sum(c.weight_bytes for c in counts)]
            row.append(times_less(LARGE, rate, "all in SRAM", order, steps=steps))
        row.append((len(shapes) + steps - 1) / len(shapes))
        rows.append(tuple(row))
    each = ("potentials, MB", "weights, MB", "energy, times less")
    columns = (
        "steps",
        *(f"{order} by {order}: {words}" for order in orders for words in each),
        "time if pipelined",
    )
    return StudyTable(f"{LARGE}, {rate:.3f} fire in each step, all in SRAM", columns, tuple(rows))


def _run() -> Outcome:
    return Outcome(_claims(), [_by_rate(), _by_steps()])


STUDY: Final = Study(
    "iir-snn",
    "A spiking network of one time step",
    "Chowdhury, Rathi, Roy, One Timestep is All You Need: Training Spiking Neural Networks with Ultra Low Latency, "
    "arXiv:2110.05929",
    "VGG-16 with numbers and with spikes of 1 to 2500 steps: additions, weights, potentials and spikes layer by layer, "
    "step by step or all steps of a layer at once, with energies of 45 nm and a swept share of neurons that fire.",
    _run,
)
