"""Spiking networks the plain way: each neuron and synapse by itself, pairs of spikes from their whole history."""

from __future__ import annotations

from collections import Counter
from math import exp

from simulator.spiking.mesh import SpikingMesh
from simulator.spiking.network import Network, Projection

Spike = tuple[int, str, int]


def wired(network: Network, wire: Projection, source: int) -> list[int]:
    """Targets of one neuron of a projection's source."""
    size = next(p.size for p in network.populations if p.name == wire.target)
    if source < wire.first:
        return []
    if wire.pattern == "one-to-one":
        return [source - wire.first] if source - wire.first < size else []
    return [n for n in range(size) if n != source or wire.pattern == "all-to-all"]


def learnt(wire: Projection, before: float, source: list[int], target: list[int]) -> float:
    """Weight when the source spikes at ``source[-1]``, after it had ``before`` at the spike ahead of that one."""
    rule = wire.plasticity
    assert rule is not None
    now, last = source[-1], source[-2] if len(source) > 1 else -1
    seen = [tick + wire.delay for tick in target if tick + wire.delay <= now]
    change = sum(
        rule.gain * exp((pre - post) / rule.decay)
        for post in seen if post > last
        for pre in source[:-1] if pre < post
    )  # fmt: skip
    change -= sum(rule.loss * exp((post - now) / rule.decay) for post in seen)
    return min(max(before + change, 0.0), rule.most)


def plain_spikes(network: Network, given: dict[str, list[list[int]]], ticks: int) -> list[Spike]:
    """Spikes as (tick, population, neuron), in order."""
    cells = {(p.name, n): p.neuron for p in network.populations for n in range(p.size)}
    current, potential = dict.fromkeys(cells, 0.0), dict.fromkeys(cells, 0.0)
    rested = dict.fromkeys(cells, 0)
    history: dict[tuple[str, int], list[int]] = {cell: [] for cell in cells}
    arrivals: dict[tuple[int, str, int], float] = {}
    weights: dict[tuple[int, int, int], float] = {}
    spikes: list[Spike] = []
    for tick in range(ticks):
        for (name, n), cell in cells.items():
            if cell is None:
                fires = tick in given.get(name, [[]] * (n + 1))[n]
            else:
                fade, leak = exp(-1 / cell.current_decay), exp(-1 / cell.leak)
                here = current[name, n] + cell.current_decay * (1 - fade) * arrivals.get((tick, name, n), 0.0)
                fires = False
                if tick >= rested[name, n]:
                    goal = here * cell.leak / cell.capacity
                    potential[name, n] = goal + (potential[name, n] - goal) * leak
                    fires = potential[name, n] >= cell.threshold
                current[name, n] = here * fade
                if fires:
                    potential[name, n], rested[name, n] = 0.0, tick + 1 + cell.refractory
            if fires:
                history[name, n].append(tick)
                spikes.append((tick, name, n))
        for _, name, n in [spike for spike in spikes if spike[0] == tick]:
            for place, wire in enumerate(network.projections):
                for target in wired(network, wire, n) if wire.source == name else []:
                    weight = weights.get((place, n, target), wire.weight)
                    if wire.plasticity:
                        weight = learnt(wire, weight, history[name, n], history[wire.target, target])
                        weights[place, n, target] = weight
                    key = (tick + wire.delay, wire.target, target)
                    arrivals[key] = arrivals.get(key, 0.0) + weight
    return spikes


def plain_counts(network: Network, machine: SpikingMesh, spikes: list[Spike]) -> Counter[tuple[object, ...]]:
    """Packets, hops, events and receptions by tick, core and link, packet by packet."""
    core, next_core = {}, 0
    for p in network.populations:
        for n in range(p.size):
            core[p.name, n] = next_core + n // machine.neurons_per_core
        next_core += -(-p.size // machine.neurons_per_core)
    found: Counter[tuple[object, ...]] = Counter()
    for tick, name, n in spikes:
        found["spikes", tick] += 1
        reached, links = set(), set()
        for wire in network.projections:
            for target in wired(network, wire, n) if wire.source == name else []:
                found["events", tick, core[wire.target, target]] += 1
                reached.add(core[wire.target, target])
        for there in reached:
            found["received", tick, there] += 1
            (y, x), (to_y, to_x) = (
                divmod(c // machine.cores, machine.columns) for c in (core[name, n], there)
            )
            while (x, y) != (to_x, to_y):
                was = (x, y)
                right, up = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
                if right == up:
                    x, y = x + right, y + up
                elif right:
                    x += right
                else:
                    y += up
                links.add((*was, x, y))
        found["packets", tick] += bool(reached)
        found["hops", tick] += len(links)
        for link in links:
            found["link", tick, link] += 1
    return +found
