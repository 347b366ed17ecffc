"""Collectives as rounds of messages: who sends how many bytes to whom, and in how many steps.

``schedule`` gives a collective's closed form (steps, bytes) and, on demand, the messages of each step, for a
simulator that puts them on real wires. ``bytes`` is always the whole buffer: what each rank holds at the end
of an all-gather or all-reduce, and at the start of a reduce-scatter, all-to-all or broadcast.

``ring`` algorithms send chunks of 1/n to the next rank; they move the fewest bytes in many steps. ``tree``
algorithms need about log2 n steps: binomial trees for broadcast and all-reduce (reduce, then broadcast),
Bruck's algorithm for all-gather, reduce-scatter and all-to-all (Bruck et al., IEEE TPDS 8(11), 1997; Thakur,
Rabenseifner and Gropp, IJHPCA 19(1), 2005, describe all of them with their alpha-beta costs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from hw_configs.problems import bad_input, nearest

__all__ = [
    "ALGORITHMS",
    "AUTO",
    "BARE_WIRES",
    "CHOICES",
    "COLLECTIVE_KINDS",
    "Algorithm",
    "Collective",
    "Message",
    "schedule",
]

Algorithm = Literal["ring", "tree"]
ALGORITHMS: Final = ("ring", "tree")
AUTO: Final = "auto"
"""What a user may ask for instead of an algorithm: what the ranks' library does, on bare wires the faster algorithm."""
BARE_WIRES: Final = "wires"
"""The faster algorithm for a size and its ranks, on bare wires everywhere."""
CHOICES: Final = (AUTO, BARE_WIRES, *ALGORITHMS)
COLLECTIVE_KINDS: Final = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "send",
)
MAX_RANKS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Message:
    """Bytes that one rank sends to another within one step; ``chunks`` names the parts of the buffer."""

    source: int
    target: int
    bytes: int
    chunks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Collective:
    """A collective's closed form. Steps follow one another; the messages of one step run side by side.

    ``step_bytes`` is the largest message of any step, ``bytes_sent`` what the busiest rank sends,
    ``critical_bytes`` the largest message of each step, summed. These three are exact where the ranks divide
    the buffer, else rounded up to whole chunks. ``total_bytes``, what all ranks send, is always exact.
    """

    kind: str
    algorithm: Algorithm
    ranks: int
    bytes: int
    steps: int
    step_bytes: int
    bytes_sent: int
    critical_bytes: int
    total_bytes: int

    def messages(self, step: int) -> Iterator[Message]:
        """The messages of one step, 0 <= step < steps; a tree's idle ranks send none."""
        if not 0 <= step < self.steps:
            raise ValueError(f"step {step} is outside 0..{self.steps - 1}")
        yield from _MESSAGES[self.kind, self.algorithm](self, step)

    def seconds(self, bandwidth: float, latency_s: float) -> float:
        """Alpha-beta time: a latency per step, and the critical rank's bytes over a wire's bandwidth.

        ``bandwidth`` is bytes per second and direction of the one port each rank has.
        """
        return self.steps * latency_s + self.critical_bytes / bandwidth


def schedule(kind: str, algorithm: str, ranks: int, size_bytes: int) -> Collective:
    """The closed form of a collective over ``ranks`` ranks and a buffer of ``size_bytes``.

    One rank, or an empty buffer, needs no step. ``send`` is from rank 0 to rank 1 whatever the algorithm.
    Raises ``InputError`` for an unknown kind or algorithm and for counts out of range.
    """
    if kind == "receive":
        kind = "send"
    if kind not in COLLECTIVE_KINDS:
        raise bad_input(f"unknown collective {kind!r}", suggestion=nearest(kind, COLLECTIVE_KINDS))
    if algorithm not in ALGORITHMS:
        raise bad_input(f"unknown algorithm {algorithm!r}; known: {', '.join(ALGORITHMS)}")
    if not 1 <= ranks <= MAX_RANKS:
        raise bad_input(f"found {ranks} ranks; expected 1 to {MAX_RANKS}")
    if size_bytes < 0:
        raise bad_input(f"found {size_bytes} bytes; expected at least 0")
    chosen: Algorithm = "ring" if algorithm == "ring" else "tree"
    if ranks == 1 or size_bytes == 0:
        return Collective(kind, chosen, ranks, size_bytes, 0, 0, 0, 0, 0)
    form = _CLOSED_FORM[kind, chosen](ranks, size_bytes)
    return Collective(kind, chosen, ranks, size_bytes, *form)


