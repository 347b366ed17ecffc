"""Queries in rounds, told as plainly as can be: one moment after another, every read with a given latency."""

from __future__ import annotations

from collections import deque


def answer_times(queries, in_flight, servers, work, counts, latency):
    """Begin and end of each query. ``latency(query, round, read)`` ``counts`` reads of each round."""
    began, ended, now = {}, {}, 0
    waiting = deque()  # (query) ready for a server, in order
    working = []  # [query, until]
    reading = {}  # query -> times at which its reads come back
    at = {}
    started = 0

    def start():
        nonlocal started
        if started < queries:
            began[started], at[started] = now, 0
            waiting.append(started)
            started += 1

    for _ in range(in_flight):
        start()
    while len(ended) < queries:
        changed = True
        while changed:
            changed = False
            # Reads come back, then rounds are taken, then rounds end: until nothing happens at this moment.
            for query in [q for q, times in reading.items() if max(times) <= now]:
                del reading[query]
                waiting.append(query)
                changed = True
            while waiting and len(working) < servers:
                query = waiting.popleft()
                working.append([query, now + work[at[query]]])
                changed = True
            for item in [w for w in working if w[1] <= now]:
                working.remove(item)
                query = item[0]
                if at[query] == len(counts):
                    ended[query] = now
                    start()
                else:
                    times = [now + latency(query, at[query], i) for i in range(counts[at[query]])]
                    reading[query] = times
                    at[query] += 1
                changed = True
        moments = [until for _, until in working] + [max(times) for times in reading.values()]
        now = min(moments, default=now)
    return [began[q] for q in range(queries)], [ended[q] for q in range(queries)]
