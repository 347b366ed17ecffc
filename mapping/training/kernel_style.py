"""How a training framework runs a step on a device: which kernels, how far fused, with which copies and casts beside.

A style is data. :mod:`mapping.training.styled_step` writes it into a rank's graph as operators that move bytes, so that
whoever prices operators sees it; times that are no operator's (the host's, exposed communication) are of
:mod:`mapping.training.step_time`. Element types of what is stored belong to the preset's state types, not to its style.

Bytes of unfused forms are counted from the frameworks' public code: each PyTorch kernel reads and writes its operands
once. What no code says and was inferred from measured steps says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from hw_configs.problems import bad_input, nearest

__all__ = ["PLAIN", "STYLES", "KernelStyle", "style_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelStyle:
    """Kernels of one framework.

    ``attention`` names the library of attention, "" for the device's own and "unfused" for products with a softmax
    between. ``products``: the generation of the library of 16-bit products, "" for today's. ``skips_mask``: whether
    attention leaves out what the causal mask hides. ``pointwise``: how norms, activations, rotary embeddings and sums
    run. ``recipe``: how linear layers compute below 16 bits. ``loss``: "upcast" makes fp32 logits and a softmax of
    them, "fused" reads logits twice and writes gradients. ``optimizer``: passes over its operands. ``reduce_bytes``:
    bytes of a gradient on the wires and where micro-batches add up. ``accumulates``: what adds them, "" nothing.
    ``sharding``: whose copies stand beside sharded collectives. ``tensor_hidden``: share of tensor-parallel
    collectives, but for one chunk of as many as ranks, that passes beside products. ``attention_copies``: bytes per
    element of attention's output that moving tokens in and out of its form costs. ``weights_kept``: whether weights
    stay narrow between micro-batches and are gathered so. ``balanced_ring``: whether context parallelism deals out
    the causal mask evenly. ``ring_bytes``: bytes per element of the output that merging one block of the ring costs.
    ``dropout``: whether activations are dropped. ``host_kernel_us``: what the host takes for a kernel, ahead of the
    device (assumption, of the order that profiles of PyTorch show).
    """

    name: str
    about: str
    attention: str = ""
    products: Literal["", "2023"] = ""
    skips_mask: bool = True
    pointwise: Literal["ideal", "eager", "compiled", "megatron"] = "ideal"
    recipe: Literal["", "delayed", "current", "tensorwise", "mxfp8", "nvfp4"] = ""
    loss: Literal["ideal", "upcast", "fused"] = "ideal"
    optimizer: Literal["ideal", "fused", "foreach", "loop"] = "ideal"
    clips: bool = False
    reduce_bytes: int = 0
    accumulates: Literal["", "product", "add"] = ""
    sharding: Literal["", "flat", "tensors", "buckets"] = ""
    tensor_hidden: float = 0.0
    attention_copies: float = 0.0
    weights_kept: bool = False
    balanced_ring: bool = True
    ring_bytes: float = 0.0
    dropout: bool = False
    host_kernel_us: float = 0.0

    @property
    def ideal(self) -> bool:
        """Whether nothing is added: the graph's operators, each once over its operands."""
        return self.name == "plain"

    @property
    def narrow(self) -> str:
        """The element type of linear layers under the recipe; "" without one."""
        return {"": "", "mxfp8": "mxfp8", "nvfp4": "nvfp4"}.get(self.recipe, "fp8")


PLAIN: Final = KernelStyle(name="plain", about="each operator of the graph once, nothing beside")

_EAGER: Final = {
    "attention": "fa2", "pointwise": "eager", "loss": "upcast", "optimizer": "foreach", "clips": True,
    "accumulates": "add", "host_kernel_us": 6.0, "ring_bytes": 40.0,
}  # fmt: skip
_COMPILED: Final = {
    **_EAGER,
    "pointwise": "compiled",
    "loss": "fused",
    "optimizer": "fused",
    "host_kernel_us": 3.0,
}
_TITAN: Final = {
    **_COMPILED, "sharding": "tensors", "reduce_bytes": 4, "balanced_ring": False,
}  # fmt: skip
_MEGATRON: Final = {
    "attention": "cudnn", "pointwise": "megatron", "loss": "fused", "optimizer": "fused", "clips": True,
    "accumulates": "product", "sharding": "buckets", "reduce_bytes": 2, "host_kernel_us": 4.0, "ring_bytes": 12.0,
    "weights_kept": True,
}  # fmt: skip
_MEGATRON_2021: Final = {
    **_MEGATRON, "attention": "unfused", "dropout": True, "sharding": "", "products": "2023", "reduce_bytes": 4,
}  # fmt: skip
_FOUNDRY: Final = {
    **_EAGER, "sharding": "flat", "reduce_bytes": 4, "skips_mask": False, "optimizer": "loop",
    "attention_copies": 16.0, "products": "2023",
}  # fmt: skip

