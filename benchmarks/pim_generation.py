"""A whole generation at cycle level on one core: 1024 tokens of the largest of the eight published models.

Prints CPU seconds after compilation, and, for a sample of tokens, whether the remembered programs give the same
clocks as the plain engine (no leap, nothing remembered), with its CPU seconds as the baseline.
"""

from __future__ import annotations

import time

from hw_configs.device import Accelerator, Pim
from mapping.layout.pim import MAPPER
from mapping.mapper import MapperOptions
from offchip.api import load_model, load_system, simulate
from simulator.pim.engine import PimEngine
from simulator.pim.pricing import Pricer
from simulator.pim.recipes import MemoryStage, recipe

MODELS = ("gpt2-xl", "gpt3-xl")
SAMPLE = (100, 512, 1000)


def plain_against_remembered(model: str, context: int) -> tuple[int, int, float]:
    """Clocks of a token's programs by the plain engine and as remembered, and the plain engine's seconds."""
    system = load_system("pim-gpt")
    graph = load_model(model, phase="decode", prompt=context, generate=1024 - context).phases[0].graph
    plan = MAPPER.plan(graph, system, MapperOptions())
    device, host = system.nodes["pim"].device, system.nodes["asic"].device
    assert isinstance(device, Pim)
    assert isinstance(host, Accelerator)
    assert host.vector_unit is not None
    pricer = Pricer(device)
    plain_engine = PimEngine(device, refresh="off")
    plain = remembered = 0
    spent = 0.0
    layer = [name for name in plan.kernels if name.startswith("layers.0.")]
    for name in layer:
        stages = recipe(graph.operator_by_name[name], plan.kernels[name], pricer.lowering, host.vector_unit)
        for stage in stages:
            if not isinstance(stage, MemoryStage):
                continue
            for share in stage.shares:
                remembered += pricer.work(share).cycles
                began = time.process_time()
                for chunk in pricer.chunks(share.write()):
                    plain += plain_engine.run(chunk, leap=False, settle=True).cycles
                spent += time.process_time() - began
    return plain, remembered, spent


def main() -> None:
    simulate("gpt2", "pim-gpt", prompt=1, generate=2, fidelity="cycle")
    for model in MODELS:
        began = time.process_time()
        result = simulate(model, "pim-gpt", prompt=1, generate=1023, fidelity="cycle")
        spent = time.process_time() - began
        print(f"{model}: 1024 tokens, {result.makespan_s:.4f} s simulated, {spent:.1f} s of CPU")
        for context in SAMPLE:
            plain, remembered, seconds = plain_against_remembered(model, context)
            verdict = "equal" if plain == remembered else "DIFFERENT"
            print(
                f"  layer 0 at {context} tokens: {plain} clocks plain, {remembered} remembered: {verdict}; "
                f"plain {seconds:.2f} s"
            )


if __name__ == "__main__":
    main()
