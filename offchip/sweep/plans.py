"""Plans that were dear to find, kept for other points and fidelities that ask for the same.

A plan depends on the graph, the machine, the mapper and its options, and nothing else; the key in the cache is a hash
of all of these and of the code.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any, Final

from hw_configs.system import System
from offchip.sweep.cache import DiskCache
from simulator.plan import Plan
from simulator.plan_file import plan_from_json
from simulator.simulate import Planner
from workloads.graph import Graph

__all__ = ["remembering"]

DEAR_S: Final = 0.1
"""A plan found sooner is found again sooner than read."""


def remembering(cache: DiskCache, decides: list[Any]) -> Callable[[Planner], Planner]:
    """Makes planners look in a cache first. ``decides`` is what a plan depends on beside graph and machine."""

    def wrap(planner: Planner) -> Planner:
        def plan(graph: Graph, system: System) -> Plan:
            content = ["plan", *decides, graph.structure or graph.name, system.digest]
            key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
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
