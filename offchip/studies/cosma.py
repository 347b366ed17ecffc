"""COSMA: operator order, addresses and replacement solved together, against schemes that decide them in turn.

COSMA (Li, Gupta, Malik, arXiv:2311.18246) formulates the three decisions as one integer programme and counts the
traffic over a scratchpad's edge that is not compulsory. Offchip solves the same problem by decomposition, with a
proof, on the networks that the paper names, at its three budgets, and runs the schemes it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from mapping.scheduling import BASELINES, problem_from_graph, solve
from mapping.scheduling.baselines import order_named
from mapping.scheduling.budgets import Budgets, budgets
from mapping.scheduling.problem import ScheduleProblem, Weights
from mapping.scheduling.replacement import replace_in_order
from mapping.scheduling.solving import Method
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, apart, compare
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["HUMAN_DESIGNED", "SEARCHED", "STUDY", "Row", "network_rows"]

_IMAGE: Final = {"height": 224, "width": 224}
HUMAN_DESIGNED: Final[dict[str, dict[str, int]]] = {
    "resnet-50": _IMAGE,
    "densenet-121": _IMAGE,
    "resnext-50": _IMAGE,
    "r2plus1d-18": {"frames": 16, **_IMAGE},
    "s3d": {"frames": 16, **_IMAGE},
    "fcn-resnet50": _IMAGE,
    "lraspp-mobilenet-v3": _IMAGE,
    "deeplab-v3": _IMAGE,
    "transformer-base": {},
    "vit-b-16": {},
}
"""The ten networks of the paper's list, with the sides of its inputs."""
SEARCHED: Final = ("darts-v2", "nasnet-a-large", "pnasnet-5-large", "amoebanet-d")
TOKENS: Final = 512
PLANNED: Final = ("given/belady", "given/greedy-ilp", "min-peak/belady", "min-peak/greedy-ilp")
"""Order and replacement of the paper's four schemes; addresses are found with all stays known."""
IN_TURN: Final = tuple(f"{name}, in turn" for name in PLANNED)
"""The same with each tensor placed best fit when it comes, and dropped or moved where the free bytes are scattered."""
ARENA: Final = "static-arena"
SCHEMES: Final = (*IN_TURN, *PLANNED, ARENA)
_LIMIT_S: Final = 120.0
_ABSTRACT = "arXiv:2311.18246, abstract"
_THIRD = "a public re-implementation that quotes the paper (gkeramidasCSD-Group/Scale-Sim-SPM, cosma/docs)"


@dataclass(frozen=True, slots=True)
class Row:
    """One network at one budget: the proven cost and bound, and the cost of every scheme; bytes."""

    network: str
    weights: Weights
    budget: str
    scratchpad_bytes: int
    operators: int
    status: str
    cost_bytes: int
    bound_bytes: int
    schemes: tuple[tuple[str, int], ...]


def network_rows(
    name: str, dims: dict[str, int], weights: Weights, at: Sequence[str], method: Method = "auto"
) -> tuple[Budgets, list[Row]]:
    """The budgets of a network in 8 bits, and its rows at those asked for (M_R, M_H, M_P) by a method."""
    options = WorkloadOptions(dtype="int8", prompt=TOKENS, dims=dims)
    graph = load_workload(name, options).phases[0].graph
    sizes = budgets(graph, weights, None)
    problem = problem_from_graph(graph, weights)
    chosen = {"M_R": sizes.required_bytes, "M_H": sizes.half_bytes, "M_P": sizes.peak_bytes}
    return sizes, [_row(name, problem, weights, label, chosen[label], method) for label in at]


