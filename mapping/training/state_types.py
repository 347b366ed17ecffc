"""Element types of model states as frameworks keep them: presets by framework that print themselves.

Each preset says in which type a framework holds weights, gradients, optimizer state and logits, how its loss is taken,
and what it has beside them. Per parameter of a 16-bit model:

* Megatron-LM: weight 2, FP32 main gradient 4, FP32 master 4, moments 8: 18 bytes; with its distributed optimizer
  6 + 12/d (``megatron/training/theoretical_memory_usage.py``, ``docs/api-guide/dist_optimizer.md``).
* DeepSpeed: weight 2, gradient 2, and FP32 gradient, master and moments, 16 bytes, divided from stage 1 on; gradients
  from stage 2, weights from stage 3 (arXiv:1910.02054; ``deepspeed/runtime/zero/stage_1_and_2.py``, ``stage3.py``).
* FSDP2 and torchtitan: FP32 parameter, gradient and moments, 16 bytes, all divided; a layer's 16-bit copy is gathered
  where it is needed (``torch.distributed.fsdp``, ``MixedPrecisionPolicy(param_dtype, reduce_dtype)``).
* ``torch.autocast`` over FP32 weights (Hugging Face Trainer with ``bf16=True``, nanoGPT): 16 bytes, and a 16-bit copy
  of each matrix from its forward to its backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

from hw_configs.problems import bad_input, nearest
from workloads.dtypes import dtype_bits
from workloads.step_types import StepTypes
from workloads.weight_methods import narrow_bytes

__all__ = [
    "FRAMEWORKS", "ParameterBytes", "StateTypes", "bytes_per_parameter", "framework_types", "with_fields",
]  # fmt: skip

Copies = Literal["resident", "gathered"]
Buffers = Literal["message", "step"]


@dataclass(frozen=True, slots=True)
class StateTypes:
    """How a framework keeps a model's states.

    ``step``: types and forms that the training graph itself has. ``copies``: whether the weights that products read are
    ``resident``, or ``gathered`` layer by layer from wider parameters, which then are the master copy. ``distributed``:
    the optimizer's state is divided over the data-parallel ranks whatever the ZeRO stage. ``bucket_elements``: of each
    of the two flat buffers in which gradients are reduced (0: none). ``messages``: how long buffers of a pipeline's
    messages live, each as its ``message`` or all for the whole ``step`` (:mod:`mapping.training.stage_messages`).
    """

    name: str
    step: StepTypes = field(default_factory=StepTypes)
    copies: Copies = "resident"
    distributed: bool = False
    bucket_elements: int = 0
    messages: Buffers = "message"

    def lines(self, dtype: str = "bf16") -> tuple[tuple[str, str], ...]:
        """What is kept and in how many bytes per parameter, for people."""
        own, step = bytes_per_parameter(self, dtype), self.step
        kinds = [
            ("weights", "" if self.copies == "resident" else "gathered a layer at a time", own.weights),
            ("gradients", step.gradients or step.weights or dtype, own.gradients),
            ("optimizer state", self._states(dtype), own.optimizer),
        ]
        shown = [
            (label, f"{held or step.weights or dtype}, {size:g} B a parameter") for label, held, size in kinds
        ]
        total = f"{own.total:g} B a parameter"
        if self.distributed:
            total = f"{own.weights + own.gradients:g} + {own.optimizer:g}/d B a parameter"
        logits = step.logits or dtype
        loss = f"{step.loss}, logits in {logits}" + (
            f", {step.loss_chunks} chunks" if step.loss == "chunked" else ""
        )
        shown += [
            ("all states", total),
            ("loss", loss),
            ("kept for the backward pass", f"by {step.saved} code"),
        ]
        if step.weights and dtype_bits(step.weights) > dtype_bits(dtype):
            shown.append(("weights of products", f"cast to {dtype} in each step"))
        if self.bucket_elements:
            shown.append(("flat buffers", f"2 of {self.bucket_elements:,} elements"))
        return tuple(shown)

    def _states(self, dtype: str) -> str:
        step = self.step
        held = step.weights or dtype
        parts = []
        if step.master != "none" and dtype_bits(held) < dtype_bits(step.master):
            parts.append(f"master {step.master}")
        parts.append(f"moments {step.moments or held}")
        if step.accumulation:
            parts.append(f"sums of gradients {step.accumulation}")
        return ", ".join(parts)

    @classmethod
    def from_json(cls, data: Any) -> StateTypes:
        """What :meth:`to_json` wrote; ``InputError`` names the field."""
        if not isinstance(data, dict) or not isinstance(data.get("step"), dict):
            raise bad_input("expected element types, with those of the step", path="types")
        for kind, own in ((cls, data), (StepTypes, data["step"])):
            known = {item.name: item.type for item in fields(kind)}
            for key, value in own.items():
                if key not in known:
                    raise bad_input(
                        f"unknown key {key!r:.40}", path="types", suggestion=nearest(str(key), known)
                    )
                wanted = {"int": int, "bool": bool}.get(str(known[key]), str)
                if key != "step" and type(value) is not wanted:
                    raise bad_input(f"found {value!r:.40}; expected {wanted.__name__}", path=f"types.{key}")
        return cls(**{**data, "step": StepTypes(**data["step"])})

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "step"}
        return {**own, "step": {item.name: getattr(self.step, item.name) for item in fields(self.step)}}


@dataclass(frozen=True, slots=True)
class ParameterBytes:
    """Bytes per trained parameter."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer


