"""What a plan must obey beside sizes and lives: shared places, pairs, banks, boundaries and moves.

* ``alias``: groups at one offset; they are one storage, and whatever of it is in use belongs to the group.
* ``inside``: (output, input) pairs, in place: the output's bytes lie inside the input's. An output may share bytes
  with its input and with what that lies inside in turn; two outputs inside one input may not share bytes while both
  are in use.
* ``separate``: pairs that never share a byte, although their lives do not meet.
* ``shared``: pairs that may share bytes, although their lives meet.
* ``banks``: the banks that a buffer may go to, by name; ``apart``: pairs that go to different banks; ``pools``: bytes
  of banks, where the problem itself tells them.
* ``boundary``: a buffer does not cross a multiple of so many bytes.
* ``moves``: times at which a buffer may be copied to another place. At the moment of a copy both places are in use.

Pairs and keys are indices into the problem's buffers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from hw_configs.problems import Problem

__all__ = ["NO_RULES", "Rules", "above", "may_share", "root_of", "storages"]

Pair = tuple[int, int]
_LARGEST = 2**60


@dataclass(frozen=True)
class Rules:
    """Rules over a problem's buffers; empty where nothing is asked."""

    alias: tuple[tuple[int, ...], ...] = ()
    inside: tuple[Pair, ...] = ()
    separate: tuple[Pair, ...] = ()
    shared: tuple[Pair, ...] = ()
    banks: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    apart: tuple[Pair, ...] = ()
    boundary: Mapping[int, int] = field(default_factory=dict)
    moves: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    pools: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(getattr(self, item.name) for item in fields(self))

    def subset(self, chosen: Sequence[int]) -> Rules:
        """The rules among some of the buffers, renumbered; pairs and groups that lose a side fall away."""
        new = {old: i for i, old in enumerate(chosen)}

        def pairs(listed: Iterable[Pair]) -> tuple[Pair, ...]:
            return tuple((new[a], new[b]) for a, b in listed if a in new and b in new)

        groups = (tuple(new[i] for i in group if i in new) for group in self.alias)
        return Rules(
            tuple(group for group in groups if len(group) > 1),
            pairs(self.inside),
            pairs(self.separate),
            pairs(self.shared),
            {new[i]: names for i, names in self.banks.items() if i in new},
            pairs(self.apart),
            {new[i]: step for i, step in self.boundary.items() if i in new},
            {new[i]: times for i, times in self.moves.items() if i in new},
            self.pools,
        )

    def problems(self, ids: Sequence[str], size: Sequence[int], life: Sequence[Pair]) -> Iterable[Problem]:
        """What contradicts itself, for buffers with these names, sizes and lives."""
        n = len(ids)
        named = {i for group in self.alias for i in group}
        named |= {i for pair in (*self.inside, *self.separate, *self.shared, *self.apart) for i in pair}
        named |= {*self.banks, *self.boundary, *self.moves}
        if any(not 0 <= i < n for i in named):
            raise ValueError("a rule names a buffer that the problem does not have")
        yield from self._pair_problems(ids)
        yield from self._inside_problems(ids, size)
        for i, step in self.boundary.items():
            if not 1 <= step <= _LARGEST or size[i] > step:
                found = f"buffer {ids[i]!r} has {size[i]} bytes and the boundary {step}"
                yield Problem(f"{found}; expected a boundary of at least its size", path="boundary")
        for i, times in self.moves.items():
            low, high = life[i]
            if list(times) != sorted(set(times)) or not all(low < time < high for time in times):
                found = f"buffer {ids[i]!r} moves at {' '.join(map(str, times))}"
                yield Problem(f"{found}; expected rising times inside its life {low} to {high}", path="moves")
            if any(i in group for group in (*self.alias, *self.inside)):
                found = f"buffer {ids[i]!r} has moves and a place in another's bytes"
                yield Problem(f"{found}; expected one of the two", path="moves")

    def _pair_problems(self, ids: Sequence[str]) -> Iterable[Problem]:
        root = storages(len(ids), self)
        for path, column, listed in (
            ("conflicts", "separate", self.separate),
            ("apart", "apart", self.apart),
            ("shares", "shared", self.shared),
        ):
            for a, b in listed:
                if a == b:
                    yield Problem(f"buffer {ids[a]!r} is paired with itself", path=path)
                elif column != "shared" and root[a] == root[b]:
                    told = f"buffers {ids[a]!r} and {ids[b]!r} have one storage and cannot be kept apart"
                    yield Problem(told, path=path)
        both = {frozenset(pair) for pair in self.separate} & {frozenset(pair) for pair in self.shared}
        for a, b in sorted(tuple(sorted(pair)) for pair in both if len(pair) == 2):
            yield Problem(
                f"buffers {ids[a]!r} and {ids[b]!r} may share bytes and may never", path="conflicts"
            )

    def _inside_problems(self, ids: Sequence[str], size: Sequence[int]) -> Iterable[Problem]:
        parent: dict[int, int] = {}
        for out, into in self.inside:
            if size[out] > size[into]:
                told = f"buffer {ids[out]!r} has {size[out]} bytes, {ids[into]!r} {size[into]}"
                yield Problem(f"{told}; expected an output that fits inside its input", path="inside")
            if out in parent:
                yield Problem(f"buffer {ids[out]!r} lies inside two buffers; expected one", path="inside")
            parent[out] = into
        clear: set[int] = set()
        for out in parent:
            walked, at = {out}, parent[out]
            while at in parent and at not in walked and at not in clear:
                walked.add(at)
                at = parent[at]
            if at in walked:
                yield Problem(f"buffer {ids[out]!r} lies inside itself by way of others", path="inside")
                return
            clear |= walked


NO_RULES = Rules()


def root_of(parent: list[int], i: int) -> int:
    """The representative of ``i`` in a forest of parents, which is flattened on the way."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def storages(n: int, rules: Rules) -> list[int]:
    """A number per buffer, equal for those that alias or in-place pairs tie together."""
    parent = list(range(n))
    links = [(group[0], i) for group in rules.alias for i in group[1:]]
    for a, b in (*links, *rules.inside):
        a, b = root_of(parent, a), root_of(parent, b)
        parent[max(a, b)] = min(a, b)
    return [root_of(parent, i) for i in range(n)]


def above(rules: Rules, root: Sequence[int]) -> set[Pair]:
    """Pairs of numbers in ``root``, one per buffer: the first lies inside the second, in one step or in several.

    ``root`` tells aliases alike, and may tell an output and its input alike.
    """
    into: dict[int, set[int]] = {}
    for out, holder in rules.inside:
        if root[out] != root[holder]:
            into.setdefault(root[out], set()).add(root[holder])
    found = set()
    for one in into:
        seen, waiting = {one}, [one]
        while waiting:
            for higher in into.get(waiting.pop(), ()):
                if higher not in seen:
                    seen.add(higher)
                    waiting.append(higher)
        found |= {(one, higher) for higher in seen - {one}}
    return found


def may_share(n: int, rules: Rules) -> set[Pair]:
    """Pairs of buffers (both ways round) that may share bytes while both are in use."""
    root = storages(n, Rules(rules.alias))
    members: dict[int, list[int]] = {}
    for i in range(n):
        members.setdefault(root[i], []).append(i)
    found = {*rules.shared}
    found |= {(a, b) for listed in members.values() for a in listed for b in listed if a != b}
    found |= {(a, b) for low, high in above(rules, root) for a in members[low] for b in members[high]}
    return found | {(b, a) for a, b in found}
