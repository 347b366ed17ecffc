"""What a product of sparse matrices took on a machine of many threads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from simulator.threads.engine import ThreadRun
from simulator.threads.sparse_product import Product
from simulator.threads.work import totals

__all__ = ["ProductResult", "product_result"]


@dataclass(frozen=True, slots=True)
class ProductResult(Shown):
    """One product: sizes, counts, time.

    ``input_bytes``: read of the two matrices; ``partial_bytes``: of products that went to memory and came back.
    """

    way: str
    machine: str
    rows: int
    nonzeros: tuple[int, int, int]
    """Of the left matrix, the right one and the product."""
    multiplications: int
    probes: int
    windows: int
    input_bytes: int
    partial_bytes: int
    output_bytes: int
    run: ThreadRun

    def as_json(self) -> dict[str, Any]:
        """Plain data in SI units."""
        return {**asdict(self), "bound_by": self.run.bound_by, "memory_bytes": self.run.work.memory_bytes}

    def shown_tables(self) -> list[Table]:
        """Counts, bytes, time, and what was busy."""
        left, right, out = self.nonzeros
        rows: list[tuple[object, ...]] = [
            ("stored values, left / right / product", f"{left} / {right} / {out}"),
            ("multiplications", self.multiplications),
            ("probes of the hash table", self.probes if self.way != "inner" else "none"),
            ("windows of rows", self.windows if self.way != "inner" else "none"),
            ("read of the matrices", format_quantity(self.input_bytes, "size")),
            ("partial products, out and back", format_quantity(self.partial_bytes, "size")),
            ("written of the product", format_quantity(self.output_bytes, "size")),
            ("time", format_quantity(self.run.time_s, "time")),
            *((f"busy: {name}", f"{100 * share:.1f} %") for name, share in self.run.busy.items()),
            *((f"threads wait for {name}", f"{100 * share:.1f} %") for name, share in self.run.waits.items()),
        ]  # fmt: skip
        return [Table(f"{self.way} product of {self.rows} rows on {self.machine}", ("", ""), tuple(rows))]


def product_result(
    way: str, machine: str, sizes: tuple[int, int, int], made: Product, run: ThreadRun
) -> ProductResult:
    """The result of a run; ``sizes``: rows, stored values of the left and of the right."""
    rows, left, right = sizes
    spread = [phase for phase in made.phases if phase.name == "multiply"]
    partial = totals(spread).write_bytes
    back = totals([p for p in made.phases if p.name.startswith("merge")]).read_bytes if spread else 0
    whole = totals(made.phases)
    return ProductResult(
        way, machine, rows, (left, right, made.result.nonzeros), made.multiplications, made.probes, made.windows,
        whole.read_bytes - back, partial + back, whole.write_bytes - partial, run,
    )  # fmt: skip
