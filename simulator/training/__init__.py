"""A training step over many devices: a program of tasks on streams, run event by event.

``program`` says what a step consists of, ``wires`` what its collectives take and load, ``run`` executes it (``events``
is the kernel), ``account`` says where the time went. The simulator runs what it is given; who writes programs is
:mod:`mapping.training`'s.
"""
