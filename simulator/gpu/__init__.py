"""GPUs as memory hierarchies: kernel time from tiles, waves, caches, DRAM and power.

One file per family of operators. Each has closed forms over arrays of rows; ``model.py`` joins them into the
cost model ``gpu``, and ``rows.py`` predicts whole tables. The few constants stand in ``constants.json``.
"""