def bytes_per_parameter(types: StateTypes, dtype: str) -> ParameterBytes:
    """Bytes of each state of one parameter of a model in ``dtype``."""
    step = types.step
    held = step.weights or dtype

    def size(kind: str) -> float:
        # An 8-bit state carries the scale of its block.
        return narrow_bytes(2**20, kind) / 2**20 if dtype_bits(kind) <= 8 else dtype_bits(kind) / 8

    optimizer = 2 * size(step.moments or held)
    if step.master != "none" and dtype_bits(held) < dtype_bits(step.master):
        optimizer += size(step.master)
    if step.accumulation:
        optimizer += size(step.accumulation)
    weights = 0.0 if types.copies == "gathered" else size(held)
    return ParameterBytes(weights, size(step.gradients or held), optimizer)


_OWN: Final = StepTypes(master="none", moments="")
"""Everything in the model's own type, as ``model.to(dtype)`` and a plain optimizer leave it."""
_MEGATRON: Final = StepTypes(gradients="fp32", loss="in-place", logits="fp32")
_SHARDED: Final = StepTypes(gradients="fp32")
_AUTOCAST: Final = StepTypes(weights="fp32", master="none")
DEEPSPEED_BUCKET: Final = 500_000_000
"""``reduce_bucket_size`` of DeepSpeed's configuration, its default."""

FRAMEWORKS: Final[Mapping[str, StateTypes]] = {
    one.name: one
    for one in (
        StateTypes("plain"),
        StateTypes("eager", replace(_OWN, saved="eager", loss="eager", logits="fp32")),
        StateTypes("compile", _OWN),
        StateTypes("megatron", _MEGATRON),
        *(
            StateTypes(name, _MEGATRON)
            for name in ("megatron-2021", "megatron-2022", "megatron-fp8", "te-delayed-fp8", "te-mxfp8", "te-nvfp4")
        ),
        *(
            StateTypes(name, replace(_SHARDED, loss="eager", logits="fp32"), "gathered", messages="step")
            for name in (
                "torchtitan", "torchtitan-eager", "torchtitan-async", "torchtitan-float8", "torchtitan-float8-async",
                "fsdp2",
            )
        ),
        StateTypes("llm-foundry", _SHARDED, "gathered"),
        StateTypes("llm-foundry-fp8", _SHARDED, "gathered"),
        StateTypes(
            "deepspeed", StepTypes(accumulation="fp32", loss="eager", logits="fp32"), bucket_elements=DEEPSPEED_BUCKET
        ),
        StateTypes("hf-trainer", replace(_AUTOCAST, saved="eager-flash", loss="eager", logits="fp32")),
        StateTypes("hf-trainer-bf16", replace(_OWN, saved="eager-flash", loss="eager", logits="fp32")),
        StateTypes("nanogpt", _AUTOCAST),
    )
}  # fmt: skip
"""By framework. ``torchtitan`` compiles its blocks and takes the loss in eager code (docs/performance.md of its
repository), ``nanogpt`` compiles the loss too, ``llm-foundry`` has one kernel for it; ``hf-trainer`` runs eager code
around one attention kernel under autocast, ``hf-trainer-bf16`` the same with everything in BF16."""


def framework_types(name: str) -> StateTypes:
    """A framework's types; an unknown name raises ``InputError`` with the nearest known one."""
    if name not in FRAMEWORKS:
        message = f"unknown framework {name!r}; known: {', '.join(FRAMEWORKS)}"
        raise bad_input(message, path="framework", suggestion=nearest(name, list(FRAMEWORKS)))
    return FRAMEWORKS[name]


def with_fields(types: StateTypes, changes: Mapping[str, Any]) -> StateTypes:
    """The types with some fields changed, by name; None leaves a field as it is."""
    given = {name: value for name, value in changes.items() if value is not None}
    of_step = {item.name for item in fields(StepTypes)}
    step = replace(types.step, **{name: value for name, value in given.items() if name in of_step})
    return replace(types, step=step, **{name: value for name, value in given.items() if name not in of_step})
