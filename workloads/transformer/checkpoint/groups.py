"""compressed-tensors: groups of modules by target, each with the format of its weights and inputs."""

from __future__ import annotations

from typing import Final

from workloads.transformer.checkpoint.scheme import (
    BLOCKS,
    MAX_GROUP,
    Scheme,
    element_type,
    kv_type,
    listed,
    named,
    scaled,
)  # fmt: skip
from workloads.transformer.fields import Fields
from workloads.transformer.formats import PLAIN, Format, FormatRule
from workloads.transformer.module_names import EMBEDDING, EXPERTS

__all__ = ["read_group", "read_groups"]

CLASSES: Final[dict[str, frozenset[str]]] = {
    "Linear": BLOCKS,
    "LinearBase": BLOCKS,
    "FusedMoE": frozenset((EXPERTS,)),
    "Embedding": frozenset((EMBEDDING,)),
}
"""What a target that names a class of modules covers. An output projection is quantised by name alone."""

NOT_OURS: Final = frozenset(("Conv1d", "Conv2d", "Conv3d", "Attention"))
"""Classes of towers, or without weights."""


def read_groups(q: Fields) -> Scheme:
    """All groups: those with names of modules as rules, those with a class for everything else."""
    groups = q.section("config_groups")
    if groups is None or not groups.values:
        if q.section("kv_cache_scheme") is not None or q.has("quant_algo"):
            return Scheme(kv=kv_type(q, "kv_cache_scheme"))
        q.problem("config_groups", "missing field config_groups; expected a group of layers with weights")
        return Scheme()
    _no_sparsity(q)
    rules: list[FormatRule] = []
    linear, covers = PLAIN, BLOCKS
    classes: list[tuple[Format, frozenset[str]]] = []
    for key in groups.values:
        group = groups.section(key)
        if group is None:
            continue
        fmt = read_group(group)
        targets = group.words("targets")
        for target in targets or ["Linear"]:
            if target in CLASSES:
                classes.append((fmt, CLASSES[target]))
            elif _is_class(target) and target not in NOT_OURS:
                group.problem(
                    "targets",
                    f"unknown class of modules {target!r}; known: {', '.join((*CLASSES, *sorted(NOT_OURS)))}",
                )
        names = [target for target in targets or [] if not _is_class(target)]
        if names:
            rules.append(FormatRule(named(group, "targets", names), fmt))
    if classes:
        linear, covers = classes[0]
        for fmt, further in classes[1:]:
            if fmt == linear:
                covers |= further
            else:
                groups.problem("", "two groups give different formats to one class of modules")
    return Scheme(linear, tuple(rules), listed(q, "ignore"), covers, kv_type(q, "kv_cache_scheme"))


def _is_class(target: str) -> bool:
    return target.isidentifier() and target[:1].isupper()


def _no_sparsity(q: Fields) -> None:
    sparsity = q.section("sparsity_config")
    if sparsity is not None and sparsity.values:
        sparse = sparsity.word("format", default="dense")
        if sparse != "dense":
            sparsity.problem(
                "format", f"found {sparse!r}; expected dense: compressed sparse weights are not modelled"
            )


def read_group(group: Fields) -> Format:
    """The format of a group: its weights' bits, type and strategy, and how its inputs are quantised."""
    weights = group.section("weights")
    if weights is None:
        group.problem("weights", "missing field weights; expected num_bits and type")
        return PLAIN
    bits = weights.integer("num_bits", default=8, most=16)
    kind = weights.word("type", default="int", known=("int", "float"))
    size = max(weights.integer("group_size", default=0, least=-1, most=MAX_GROUP), 0)
    strategy = weights.word(
        "strategy", default="group" if size else "tensor",
        known=("tensor", "channel", "group", "block", "tensor_group", "token"),
    )  # fmt: skip
    if kind == "float" and bits == 4 and not size:
        size = 16
    dtype = element_type(kind, bits, size)
    if dtype is None:
        weights.problem(
            "num_bits", f"found {bits} bits of type {kind}; expected 2 to 8 of int, 4, 6 or 8 of float"
        )
        return PLAIN
    if dtype == "":
        return PLAIN
    if dtype == "fp8" and weights.word("scale_dtype", default="") == "torch.uint8" and size == 32:
        dtype = "mxfp8"
    arithmetic, static = _inputs(group, dtype, kind)
    zero = 0 if weights.flag("symmetric", default=True) else bits
    if strategy == "block":
        rows, columns = weights.integers("block_structure", 2, least=1) or (128, 128)
    else:
        rows, columns = {"tensor": (0, 0), "channel": (1, 0)}.get(strategy, (1, size))
    scale = 32 if strategy == "block" else 8 if dtype == "fp4" else 16
    return scaled(dtype, scale, zero, rows, columns, arithmetic=arithmetic, static=static)


def _inputs(group: Fields, dtype: str, like: str) -> tuple[str, bool]:
    """Precision of the product where inputs are quantised too, and whether their scales are stored."""
    inputs = group.section("input_activations")
    if inputs is None:
        return "", False
    bits = inputs.integer("num_bits", default=16, most=16)
    kind = inputs.word("type", default=like, known=("int", "float"))
    size = max(inputs.integer("group_size", default=0, least=-1, most=MAX_GROUP), 0)
    arithmetic = element_type(kind, bits, size or (16 if dtype == "nvfp4" else 0))
    if arithmetic is None:
        inputs.problem("num_bits", f"found {bits} bits of type {kind}; expected 4, 8 or 16")
        return "", False
    if dtype == "mxfp8" and arithmetic == "fp8":
        arithmetic = "mxfp8"
    dynamic = inputs.values.get("dynamic", True)
    return arithmetic, bool(arithmetic) and dynamic is False and not arithmetic.startswith(("nv", "mx"))
