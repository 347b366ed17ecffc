"""Plans that were dear to find, kept for other points and fidelities that ask for the same.

A plan depends on the graph, the machine, the mapper and its options, and nothing else; ``keys.plan_key`` is the hash of
all of these and of the code.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final

from hw_configs.system import System
from offchip.sweep.cache import DiskCache
from simulator.plan import Plan
from simulator.plan_file import plan_from_json
from simulator.simulate import Planner
from workloads.graph import Graph

__all__ = ["remembering"]

DEAR_S: Final = 0.1
"""A plan found sooner is found again sooner than read."""


def remembering(cache: DiskCache, key_of: Callable[[Graph, System], str]) -> Callable[[Planner], Planner]:
    """Makes planners look in a cache first. ``key_of`` hashes all that decides a plan for a graph on a machine."""

    def wrap(planner: Planner) -> Planner:
        def plan(graph: Graph, system: System) -> Plan:
            key = key_of(graph, system)
            data = cache.get(key)
            if data is not None:
                return plan_from_json(json.loads(data), "cached plan")
            began = time.perf_counter()
            found = planner(graph, system)
            if time.perf_counter() - began > DEAR_S:
                cache.put(key, json.dumps(found.to_json()).encode())
            return found

        return plan

    return wrap
