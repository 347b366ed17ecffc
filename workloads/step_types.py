"""In which element types a training step's states lie and in which form its loss is taken.

One value for each choice that frameworks make differently. Empty types mean the model's own: what the activations have.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal, get_args

from hw_configs.problems import InputError, Problem, nearest
from workloads.dtypes import BITS

__all__ = ["CAST", "LOSS_FORMS", "PLAIN_TYPES", "SAVED_FORMS", "LossForm", "SavedForm", "StepTypes"]

LossForm = Literal["fused", "eager", "in-place", "chunked", "cut"]
SavedForm = Literal["fused", "eager", "eager-flash"]
LOSS_FORMS: Final[tuple[LossForm, ...]] = get_args(LossForm)
SAVED_FORMS: Final[tuple[SavedForm, ...]] = get_args(SavedForm)

CAST: Final = "cast"
"""How the products find weights that are held wider: as a copy cast once per step and kept for the backward pass
(``torch.autocast``)."""


@dataclass(frozen=True, slots=True)
class StepTypes:
    """Element types and forms of one training step.

    ``weights`` are those that the optimizer updates where the products read a narrower copy, cast in the forward pass.
    ``gradients``: of weights. ``master``: a copy of narrower weights that the optimizer keeps; "none" for no copy.
    ``moments``: of the optimizer; ``int8`` stands for blocks of 256 with an FP32 scale (Dettmers et al.,
    arXiv:2110.02861), tensors below 4096 elements stay FP32. ``accumulation``: a buffer beside the gradients into which
    micro-batches add.

    ``logits`` is the type in which the loss works. ``loss``: ``fused`` is one kernel each way over the logits as they
    are; ``eager`` casts, takes a log-softmax and picks (``torch.nn.functional.cross_entropy``), with a tensor for each;
    ``in-place`` casts once and turns that copy into the probabilities and these into the gradient (Megatron-LM);
    ``chunked`` takes head and loss together, ``loss_chunks`` pieces of the tokens one after another, gradients at once
    (Liger); ``cut`` never writes logits (Cut Cross-Entropy, arXiv:2411.09009).

    ``saved``: what the forward pass leaves to the backward pass: what ``fused`` kernels need, or what ``eager`` code
    keeps (:mod:`workloads.saved_activations`), ``eager-flash`` with one kernel for attention. ``softmax``: type of
    attention's probabilities in eager code; empty: as the family's code has it.
    """

    weights: str = ""
    gradients: str = ""
    accumulation: str = ""
    master: str = "fp32"
    moments: str = "fp32"
    logits: str = ""
    loss: LossForm = "fused"
    loss_chunks: int = 8
    saved: SavedForm = "fused"
    softmax: str = ""

    @property
    def eager(self) -> bool:
        """Whether the operators are those of eager code."""
        return self.saved != "fused"

    def __post_init__(self) -> None:
        problems = []
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("loss", "saved", "loss_chunks") or value == "":
                continue
            known = [*BITS, "none"] if item.name == "master" else list(BITS)
            if value not in known:
                message = f"found {value!r}; expected an element type such as fp32 or bf16"
                problems.append(Problem(message, path=item.name, suggestion=nearest(value, known)))
        for name, forms in (("loss", LOSS_FORMS), ("saved", SAVED_FORMS)):
            value = getattr(self, name)
            if value not in forms:
                message = f"found {value!r}; expected one of {', '.join(forms)}"
                problems.append(Problem(message, path=name, suggestion=nearest(value, list(forms))))
        if self.loss_chunks < 1:
            problems.append(Problem(f"found {self.loss_chunks}; expected 1 or more", path="loss_chunks"))
        if problems:
            raise InputError(problems)


PLAIN_TYPES: Final = StepTypes()
"""Everything in the model's own type, FP32 moments and master weights, one kernel for the loss."""