STYLES: Final[dict[str, KernelStyle]] = {
    style.name: style
    for style in (
        PLAIN,
        KernelStyle(name="eager", about="PyTorch operator by operator, FlashAttention-2, foreach AdamW", **_EAGER),  # type: ignore[arg-type]
        KernelStyle(name="compile", about="PyTorch with torch.compile, FlashAttention-2, fused AdamW", **_COMPILED),  # type: ignore[arg-type]
        KernelStyle(
            name="megatron-2021",
            about="Megatron-LM of arXiv:2104.04473: products and a fused softmax for attention, dropout, fp16",
            **_MEGATRON_2021,  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="megatron-2022",
            about="the same of arXiv:2205.05198",
            **_MEGATRON_2021,  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="megatron",
            about="Megatron Core with TransformerEngine in bf16, cuDNN attention, overlapped tensor parallelism",
            **{**_MEGATRON, "tensor_hidden": 1.0},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="megatron-fp8",
            about="the same, linear layers in fp8 with a scale per tensor, found anew (current scaling)",
            **{**_MEGATRON, "tensor_hidden": 1.0, "recipe": "current"},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="te-delayed-fp8",
            about="Megatron Core with TransformerEngine of 2024: fp8 with delayed scaling, FlashAttention-2",
            **{**_MEGATRON, "attention": "fa2", "tensor_hidden": 1.0, "recipe": "delayed"},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="te-mxfp8",
            about="the same, a scale for every 32 elements",
            **{**_MEGATRON, "tensor_hidden": 1.0, "recipe": "mxfp8"},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="te-nvfp4",
            about="the same, four bits with a scale for every 16 elements",
            **{**_MEGATRON, "tensor_hidden": 1.0, "recipe": "nvfp4"},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="torchtitan-eager",
            about="torchtitan without torch.compile: FSDP2, FlashAttention-2; its ring is uneven by its measured steps",
            **{**_TITAN, "pointwise": "eager", "loss": "upcast", "host_kernel_us": 6.0},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="torchtitan", about="torchtitan with torch.compile: FSDP2, FlashAttention-2, fused AdamW", **_TITAN  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="torchtitan-async",
            about="the same with asynchronous tensor parallelism, whose communication shows in part",
            **{**_TITAN, "tensor_hidden": 0.4},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="torchtitan-float8", about="the same as torchtitan with torchao's float8, a scale per tensor",
            **{**_TITAN, "recipe": "tensorwise"},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="torchtitan-float8-async", about="the same with asynchronous tensor parallelism",
            **{**_TITAN, "recipe": "tensorwise", "tensor_hidden": 0.4},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="llm-foundry",
            about="llm-foundry on Composer: FSDP, FlashAttention-2, looped AdamW; by its measured steps attention "
            "computes what the mask hides",
            **_FOUNDRY,  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="llm-foundry-fp8", about="the same with TransformerEngine's linear layers in fp8, delayed scaling",
            **{**_FOUNDRY, "recipe": "delayed"},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="deepspeed", about="DeepSpeed's ZeRO under eager PyTorch, FlashAttention-2, fused Adam",
            **{**_EAGER, "sharding": "flat", "reduce_bytes": 2, "optimizer": "fused"},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="hf-trainer", about="Hugging Face Trainer: eager PyTorch under autocast, FSDP, foreach AdamW",
            **{**_EAGER, "sharding": "flat", "reduce_bytes": 4},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="hf-trainer-bf16", about="the same with everything in BF16",
            **{**_EAGER, "sharding": "flat", "reduce_bytes": 2},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="fsdp2", about="eager PyTorch under FSDP2, FlashAttention-2, fused AdamW",
            **{**_TITAN, "pointwise": "eager", "loss": "upcast", "host_kernel_us": 6.0, "balanced_ring": True},  # type: ignore[arg-type]
        ),
        KernelStyle(
            name="nanogpt", about="one compiled model under data parallelism: FlashAttention-2, fused AdamW",
            **{**_COMPILED, "reduce_bytes": 2, "clips": False, "loss": "upcast"},  # type: ignore[arg-type]
        ),
    )
}  # fmt: skip
"""Styles by the name of a framework's preset."""


def style_of(framework: str) -> KernelStyle:
    """The style of a framework; ``InputError`` for an unknown name."""
    style = STYLES.get(framework)
    if style is None:
        known = ", ".join(STYLES)
        raise bad_input(
            f"unknown framework {framework!r}; known: {known}",
            path="framework",
            suggestion=nearest(framework, tuple(STYLES)),
        )
    return style