def chunk_bytes(size_bytes: int, ranks: int, index: int) -> int:
    """Bytes of chunk ``index`` of a buffer cut into ``ranks`` parts that differ by one byte at most."""
    return size_bytes * (index + 1) // ranks - size_bytes * index // ranks


def _rounds(n: int) -> int:
    """Steps of a tree over n ranks: log2 n, rounded up."""
    return (n - 1).bit_length()


def _part(size: int, n: int) -> int:
    return -(-size // n)


# Closed forms: ranks, bytes -> steps, step_bytes, bytes_sent, critical_bytes, total_bytes.
Form = tuple[int, int, int, int, int]


def _ring_pass(n: int, size: int) -> Form:
    part = _part(size, n)
    return n - 1, part, (n - 1) * part, (n - 1) * part, (n - 1) * size


def _ring_all_reduce(n: int, size: int) -> Form:
    part = _part(size, n)
    return 2 * n - 2, part, (2 * n - 2) * part, (2 * n - 2) * part, (2 * n - 2) * size


def _ring_broadcast(n: int, size: int) -> Form:
    # A chain pipelined with n chunks: the last one leaves after n - 1 others and makes n - 1 hops.
    part = _part(size, n)
    return 2 * n - 2, part, n * part, (2 * n - 2) * part, (n - 1) * size


def _binomial_broadcast(n: int, size: int) -> Form:
    steps = _rounds(n)
    return steps, size, steps * size, steps * size, (n - 1) * size


def _binomial_all_reduce(n: int, size: int) -> Form:
    steps = _rounds(n)
    return 2 * steps, size, steps * size, 2 * steps * size, (2 * n - 2) * size


def _bruck_gather(n: int, size: int) -> Form:
    part = _part(size, n)
    return _rounds(n), _gathered(n) * part, (n - 1) * part, (n - 1) * part, (n - 1) * size


def _gathered(n: int) -> int:
    """Most chunks that one message of Bruck's all-gather carries."""
    return max(min(1 << s, n - (1 << s)) for s in range(_rounds(n)))


def _bruck_exchange(n: int, size: int) -> Form:
    part = _part(size, n)
    counts = [_with_bit(n, s) for s in range(_rounds(n))]
    hops = sum(counts)
    return _rounds(n), max(counts) * part, hops * part, hops * part, hops * size


def _with_bit(n: int, bit: int) -> int:
    """How many of 0 .. n-1 have that bit set."""
    period = 1 << (bit + 1)
    return (n // period) * (period // 2) + max(0, n % period - period // 2)


def _one_message(_n: int, size: int) -> Form:
    return 1, size, size, size, size


# Messages of one step, as the algorithms send them.


def _message(c: Collective, source: int, target: int, chunks: tuple[int, ...]) -> Message:
    return Message(source, target, sum(chunk_bytes(c.bytes, c.ranks, chunk) for chunk in chunks), chunks)


def _ring_scatter_step(c: Collective, step: int) -> Iterator[Message]:
    for r in range(c.ranks):
        yield _message(c, r, (r + 1) % c.ranks, ((r - 1 - step) % c.ranks,))


def _ring_gather_step(c: Collective, step: int) -> Iterator[Message]:
    for r in range(c.ranks):
        yield _message(c, r, (r + 1) % c.ranks, ((r - step) % c.ranks,))


def _ring_all_reduce_step(c: Collective, step: int) -> Iterator[Message]:
    half = c.ranks - 1
    return _ring_scatter_step(c, step) if step < half else _ring_gather_step(c, step - half)


def _pairwise_step(c: Collective, step: int) -> Iterator[Message]:
    for r in range(c.ranks):
        target = (r + 1 + step) % c.ranks
        yield _message(c, r, target, (target,))


def _chain_step(c: Collective, step: int) -> Iterator[Message]:
    for r in range(max(0, step - c.ranks + 1), min(c.ranks - 1, step + 1)):
        yield _message(c, r, r + 1, (step - r,))


def _binomial_broadcast_step(c: Collective, step: int) -> Iterator[Message]:
    whole = tuple(range(c.ranks))
    for r in range(min(1 << step, c.ranks - (1 << step))):
        yield Message(r, r + (1 << step), c.bytes, whole)


def _binomial_all_reduce_step(c: Collective, step: int) -> Iterator[Message]:
    half = _rounds(c.ranks)
    if step >= half:
        yield from _binomial_broadcast_step(c, step - half)
        return
    for sent in _binomial_broadcast_step(c, half - 1 - step):
        yield Message(sent.target, sent.source, sent.bytes, sent.chunks)


def _bruck_gather_step(c: Collective, step: int) -> Iterator[Message]:
    n, reach = c.ranks, 1 << step
    for r in range(n):
        chunks = tuple((r + i) % n for i in range(min(reach, n - reach)))
        yield _message(c, r, (r - reach) % n, chunks)


def _bruck_scatter_step(c: Collective, step: int) -> Iterator[Message]:
    # The all-gather run backwards: what was copied out along an edge is summed in along it.
    for sent in _bruck_gather_step(c, c.steps - 1 - step):
        yield Message(sent.target, sent.source, sent.bytes, sent.chunks)


def _bruck_exchange_step(c: Collective, step: int) -> Iterator[Message]:
    # A block that has d ranks to go travels 2^step of them if that bit of d is set.
    n, reach = c.ranks, 1 << step
    for r in range(n):
        chunks = tuple((r - d % reach + d) % n for d in range(n) if d & reach)
        yield _message(c, r, (r + reach) % n, chunks)


def _send_step(c: Collective, _step: int) -> Iterator[Message]:
    yield Message(0, 1, c.bytes, tuple(range(c.ranks)))


_CLOSED_FORM: Final[dict[tuple[str, Algorithm], Callable[[int, int], Form]]] = {
    ("all_reduce", "ring"): _ring_all_reduce,
    ("all_reduce", "tree"): _binomial_all_reduce,
    ("all_gather", "ring"): _ring_pass,
    ("all_gather", "tree"): _bruck_gather,
    ("reduce_scatter", "ring"): _ring_pass,
    ("reduce_scatter", "tree"): _bruck_gather,
    ("all_to_all", "ring"): _ring_pass,
    ("all_to_all", "tree"): _bruck_exchange,
    ("broadcast", "ring"): _ring_broadcast,
    ("broadcast", "tree"): _binomial_broadcast,
    ("send", "ring"): _one_message,
    ("send", "tree"): _one_message,
}

_MESSAGES: Final[dict[tuple[str, Algorithm], Callable[[Collective, int], Iterator[Message]]]] = {
    ("all_reduce", "ring"): _ring_all_reduce_step,
    ("all_reduce", "tree"): _binomial_all_reduce_step,
    ("all_gather", "ring"): _ring_gather_step,
    ("all_gather", "tree"): _bruck_gather_step,
    ("reduce_scatter", "ring"): _ring_scatter_step,
    ("reduce_scatter", "tree"): _bruck_scatter_step,
    ("all_to_all", "ring"): _pairwise_step,
    ("all_to_all", "tree"): _bruck_exchange_step,
    ("broadcast", "ring"): _chain_step,
    ("broadcast", "tree"): _binomial_broadcast_step,
    ("send", "ring"): _send_step,
    ("send", "tree"): _send_step,
}