def _row(
    name: str, problem: ScheduleProblem, weights: Weights, label: str, capacity: int, method: Method
) -> Row:
    result = solve(problem, capacity, method=method, time_limit_s=_LIMIT_S)
    schemes = [(key, BASELINES[key](problem, capacity).cost_bytes) for key in (*PLANNED, ARENA)]
    for planned, key in zip(PLANNED, IN_TURN, strict=True):
        order, _, policy = planned.partition("/")
        stays, _ = replace_in_order(problem, order_named(problem, order), capacity, policy)
        schemes.append((key, stays.cost(problem)[0]))
    schemes.sort(key=lambda entry: SCHEMES.index(entry[0]))
    cost = result.cost_bytes
    if cost is None or any(bytes_ is None for _, bytes_ in schemes):
        raise RuntimeError(f"{name} at {label}: no schedule at {capacity} bytes")
    return Row(
        name, weights, label, capacity, len(problem.operators), result.status, cost, result.bound_bytes,
        tuple((key, bytes_ or 0) for key, bytes_ in schemes),
    )  # fmt: skip


def _mean(rows: Sequence[Row], schemes: Sequence[str]) -> float | None:
    """Mean saving over networks and schemes that move anything, in percent."""
    found = [
        1 - row.cost_bytes / bytes_
        for row in rows
        for key, bytes_ in row.schemes
        if key in schemes and bytes_ > 0
    ]
    return 100 * fmean(found) if found else None


_METHOD: Final = (
    "Each network in 8 bits, batch 1, batch norm and activation folded into the convolution before them. The traffic "
    "of a schedule is its spills and retrieves; it is solved to proven optimality, and the same problem is given to "
    "the schemes: the network's own order or the order of least peak, each with Belady's or a greedy integer "
    "programme's replacement. A saving is taken per scheme and network on which the optimum moves anything, then "
    "averaged."
)
_NO_BASELINE: Final = (
    "Not comparable: the saving is against schemes that Offchip wrote itself after their names. Their way of placing "
    "tensors in turn decides the figure, and the paper does not give it."
)
_OPEN: Final = (
    "The paper's numbers of operators and tensors, its absolute scratchpad sizes and its numbers per network are not "
    "public (bar charts only), nor are the granularity of an operator, the treatment of folded norms, the sequence "
    "length of the Transformer (512 here), how its schemes place tensors beyond the name of their allocator, and "
    "whether weights count."
)
_APART: Final = (
    "The paper divides these networks and fixes orders by heuristics. Here they are divided where least is live, and "
    "the bound of the whole says how good the parts are; the table gives the status. What the paper leaves open is "
    "told with the claims above."
)
_FAMILIES: Final = (
    (
        "turn", "schemes that place in turn", IN_TURN,
        "These schemes place each tensor best fit when it comes, and drop or move others where the free bytes lie "
        "scattered: the three decisions one after another, as the paper's schemes take them.",
    ),
    (
        "planned", "schemes that place with foresight", PLANNED,
        "These schemes replace by bytes and then search addresses for all stays together, with Offchip's own "
        "allocator; where that succeeds they lose nothing to scattered bytes, which the paper's are not said to do.",
    ),
)  # fmt: skip


def _what_drives(rows: list[Row], schemes: Sequence[str]) -> str:
    """Where a mean saving comes from, in words and figures."""
    free = [row for row in rows if row.cost_bytes == 0]
    still = [row for row in free if not any(bytes_ for key, bytes_ in row.schemes if key in schemes)]
    mean, best = _mean([row for row in rows if row.cost_bytes > 0], schemes), _mean_against_best(rows)
    words = (
        f"The mean is over the {len(rows) - len(free)} networks where the solution moves something. On {len(free)} of "
        f"the {len(rows)} it moves nothing; on {len(still)} of them the schemes move nothing either."
    )
    everything = _mean(rows, schemes)
    if mean is not None and everything is not None:
        words += (
            f" With those on which a scheme alone moves something, at 100 % each, the mean would be "
            f"{everything:.0f} % and not {mean:.0f} %."
        )
    if best is not None:
        words += (
            f" Against the cheapest of all schemes on each network, where that moves anything: {best:.0f} %."
        )
    return words


