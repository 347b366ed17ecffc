"""Offchip: where a model's bytes go on a memory-centric machine, what that costs, and which plan is best.

Everything the command line does is a function here, and gives the same answer: ``print(result)`` shows it, a
notebook shows it as tables, ``result.as_json()`` is what ``--json`` prints. Nothing heavy is imported until a
function is called.

What is there
    :func:`load_system`, :func:`load_model`: a machine, a workload, by name or from a file

Models on machines
    :func:`simulate`: time, energy, bytes over every wire, memory
    :func:`simulate_framework_step`: a training step as torchtitan, Megatron-LM, DeepSpeed, ... run it
    :func:`simulate_training_plan`: a training step of any layout from its plan, over one machine or many
    :func:`solve`, :func:`check`: the plan a mapper writes; what is wrong with a plan
    :func:`solve_offload`: what lives in which memory and moves when, for training and inference
    :func:`predict`: one predicted time per row of an operator table
    :func:`serve`: requests through a serving engine, step by step
    :func:`sweep`: a design space into a folder, resumable
    :func:`report`: one HTML page of a run or a sweep

Plans with proofs
    :func:`solve_alloc`: addresses of buffers
    :func:`solve_mapping`: loop nests on a spatial accelerator
    :func:`solve_fusion`: layers run depth first together on one
    :func:`solve_schedule`: operator order, addresses and replacement on a scratchpad
    :func:`solve_pipeline`: pipeline schedules of training: order, bubble, memory; the best one

Traces through one device
    :func:`trace_cache`, :func:`trace_cpu_cache`, :func:`trace_pages`, :func:`trace_dram`, :func:`trace_flash`,
    :func:`trace_pim`, :func:`trace_gpu`, :func:`trace_memory`, :func:`trace_product`

Stores of knowledge
    :func:`trace_search`, :func:`trace_bank`: queries against vectors; memories beside a model

Traces through a machine
    :func:`trace_gather`: an epoch of graph learning, its feature rows over PCIe, host memory and a drive

Reference data
    :func:`validate`: every row of a folder, expected and ours

Options are keywords with the names of the command line's, typed and checked: a wrong one raises
:class:`InputError` with one line for each problem. :class:`InfeasibleError` means that no plan exists, and
:class:`NoAnswerError` that none was found within the limit.

>>> import offchip
>>> result = offchip.simulate("llama-3-8b", "a100-80gb", prompt=512)
>>> result.summary()["bottleneck"]  # doctest: +ELLIPSIS
'...'
>>> offchip.simulate("llama-3-8b", "a100-80gb", batch="4")
Traceback (most recent call last):
    ...
hw_configs.problems.InputError: --batch: found '4' (str); expected int
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hw_configs.problems import InfeasibleError as InfeasibleError
    from hw_configs.problems import InputError as InputError
    from hw_configs.problems import NoAnswerError as NoAnswerError
    from hw_configs.problems import OffchipError as OffchipError
    from offchip.api import check as check
    from offchip.api import load_model as load_model
    from offchip.api import load_system as load_system
    from offchip.api import simulate as simulate
    from offchip.api import solve as solve
    from offchip.reference_rows import validate as validate
    from offchip.report_page import report as report
    from offchip.serving.serve import serve as serve
    from offchip.solving.alloc import solve_alloc as solve_alloc
    from offchip.solving.fusion import solve_fusion as solve_fusion
    from offchip.solving.mapping import solve_mapping as solve_mapping
    from offchip.solving.offload import solve_offload as solve_offload
    from offchip.solving.pipeline import solve_pipeline as solve_pipeline
    from offchip.solving.schedule import solve_schedule as solve_schedule
    from offchip.solving.training_step import simulate_framework_step as simulate_framework_step
    from offchip.solving.training_step import simulate_training_plan as simulate_training_plan
    from offchip.space_sweep import sweep as sweep
    from offchip.table_prediction import predict as predict
    from offchip.tracing.bank import trace_bank as trace_bank
    from offchip.tracing.cache import trace_cache as trace_cache
    from offchip.tracing.cpu_cache import trace_cpu_cache as trace_cpu_cache
    from offchip.tracing.dram import trace_dram as trace_dram
    from offchip.tracing.flash import trace_flash as trace_flash
    from offchip.tracing.gather import trace_gather as trace_gather
    from offchip.tracing.gpu import trace_gpu as trace_gpu
    from offchip.tracing.memory import trace_memory as trace_memory
    from offchip.tracing.pages import trace_pages as trace_pages
    from offchip.tracing.pim import trace_pim as trace_pim
    from offchip.tracing.product import trace_product as trace_product
    from offchip.tracing.search import trace_search as trace_search

__all__ = [
    "InfeasibleError",
    "InputError",
    "NoAnswerError",
    "OffchipError",
    "check",
    "load_model",
    "load_system",
    "predict",
    "report",
    "serve",
    "simulate",
    "simulate_framework_step",
    "simulate_training_plan",
    "solve",
    "solve_alloc",
    "solve_fusion",
    "solve_mapping",
    "solve_offload",
    "solve_pipeline",
    "solve_schedule",
    "sweep",
    "trace_bank",
    "trace_cache",
    "trace_cpu_cache",
    "trace_dram",
    "trace_flash",
    "trace_gather",
    "trace_gpu",
    "trace_memory",
    "trace_pages",
    "trace_pim",
    "trace_product",
    "trace_search",
    "validate",
]

_WHERE: Final = {
    "InfeasibleError": "hw_configs.problems",
    "InputError": "hw_configs.problems",
    "NoAnswerError": "hw_configs.problems",
    "OffchipError": "hw_configs.problems",
    "check": "offchip.api",
    "load_model": "offchip.api",
    "load_system": "offchip.api",
    "predict": "offchip.table_prediction",
    "report": "offchip.report_page",
    "serve": "offchip.serving.serve",
    "simulate": "offchip.api",
    "simulate_framework_step": "offchip.solving.training_step",
    "simulate_training_plan": "offchip.solving.training_step",
    "solve": "offchip.api",
    "solve_alloc": "offchip.solving.alloc",
    "solve_offload": "offchip.solving.offload",
    "solve_fusion": "offchip.solving.fusion",
    "solve_mapping": "offchip.solving.mapping",
    "solve_pipeline": "offchip.solving.pipeline",
    "solve_schedule": "offchip.solving.schedule",
    "sweep": "offchip.space_sweep",
    "trace_bank": "offchip.tracing.bank",
    "trace_cpu_cache": "offchip.tracing.cpu_cache",
    "trace_cache": "offchip.tracing.cache",
    "trace_dram": "offchip.tracing.dram",
    "trace_flash": "offchip.tracing.flash",
    "trace_pages": "offchip.tracing.pages",
    "trace_gather": "offchip.tracing.gather",
    "trace_gpu": "offchip.tracing.gpu",
    "trace_memory": "offchip.tracing.memory",
    "trace_pim": "offchip.tracing.pim",
    "trace_product": "offchip.tracing.product",
    "trace_search": "offchip.tracing.search",
    "validate": "offchip.reference_rows",
}


def __getattr__(name: str) -> Any:
    """Import a part of the interface when it is first used, so that ``import offchip`` stays instant."""
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'offchip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
