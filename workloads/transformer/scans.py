"""The operators of layers whose state is a few numbers per channel: Mamba, RG-LRU, short convolution, RWKV.

Each is projections around a scan (:mod:`workloads.operators.scan`) or a short convolution. States are kept in fp32 and
do not grow with the context.
"""

from __future__ import annotations

from workloads.graph import Role
from workloads.operators import Activation, Elementwise, Norm, Scan
from workloads.transformer.recurrent import STATE_DTYPE, write_convolution
from workloads.transformer.shape import FeedForward, GatedLru, SelectiveScan, ShortConvolution, TimeMix
from workloads.transformer.step import Step
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, GraphWriter, Linear, Moves

__all__ = [
    "token_mixed",
    "write_gated_lru",
    "write_selective_scan",
    "write_short_convolution",
    "write_time_mix",
    "write_token_mix",
]

SELECTIVE_FLOPS = 9.0
"""Per token and element of a state: step by decay, its exponential, times the state, step by input by value (2), add,
times the output vector and add (2); step's softplus is one of the features' own."""
LRU_FLOPS = 16.0
"""Per token and channel: two sigmoids (8), the decay (3), root of its complement (3), multiply-add (2)."""
WKV_FLOPS = 20.0
"""Per token and channel: two exponentials against the largest exponent so far for the output, two for the state, with
their sums and quotient."""
SCALED_SUMS = 3
"""RWKV-4 keeps a sum of values, a sum of weights and the largest exponent of both."""


def write_selective_scan(w: GraphWriter, step: Step, spec: SelectiveScan, hidden: int, source: str) -> str:
    """Mamba's mixer over ``source``; returns the output's name."""
    m, channels, heads = step.tokens, spec.channels, spec.heads
    module = f"model.layers.{w.layer}.mamba"
    bias = spec.projection_bias
    both = w.linear(
        "attention.in",
        source,
        Linear(
            m,
            2 * channels,
            hidden,
            module=f"{module}.in_proj",
            tp="column",
            bias=2 * channels if bias else 0,
        ),
    )
    convolved = write_convolution(w, step, both, channels, spec.kernel, spec.conv_bias)
    part = channels // heads
    steered = w.linear(
        "attention.x_proj",
        convolved,
        Linear(m, spec.rank + 2 * spec.state, part, module=f"{module}.x_proj", tp="row", batch=heads),
    )
    if spec.norms:
        width = spec.rank + 2 * spec.state
        normed = w.activation("attention.x_norm.out", m, width)
        norm = Norm(m=m, n=width, flops_per_element=NORM_FLOPS["rms"], norm="rms")
        w.emit("attention.x_norm", norm, (steered, w.weight("attention.x_norm.weight", width)), (normed,))
        steered = normed
    steps = w.linear(
        "attention.dt_proj",
        steered,
        Linear(m, part, spec.rank, module=f"{module}.dt_proj", tp="column", bias=channels, batch=heads),
    )
    scanned = _scan(w, step, spec, convolved, steps, steered, both)
    return w.linear(
        "attention.out",
        scanned,
        Linear(m, hidden, channels, module=f"{module}.out_proj", tp="row", bias=hidden if bias else 0),
    )


def _scan(
    w: GraphWriter, step: Step, spec: SelectiveScan, values: str, steps: str, steered: str, gate: str
) -> str:
    """The scan with the gate on its result, as the published kernel runs it."""
    m, channels = step.tokens, spec.channels
    out = w.activation("attention.scan.out", m, channels)
    weights = [
        w.weight("attention.scan.decay.weight", channels, spec.state),
        w.weight("attention.scan.skip.weight", channels),
    ]
    work = Scan(
        batch=step.batch, sequence=step.new, channels=channels, state=spec.state,
        flops_per_element=SELECTIVE_FLOPS, extra_flops=float(m * channels * (ACTIVATION_FLOPS["silu"] + 7)),
    )  # fmt: skip
    touched = {steered: 2 * m * spec.state * spec.heads, gate: m * channels}
    _emit_scan(w, step, "attention.scan", work, (values, steps, steered, gate, *weights), out, touched)
    return out


def write_gated_lru(w: GraphWriter, step: Step, spec: GatedLru, hidden: int, source: str) -> str:
    """Griffin's recurrent block over ``source``; returns the output's name."""
    m, width, block = step.tokens, spec.width, spec.width // spec.heads
    module = f"model.layers.{w.layer}.temporal_block"
    branches = w.linear(
        "attention.in",
        source,
        Linear(m, 2 * width, hidden, module=f"{module}.linear_x", tp="column", bias=2 * width),
    )
    convolved = write_convolution(w, step, branches, width, spec.kernel, bias=True, activated=False)
    gates = [
        w.linear(
            f"attention.{name}_gate",
            convolved,
            Linear(m, block, block, module="", tp="head", bias=width, batch=spec.heads, heads=spec.heads),
        )
        for name in ("input", "decay")
    ]
    scanned = w.activation("attention.scan.out", m, width)
    work = Scan(batch=step.batch, sequence=step.new, channels=width, flops_per_element=LRU_FLOPS)
    weight = w.weight("attention.scan.decay.weight", width)
    _emit_scan(w, step, "attention.scan", work, (convolved, *gates, weight), scanned, {})
    gated = w.activation("attention.gated.out", m, width)
    gating = Activation(m=m, n=width, flops_per_element=ACTIVATION_FLOPS["gelu"] + 1, gated=True)
    moves = Moves(touched={branches: m * width})
    w.emit("attention.gated", gating, (branches, scanned), (gated,), tp="split", moves=moves)
    return w.linear(
        "attention.out",
        gated,
        Linear(m, hidden, width, module=f"{module}.linear_out", tp="row", bias=hidden),
    )