def _mean_against_best(rows: Sequence[Row]) -> float | None:
    """Mean saving against the cheapest scheme of each network, over networks where that moves anything."""
    cheapest = [(row.cost_bytes, min(bytes_ for _, bytes_ in row.schemes)) for row in rows]
    found = [1 - cost / least for cost, least in cheapest if least > 0]
    return 100 * fmean(found) if found else None


def _claims(
    human: list[Row], searched: list[Row], sizes: dict[tuple[str, str], Budgets]
) -> list[ClaimResult]:
    def at(label: str, weights: str, rows: list[Row] = human) -> list[Row]:
        return [row for row in rows if row.budget == label and row.weights == weights]

    results = []
    groups = (
        ("human", "the ten human-designed networks", human, 84.0),
        ("searched", "the searched networks", searched, 85.0),
    )
    for group, nets, rows_of, published in groups:
        for identity, family, schemes, about in _FAMILIES:
            for weights, words in (("resident", "activations and weights"), ("stream", "activations alone")):
                claim = Claim(
                    f"{group}-{identity}-{weights}", f"mean saving at M_R over {nets}, {words}, against {family}",
                    published, "%", _ABSTRACT, "published", "mechanism",
                )  # fmt: skip
                rows = at("M_R", weights, rows_of)
                differences = f"{about} {_what_drives(rows, schemes)} {_OPEN if group == 'human' else _APART}"
                # On networks where the best schedule moves nothing, a scheme's loss is all there is to save: 100 %,
                # however little it moved.
                moving = [row for row in rows if row.cost_bytes > 0]
                if identity == "turn":
                    results.append(
                        apart(claim, _mean(moving, schemes), _METHOD, f"{_NO_BASELINE} {differences}")
                    )
                else:
                    results.append(compare(claim, _mean(moving, schemes), _METHOD, differences))
    most = max(row.cost_bytes for row in (*human, *searched) if row.budget == "M_P")
    claim = Claim(
        "zero-at-peak",
        "traffic left at M_P, largest of all networks",
        0.0,
        "B",
        _THIRD,
        "second-hand",
        "mechanism",
    )
    results.append(compare(claim, float(most), _METHOD))
    resnet = sizes["resnet-50", "stream"]
    for identity, statement, ours in (
        ("resnet-required", "ResNet-50 in 8 bits, M_R, activations", resnet.required_bytes),
        ("resnet-peak", "ResNet-50 in 8 bits, M_P, activations", resnet.peak_bytes),
    ):
        claim = Claim(identity, statement, 2352.0 * 1024, "B", _THIRD, "second-hand", "counting")
        results.append(
            compare(claim, float(ours), "Counted on the graph; the least peak is proven by search.")
        )
    row = next(r for r in at("M_R", "resident") if r.network == "resnet-50")
    claim = Claim(
        "resnet-cost",
        "ResNet-50 in 8 bits, traffic at M_R with weights",
        602112.0,
        "B",
        _THIRD,
        "second-hand",
        "mechanism",
    )
    results.append(compare(claim, float(row.cost_bytes), _METHOD))
    dense = sizes["densenet-121", "stream"]
    differ = (
        "The re-implementation's operators differ: its sizes are those of another cut of the dense layers."
    )
    for identity, statement, published, ours in (
        ("densenet-required", "DenseNet-121 in 8 bits, M_R, activations", 1596.25, dense.required_bytes),
        ("densenet-peak", "DenseNet-121 in 8 bits, M_P, activations", 2058.0, dense.peak_bytes),
    ):
        claim = Claim(identity, statement, published * 1024, "B", _THIRD, "second-hand", "counting")
        results.append(compare(claim, float(ours), "Counted on the graph.", differ))
    claim = Claim(
        "seconds",
        "mean time to solve a human-designed network",
        0.296,
        "s",
        _THIRD,
        "second-hand",
        "mechanism",
    )
    clock = "A page that is the same on every machine holds no times; `python benchmarks/scheduling.py` prints them."
    results.append(compare(claim, None, clock, "Gurobi on an Apple M1 Pro there; no commercial solver here."))
    return results


