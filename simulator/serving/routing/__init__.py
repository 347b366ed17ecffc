"""Routing: which of several workers a request goes to. Each rule is one file with one entry in :data:`ROUTERS`."""

from simulator.serving.routing.router import ROUTERS, MakeRouter, Pool, Router, RouterOptions

__all__ = ["ROUTERS", "MakeRouter", "Pool", "Router", "RouterOptions"]
