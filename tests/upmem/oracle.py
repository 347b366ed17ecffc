"""A core that looks at every cycle: plain, slow, one tasklet a generator of what it does next."""

from __future__ import annotations


def walk(tasklet):
    for phase in tasklet:
        for _ in range(phase.times):
            for step in phase.steps:
                if step.kind == "run":
                    for _ in range(step.amount):
                        yield "run", 0
                else:
                    yield step.kind, step.amount


def run(program, core):
    """Cycles, instructions, busy cycles of transfers, bytes read and written."""
    walks = [walk(tasklet) for tasklet in program]
    todo = [next(one, None) for one in walks]
    since = [0] * len(program)
    at_barrier = set()
    instructions = busy = read = written = end = cycle = 0
    queue_ends = 0
    while any(one is not None for one in todo):
        able = [
            t for t, one in enumerate(todo) if one is not None and t not in at_barrier and since[t] <= cycle
        ]
        if able:
            t = sorted(able, key=lambda one: (since[one], one))[0]
            kind, amount = todo[t]
            instructions += 1
            end = max(end, cycle + 1)
            since[t] = cycle + core.spacing
            if kind == "barrier":
                at_barrier.add(t)
                if at_barrier == {one for one, what in enumerate(todo) if what is not None}:
                    for one in at_barrier:
                        since[one] = cycle + core.spacing
                        todo[one] = next(walks[one], None)
                    at_barrier = set()
            else:
                if kind != "run":
                    start = queue_ends if queue_ends > cycle + 1 else cycle + 1
                    fixed = core.read_cycles if kind == "read" else core.write_cycles
                    takes = fixed + -(-amount // core.bytes_per_cycle)
                    queue_ends = start + takes
                    busy += takes
                    since[t] = max(since[t], queue_ends)
                    end = max(end, queue_ends)
                    read += amount * (kind == "read")
                    written += amount * (kind == "write")
                todo[t] = next(walks[t], None)
        cycle += 1
    return end, instructions, busy, read, written
