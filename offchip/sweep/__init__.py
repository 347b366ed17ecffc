"""Design-space exploration: spaces, points, strategies, stores. Called, it is :func:`offchip.space_sweep.sweep`."""

from offchip.callable_package import called_as

called_as(__name__, "offchip.space_sweep:sweep")