def write_short_convolution(
    w: GraphWriter, step: Step, spec: ShortConvolution, hidden: int, source: str
) -> str:
    """One product for input and two gates, a convolution between them, and a product; returns the output's name."""
    m = step.tokens
    module = f"model.layers.{w.layer}.conv"
    three = w.linear(
        "attention.in",
        source,
        Linear(
            m,
            3 * hidden,
            hidden,
            module=f"{module}.in_proj",
            tp="column",
            bias=3 * hidden if spec.bias else 0,
        ),
    )
    gated = w.activation("attention.gated_in.out", m, hidden)
    gating = Elementwise(m=m, n=hidden, flops_per_element=1.0, function="multiply")
    moves = Moves(touched={three: 2 * m * hidden})
    w.emit("attention.gated_in", gating, (three,), (gated,), tp="split", moves=moves)
    convolved = write_convolution(w, step, gated, hidden, spec.kernel, spec.bias, activated=False)
    out = w.activation("attention.gated_out.out", m, hidden)
    moves = Moves(touched={three: m * hidden})
    w.emit("attention.gated_out", gating, (three, convolved), (out,), tp="split", moves=moves)
    return w.linear(
        "attention.out",
        out,
        Linear(m, hidden, hidden, module=f"{module}.out_proj", tp="row", bias=hidden if spec.bias else 0),
    )


def write_time_mix(w: GraphWriter, step: Step, spec: TimeMix, hidden: int, source: str) -> str:
    """RWKV-4's time mixing over ``source``; returns the output's name."""
    m, width = step.tokens, spec.width
    module = f"model.layers.{w.layer}.attention"
    made = {
        part: w.linear(
            f"attention.{part}",
            token_mixed(w, step, hidden, source, f"attention.{part}", last=part == "receptance"),
            Linear(m, width, hidden, module=f"{module}.{part}", tp="column"),
        )
        for part in ("key", "value", "receptance")
    }
    mixed = w.activation("attention.scan.out", m, width)
    work = Scan(
        batch=step.batch, sequence=step.new, channels=width, state=SCALED_SUMS,
        flops_per_element=WKV_FLOPS / SCALED_SUMS,
    )  # fmt: skip
    weights = (w.weight("attention.decay.weight", width), w.weight("attention.first.weight", width))
    _emit_scan(w, step, "attention.scan", work, (made["key"], made["value"], *weights), mixed, {})
    gated = w.activation("attention.gated.out", m, width)
    gating = Activation(m=m, n=width, flops_per_element=ACTIVATION_FLOPS["sigmoid"] + 1, gated=True)
    w.emit("attention.gated", gating, (made["receptance"], mixed), (gated,), tp="split")
    return w.linear("attention.out", gated, Linear(m, hidden, width, module=f"{module}.output", tp="row"))


def write_token_mix(w: GraphWriter, step: Step, spec: FeedForward, hidden: int, source: str) -> str:
    """RWKV's channel mixing: squared ReLU between two products, in RWKV-4 under a gate; returns the output's name."""
    m, intermediate = step.tokens, spec.intermediate
    module = f"model.layers.{w.layer}.feed_forward"
    key = token_mixed(w, step, hidden, source, "mlp.key", last=not spec.gated)
    up = w.linear("mlp.up", key, Linear(m, intermediate, hidden, module=f"{module}.key", tp="column"))
    squared = w.activation("mlp.act.out", m, intermediate)
    work = Activation(m=m, n=intermediate, flops_per_element=ACTIVATION_FLOPS["relu2"])
    w.emit("mlp.act", work, (up,), (squared,), tp="split")
    down = w.linear("mlp.down", squared, Linear(m, hidden, intermediate, module=f"{module}.value", tp="row"))
    if not spec.gated:
        return down
    receptance = token_mixed(w, step, hidden, source, "mlp.receptance", last=True)
    gate = w.linear(
        "mlp.gate", receptance, Linear(m, hidden, hidden, module=f"{module}.receptance", tp="replicated")
    )
    out = w.activation("mlp.gated.out", m, hidden)
    gating = Activation(m=m, n=hidden, flops_per_element=ACTIVATION_FLOPS["sigmoid"] + 1, gated=True)
    w.emit("mlp.gated", gating, (gate, down), (out,))
    return out


def token_mixed(w: GraphWriter, step: Step, hidden: int, source: str, name: str, *, last: bool) -> str:
    """A weighted mean of each token and the one before; the last token is kept for the next step, once per part."""
    m = step.tokens
    part = name.split(".")[0]
    state = w.cache(f"{part}.last_token", step.batch, hidden) if step.keeps_cache else ""
    out = w.activation(f"{name}.mixed.out", m, hidden)
    work = Elementwise(m=m, n=hidden, flops_per_element=3.0, function="mix")
    weight = w.weight(f"{name}.mix.weight", hidden)
    inputs = tuple(tensor for tensor in (source, weight, state) if tensor)
    w.emit(
        f"{name}.mixed", work, inputs, (out,), updates=(state,) if state and last else (),
        moves=Moves(touched={} if step.past else {state: 0}),
    )  # fmt: skip
    return out


def _emit_scan(
    w: GraphWriter,
    step: Step,
    name: str,
    work: Scan,
    sources: tuple[str, ...],
    out: str,
    touched: dict[str, int],
) -> None:
    state = ""
    if step.keeps_cache:
        shape = (step.batch, work.channels, work.state)
        state = w.tensor("attention.state", shape, STATE_DTYPE, Role.KV_CACHE)
    inputs = tuple(tensor for tensor in (*sources, state) if tensor)
    first = {} if step.past else {state: 0}
    w.emit(
        name, work, inputs, (out,), updates=(state,) if state else (), tp="split",
        moves=Moves(touched=touched | first),
    )  # fmt: skip
