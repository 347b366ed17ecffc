"""How a model is trained: degrees of parallelism, what each rank keeps, recomputes and swaps, and every address.

``setup`` says what can be chosen, ``rank_graph`` and ``rank_step`` what one rank then runs, ``requests`` what
it asks of memory; ``step_memory``, ``step_time`` and ``estimate`` judge a setup, ``choose_setup`` searches,
``plan`` writes the plan that the simulator runs.
"""
