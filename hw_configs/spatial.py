"""A spatial accelerator: memory levels from the outermost inwards, what each holds, and how its children are laid out.

Level 0 is unbounded and holds everything at the start and the end. Below an instance of a level lie equal children
along *axes*: instances of the next level, below the last one multiply-accumulate units. An axis says which loops may
run along it, which inputs of one parent read serve all children that want the same words (``multicast``), and whether
an adder tree sums what they make (``reduce``). A tensor that a level does not hold passes by it.

Counting rules on it: :mod:`simulator.accelerator.loop_nest.counts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from hw_configs.access_energy import AccessEnergy, energy_per_byte
from hw_configs.config import Config, Count, EnergyPerByte, Fault, Size
from hw_configs.units import parse_quantity

__all__ = [
    "HOME",
    "OPERANDS",
    "MemoryLevel",
    "Operand",
    "SpatialAxis",
    "StoredAs",
    "WordBits",
    "ZeroSaving",
    "level_faults",
    "run_cycles",
    "spatial_compute",
    "units_below",
    "why_no_home",
]

Operand = Literal["I", "W", "O"]
"""Inputs, weights, outputs: the operands of a multiply-accumulate."""
OPERANDS: Final[tuple[Operand, ...]] = ("I", "W", "O")
HOME: Final = 1
"""The outermost level on chip: where tensors live between operators, if they can."""
MOST_LEVELS: Final = 8
MOST_CHILDREN: Final = 2**20

Bits = Annotated[int, Field(ge=1, le=128)]


ZeroSaving = Literal["gating", "skipping"]
"""What is saved where a factor is zero: energy (``gating``), or energy and time (``skipping``)."""


class WordBits(Config):
    """Bits of an input, a weight, and an output or partial sum."""

    I: Bits  # noqa: E741
    W: Bits
    O: Bits  # noqa: E741

    def bytes_of(self, operand: Operand) -> float:
        """Bytes of a word."""
        return {"I": self.I, "W": self.W, "O": self.O}[operand] / 8


class SpatialAxis(Config):
    """One direction in which the children of a level are laid out."""

    axis: str
    """Its name, by which mappings call it; no other axis has it."""
    size: Annotated[int, Field(ge=1, le=MOST_CHILDREN)]
    """Children along it."""
    dims: Literal["any", "out", "red", "channel", "not_I", "not_W"] | tuple[str, ...] = "any"
    """Loops that may run along it: all, those that index the output (``out``), those that do not (``red``), of these
    the ones that are no part of a window (``channel``, input channels), those that do not index the inputs or the
    weights; or the dims themselves."""
    multicast: tuple[Literal["I", "W"], ...] = ("I", "W")
    """Inputs of which one read serves all children that want the same words at once."""
    reduce: tuple[Literal["O"], ...] = ()
    """``[O]`` where an adder tree (or a systolic chain) sums the partial results of the children."""


class StoredAs(Config):
    """How a level stores and moves an operand that has zeros."""

    kind: Literal["bitmask", "run-length", "coordinate", "csr"]
    """``bitmask``: a bit a word and the words that are not zero; ``run-length``: those words, each with the zeros
    before it (longer runs store a zero); ``coordinate``: those words, each with its place; ``csr``: the same with where
    each row (along the operand's last axis) begins."""
    bits: Annotated[int, Field(ge=1, le=64)] | None = None
    """Of a run (5 where left out) or of a place (left out: as many as the last axis needs)."""
    confidence: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The chance with which a tile has to fit where zeros are random; 1 leaves room for a tile without zeros."""


class MemoryLevel(Config):
    """One level of memory and the children below each of its instances."""

    name: str
    capacity: Size | None = None
    """Of one instance; left out for the outermost level, which is unbounded."""
    capacities: dict[Operand, Size] | None = None
    """Instead of one capacity: those of separate files or buffers by operand, for a level that has several side by
    side. Beside one: the most that single operands may take of it."""
    holds: tuple[Operand, ...]
    """Operands that it stores; others pass by."""
    energy: AccessEnergy | None = None
    """Instead of the two figures that follow: a published figure by technology and size, for reads and writes."""
    read_energy: EnergyPerByte
    write_energy: EnergyPerByte
    read_width: Size
    """Bytes that an instance hands out in a clock."""
    write_width: Size
    """Bytes that an instance takes in a clock."""
    one_port: bool = False
    """Whether reads and writes take turns, as over the pins of a DRAM, instead of having a port each."""
    buffering: Literal["free", "double", "single"] = "free"
    """How its next tiles come while the children work on those that it holds. ``free``: meanwhile, into no room of
    their own (as evaluators of loop nests count). ``double``: meanwhile, into as much room again. ``single``: not
    meanwhile; what crosses the levels outside it takes its time beside that of all inside."""
    banks: Count = 1
    cells: Literal["sram", "registers"] | None = None
    """What it is made of, for its area; left out, registers up to 256 B a file."""
    formats: dict[Operand, StoredAs] | None = None
    """How operands with zeros are stored; those left out store their zeros. Partial sums always do."""
    zero_reads: dict[Literal["I", "W"], ZeroSaving] | None = None
    """Inputs that are not read (and not taken by the children) where the other input of all products that they would
    serve is zero: ``gating`` saves the energy, ``skipping`` the time too."""
    fanout: tuple[SpatialAxis, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _by_technology(cls, data: Any) -> Any:
        """Fills in both energies where a technology stands for them."""
        if not isinstance(data, dict) or data.get("energy") is None:
            return data
        if {"read_energy", "write_energy"} & set(data):
            raise ValueError("found energy beside read_energy or write_energy; expected one or the other")
        sizes = [data.get("capacity"), *(data.get("capacities") or {}).values()]
        largest = max((_size(size) for size in sizes if size is not None), default=1.0)
        joules = energy_per_byte(AccessEnergy.model_validate(data["energy"]), largest)
        return {**data, "read_energy": joules, "write_energy": joules}

    @property
    def bounded(self) -> bool:
        """Whether it can be full."""
        return self.capacity is not None or self.capacities is not None

    @property
    def tile_copies(self) -> int:
        """How often its tiles are held."""
        return 2 if self.buffering == "double" else 1

    def clocks(self, read: float, written: float) -> float:
        """Clocks that an instance takes to hand out and take in so many bytes."""
        out, into = read / self.read_width, written / self.write_width
        return out + into if self.one_port else max(out, into)

    def overflow(self, held: Mapping[Operand, float]) -> str:
        """What does not fit of tiles of so many bytes by operand, in words; "" when all does."""
        held = {operand: size * self.tile_copies for operand, size in held.items()}
        if self.capacity is not None and sum(held.values()) > self.capacity:
            told = ", ".join(f"{operand} {size:.0f} B" for operand, size in held.items())
            return f"the tiles in {self.name!r} do not fit its {self.capacity:.0f} B: {told}"
        for operand, size in (self.capacities or {}).items():
            if held.get(operand, 0.0) > size:
                return (
                    f"the tile of {operand} in {self.name!r} takes {held[operand]:.0f} B of its {size:.0f} B"
                )
        return ""

    def text_capacity(self) -> str:
        """Its capacity for people."""
        own = " ".join(f"{operand} {size:.0f} B" for operand, size in (self.capacities or {}).items())
        if self.capacity is None:
            return own or "unbounded"
        return f"{self.capacity:.0f} B" + (f" (of which {own})" if own else "")


def _size(found: Any) -> float:
    return found if isinstance(found, float) else parse_quantity(found, "size")


def run_cycles(levels: Sequence[MemoryLevel], ports: Sequence[float], inside: float) -> float:
    """Clocks of a run whose units take ``inside`` and each level's ports their own, by how levels are buffered.

    Everything overlaps, but for what lies outside and inside a level that is filled between runs of its children.
    """
    total = longest = 0.0
    for number, (memory, clocks) in enumerate(zip(levels, ports, strict=True)):
        if number and memory.buffering == "single":
            total, longest = total + longest, 0.0
        longest = max(longest, clocks)
    return total + max(longest, inside)


def level_faults(levels: tuple[MemoryLevel, ...]) -> Iterator[Fault | None]:
    """What is wrong with a hierarchy; each with the path of its field."""
    if not 1 <= len(levels) <= MOST_LEVELS:
        yield ("levels",), f"found {len(levels)} levels; expected 1 to {MOST_LEVELS}"
        return
    outer = levels[0]
    if outer.bounded:
        yield ("levels", 0, "capacity"), "the outermost level is unbounded; leave its capacity out"
    missing = [operand for operand in OPERANDS if operand not in outer.holds]
    if missing:
        names = ", ".join(missing)
        yield (
            ("levels", 0, "holds"),
            f"the outermost level has to hold every operand; {names} would have no home",
        )
    names_seen: set[str] = set()
    axes_seen: set[str] = set()
    for index, level in enumerate(levels):
        if level.capacities is not None and (
            not set(level.capacities) <= set(level.holds)
            or (level.capacity is None and set(level.capacities) != set(level.holds))
        ):
            yield (
                ("levels", index, "capacities"),
                "expected one per operand that it holds, or beside a capacity some of them",
            )
        if index and not level.bounded:
            yield (
                ("levels", index, "capacity"),
                f"{level.name!r} needs a capacity; only the outermost is unbounded",
            )
        if not level.holds or len(set(level.holds)) < len(level.holds):
            yield ("levels", index, "holds"), "expected one or more of I, W, O, each once"
        for key, named in (("formats", level.formats), ("zero_reads", level.zero_reads)):
            strange = [operand for operand in named or () if operand not in level.holds]
            if strange:
                yield ("levels", index, key), f"{level.name!r} does not hold {strange[0]}"
        for operand, saving in (level.zero_reads or {}).items():
            for inner in levels[index + 1 :]:
                own = (inner.zero_reads or {}).get(operand)
                if operand in inner.holds and own != "skipping" and own != saving:
                    yield (
                        ("levels", index, "zero_reads"),
                        f"{saving} reads of {operand} needs {inner.name!r} to do so too, which holds what was not read",
                    )
        if level.name in names_seen:
            yield ("levels", index, "name"), f"{level.name!r} is the name of two levels"
        names_seen.add(level.name)
        for number, axis in enumerate(level.fanout):
            if axis.axis in axes_seen:
                yield ("levels", index, "fanout", number, "axis"), f"{axis.axis!r} is the name of two axes"
            axes_seen.add(axis.axis)


def why_no_home(name: str, levels: tuple[MemoryLevel, ...]) -> str:
    """Why tensors can't live on a device's chip between operators; "" where they can."""
    if len(levels) <= HOME:
        return f"{name} has no level on chip"
    home = levels[HOME]
    if set(home.holds) != set(OPERANDS):
        missing = ", ".join(operand for operand in OPERANDS if operand not in home.holds)
        return (
            f"{home.name!r} of {name} does not hold {missing}; expected a level on chip that holds I, W and O"
        )
    if levels[0].fanout:
        return f"{name} has several instances of {home.name!r}; expected one that all share"
    return ""


def units_below(levels: tuple[MemoryLevel, ...]) -> int:
    """Multiply-accumulate units of a device."""
    return prod(axis.size for memory in levels for axis in memory.fanout)


def spatial_compute(
    levels: tuple[MemoryLevel, ...],
    clock: float,
    word_bits: WordBits,
    mac_energy: float,
    types: Mapping[str, int],
) -> dict[str, Any]:
    """Rates of a spatial device that states none: of all units, and of lanes for what multiplies no matrices.

    ``types`` holds bits by element type; the types that the words of inputs hold have rates. Lanes are as many as the
    longest axis has children (an assumption: a row of results a clock), each with one multiply-add a clock. An
    operation takes half the energy of a multiply-accumulate.
    """
    lanes = max((axis.size for memory in levels for axis in memory.fanout), default=1)
    own = [name for name, bits in types.items() if bits <= word_bits.I]
    return {
        "matrix": dict.fromkeys(own, 2.0 * units_below(levels) * clock),
        "vector": dict.fromkeys(own, 2.0 * lanes * clock),
        "energy_per_operation": dict.fromkeys(own, mac_energy / 2),
    }
