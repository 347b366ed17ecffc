"""Tables and figures of generation on a PIM memory: models side by side, where time and energy go, sweeps."""

from __future__ import annotations

from collections.abc import Sequence

from offchip.studies.pim_baselines import Baseline, Shape
from offchip.studies.pim_generation import MODELS, TokenCost, changed_machine, token_cost
from offchip.studies.stacked_figure import draw_panels, draw_stacks
from offchip.studies.study import Figure, StudyTable

__all__ = ["figures", "model_table", "overlap_table", "part_table", "sweep_tables", "sweeps"]


_COMPONENTS = {
    "activate_j": "rows opened",
    "column_j": "columns read",
    "mac_j": "multipliers",
    "io_j": "pins",
    "host_j": "host chip",
}


def sweeps(model: str) -> dict[str, list[tuple[float, TokenCost]]]:
    """Costs of a model with one figure of the machine changed at a time."""

    def varied(path: str, values: Sequence[float], shown: Sequence[float]) -> list[tuple[float, TokenCost]]:
        found = []
        for x, value in zip(shown, values, strict=True):
            changes: dict[str, int | float | str | bool | None] = {path: value}
            if path.endswith("channels"):
                # Standby and cooling belong to a channel; few channels need deeper banks to hold the model.
                changes |= {"pim.power.idle": 0.25 * value, "pim.power.tdp": 5.0 * value}
                changes["pim.dram.organisation.rows"] = max(16384, int(8 * 16384 / value))
            if path.endswith("nBL"):
                changes["pim.dram.timing.nCCDS"] = 2
            found.append((x, token_cost(model, changed_machine(changes))))
        return found

    return {
        "channels": varied("pim.dram.channels", (4, 8, 16, 32), (4, 8, 16, 32)),
        "multipliers a bank": varied("pim.units.lanes", (4, 8, 16, 32), (4, 8, 16, 32)),
        # Slower pins take longer for a burst; what a bank gives its units stays as it is.
        "pin rate, Gb/s": varied("pim.dram.timing.nBL", (16, 8, 4, 2), (2, 4, 8, 16)),
    }


def model_table(
    costs: dict[str, TokenCost],
    recipe: dict[str, TokenCost],
    bases: dict[str, Baseline],
    shapes: dict[str, Shape],
) -> StudyTable:
    """Every model: time, baselines, energy, row hits, pin bytes."""
    rows = []
    for m, name in MODELS.items():
        cost, base = costs[m], bases[m]
        rows.append((
            name, cost.block_s * 1e6, cost.seconds * 1e6, recipe[m].block_s * 1e6, base.gpu_device_s * 1e6,
            base.gpu_device_s / cost.block_s, base.gpu_s / cost.block_s, base.cpu_s / cost.block_s, cost.block_j * 1e3,
            cost.row_hit_rate * 100, 2 * (shapes[m].parameters + shapes[m].cache) / cost.block_pin_bytes,
        ))  # fmt: skip
    columns = (
        "model", "blocks, us/token", "with output layer", "published recipe, us", "T4 device, us",
        "speedup over T4 device", "over T4 with 0.9 ms a layer", "over CPU at 6.5 GB/s", "mJ/token", "row hits, %",
        "less pin bytes",
    )  # fmt: skip
    return StudyTable("Eight models, one token of a generation of 1024", columns, tuple(rows))


def part_table(costs: dict[str, TokenCost]) -> StudyTable:
    """Shares of the blocks' time by part."""
    names = sorted({name for cost in costs.values() for name in cost.parts})
    rows: list[tuple[str | float, ...]] = []
    for m, cost in costs.items():
        rows.append((MODELS[m], *(100 * cost.parts.get(name, 0.0) / cost.block_s for name in names)))
    return StudyTable("Where the blocks' time goes, per cent", ("model", *names), tuple(rows))


def overlap_table() -> StudyTable:
    """Three models under other switches."""
    rows = []
    for m in ("gpt2", "gpt2-xl", "gpt3-xl"):
        ways = {
            "serial": {}, "memory and host overlapped": {"overlap": "yes"}, "least energy": {"objective": "energy"},
            "rules honest": {"rules": "honest"},
        }  # fmt: skip
        found = {way: token_cost(m, settings=settings) for way, settings in ways.items()}
        rows += [(MODELS[m], way, cost.block_s * 1e6, cost.block_j * 1e3) for way, cost in found.items()]
    return StudyTable("Other ways to run it", ("model", "way", "us/token", "mJ/token"), tuple(rows))


def sweep_tables(sweep: dict[str, list[tuple[float, TokenCost]]], slow: dict[str, float]) -> list[StudyTable]:
    """The sweeps, the slow host and the lengths as tables."""
    tables = [
        StudyTable(f"GPT3-XL against {name}", (name, "tokens/s", "mJ/token"),
                   tuple((x, 1 / cost.seconds, cost.joules * 1e3) for x, cost in points))
        for name, points in sweep.items()
    ]  # fmt: skip
    tables.append(
        StudyTable("Host at 100 MHz instead of 1 GHz", ("model", "times slower"),
                   tuple((MODELS[m], factor) for m, factor in slow.items()))
    )  # fmt: skip
    lengths = ((n, token_cost("gpt3-xl", tokens=n)) for n in (256, 512, 1024, 2048))
    tables.append(
        StudyTable("GPT3-XL against tokens generated",
                   ("tokens", "mean us/token", "row hits, %", "share outside products, %"),
                   tuple((n, c.block_s * 1e6, 100 * c.row_hit_rate, 100 * c.other_share) for n, c in lengths))
    )  # fmt: skip
    return tables


def figures(costs: dict[str, TokenCost], sweep: dict[str, list[tuple[float, TokenCost]]]) -> list[Figure]:
    """Time, energy and the sweeps, drawn."""
    names = list(MODELS.values())
    parts = sorted(
        {name for cost in costs.values() for name in cost.parts},
        key=lambda n: -costs["gpt3-xl"].parts.get(n, 0),
    )
    times = {n: [100 * costs[m].parts.get(n, 0.0) / costs[m].block_s for m in MODELS] for n in parts}
    kinds = list(costs["gpt3-xl"].energy)
    joules = {
        _COMPONENTS.get(k, k.removesuffix("_j")): [costs[m].energy[k] * 1e3 for m in MODELS] for k in kinds
    }
    panels = {
        name: [(x, 1 / cost.seconds, cost.joules * 1e3) for x, cost in points]
        for name, points in sweep.items()
    }
    return [
        Figure("time", "Share of the decoder blocks' time by part, for the eight models.",
               lambda path: draw_stacks(path, names, times, "share of time, %")),
        Figure("energy", "Energy of a token by component, output layer included.",
               lambda path: draw_stacks(path, names, joules, "mJ per token")),
        Figure("sweep", "GPT3-XL on the PIM-GPT machine with one figure changed at a time: tokens per second and "
               "energy of a token against channels, multipliers beside a bank and the rate of a pin.",
               lambda path: draw_panels(path, panels, "tokens/s", "mJ/token")),
    ]  # fmt: skip