def _budget_table(sizes: dict[tuple[str, str], Budgets]) -> StudyTable:
    rows = [
        (name, str(size.operators), f"{size.required_bytes:,}", f"{size.half_bytes:,}", f"{size.peak_bytes:,}",
         size.bounding_operator)
        for (name, weights), size in sizes.items()
        if weights == "resident"
    ]  # fmt: skip
    columns = ("network", "operators", "M_R", "M_H", "M_P", "largest operator")
    return StudyTable("Budgets, activations and weights, bytes", columns, tuple(rows))


def _traffic_table(title: str, rows: Sequence[Row]) -> StudyTable:
    names = [key for key, _ in rows[0].schemes]
    body = [
        (row.network, row.budget, f"{row.scratchpad_bytes:,}", f"{row.cost_bytes:,} ({row.status})",
         *(f"{bytes_:,}" for _, bytes_ in row.schemes))
        for row in rows
    ]  # fmt: skip
    return StudyTable(title, ("network", "budget", "scratchpad", "Offchip", *names), tuple(body))


def _mean_table(human: list[Row], searched: list[Row]) -> StudyTable:
    body = []
    for label, group in (("human-designed", human), ("searched", searched)):
        for weights, words in (("stream", "activations"), ("resident", "activations and weights")):
            for budget in ("M_R", "M_H", "M_P"):
                rows = [row for row in group if (row.weights, row.budget) == (weights, budget)]
                rows = [row for row in rows if row.cost_bytes > 0]
                if rows:
                    means = [_mean(rows, (scheme,)) for scheme in SCHEMES]
                    means.append(_mean_against_best(rows))
                    cells = ["-" if mean is None else f"{mean:.1f} %" for mean in means]
                    body.append((label, words, budget, *cells))
    columns = ("networks", "what counts", "budget", *SCHEMES, "best of them")
    title = "Mean saving against each scheme, on networks where the optimum moves something"
    return StudyTable(title, columns, tuple(body))


def _run() -> Outcome:
    return _outcome(*_collected())


def _collected() -> tuple[dict[tuple[str, str], Budgets], list[Row], list[Row]]:
    """Budgets by network and treatment of weights, and the rows of human-designed and searched networks."""
    sizes: dict[tuple[str, str], Budgets] = {}
    human: list[Row] = []
    searched: list[Row] = []
    kinds: tuple[Weights, ...] = ("stream", "resident")
    for weights in kinds:
        for name, dims in HUMAN_DESIGNED.items():
            sizes[name, weights], rows = network_rows(name, dims, weights, ("M_R", "M_H", "M_P"))
            human += rows
        for name in SEARCHED:
            sizes[name, weights], rows = network_rows(name, {}, weights, ("M_R", "M_P"), "divide")
            searched += rows
    return sizes, human, searched


def _outcome(sizes: dict[tuple[str, str], Budgets], human: list[Row], searched: list[Row]) -> Outcome:
    tables = [_mean_table(human, searched), _budget_table(sizes)]
    for weights, words in (("stream", "activations"), ("resident", "activations and weights")):
        chosen = [row for row in (*human, *searched) if row.weights == weights and row.budget != "M_P"]
        tables.append(_traffic_table(f"Traffic that is not compulsory, {words}, bytes", chosen))
    return Outcome(_claims(human, searched, sizes), tables)


STUDY: Final = Study(
    "cosma",
    "COSMA: order, addresses and replacement on a scratchpad, together",
    "Li, Gupta, Malik (Princeton), arXiv:2311.18246",
    "Ten human-designed networks and four searched ones in 8 bits and batch 1, on scratchpads of the largest need of "
    "one operator (M_R), of the least peak of any order (M_P), and half way (M_H); once with weights that stream "
    "past the scratchpad and once with the running operator's weights in it. Images of 224 x 224 (331 x 331 for the "
    "large searched networks, as they were published), clips of 16 frames.",
    _run,
    slow=True,
)
