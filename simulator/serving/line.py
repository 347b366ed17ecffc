"""The two lists of an engine: requests that run, in order of admission, and requests that wait, by urgency.

The waiting ones are a heap. First come, first served orders them by ticket, with tickets below all others for what was
preempted (it goes to the very front); by priority the order is (priority, arrival, number).
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from hw_configs.compiled import compiled
from simulator.serving.records import AWAY, RUNNING, WAITING

__all__ = ["pull", "push", "push_back", "start_running", "stop_running", "take_out"]


@compiled(_nrt=False)
def _before(s, a, b):
    x = s.requests[a]
    y = s.requests[b]
    if x.order != y.order:
        return x.order < y.order
    if s.engine[0].priority != 0 and x.arrival != y.arrival:
        return x.arrival < y.arrival
    return a < b


@compiled(_nrt=False)
def _up(s, place):
    queue = s.queue
    r = queue[place]
    while place > 0 and _before(s, r, queue[(place - 1) // 2]):
        queue[place] = queue[(place - 1) // 2]
        place = (place - 1) // 2
    queue[place] = r


@compiled(_nrt=False)
def _down(s, place):
    queue = s.queue
    n = s.engine[0].waiting
    r = queue[place]
    while True:
        child = 2 * place + 1
        if child >= n:
            break
        if child + 1 < n and _before(s, queue[child + 1], queue[child]):
            child += 1
        if not _before(s, queue[child], r):
            break
        queue[place] = queue[child]
        place = child
    queue[place] = r


@compiled(_nrt=False)
def _insert(s, r):
    e = s.engine[0]
    s.requests[r].state = WAITING
    s.queue[e.waiting] = r
    e.waiting += 1
    _up(s, e.waiting - 1)


@compiled(_nrt=False)
def push(s, r, order):
    """A request comes to the queue; ``order`` is its priority, of no meaning under first come, first served."""
    e = s.engine[0]
    if e.priority == 0:
        e.back += 1
        order = e.back
    s.requests[r].order = order
    _insert(s, r)


@compiled(_nrt=False)
def push_back(s, r):
    """A preempted request comes back to the queue: to its very front, or to its place by priority."""
    e = s.engine[0]
    if e.priority == 0:
        e.front -= 1
        s.requests[r].order = e.front
    _insert(s, r)


@compiled(_nrt=False)
def take_out(s, place):
    """Take the request at a place of the heap out of the queue."""
    e = s.engine[0]
    s.requests[s.queue[place]].state = AWAY
    e.waiting -= 1
    if place < e.waiting:
        s.queue[place] = s.queue[e.waiting]
        _down(s, place)
        _up(s, place)


@compiled(_nrt=False)
def pull(s, r):
    """Take a request out of the queue, wherever it stands."""
    place = 0
    while s.queue[place] != r:
        place += 1
    take_out(s, place)


@compiled(_nrt=False)
def start_running(s, r):
    """Put a request at the end of the running list and give it a row of the table."""
    e = s.engine[0]
    q = s.requests[r]
    q.state = RUNNING
    s.running[e.running] = r
    e.running += 1
    e.rows -= 1
    q.row = s.rows[e.rows]


@compiled(_nrt=False)
def stop_running(s, place):
    """Take a request out of the running list, whose order is kept; its row is free."""
    e = s.engine[0]
    q = s.requests[s.running[place]]
    q.state = AWAY
    s.rows[e.rows] = q.row
    e.rows += 1
    e.running -= 1
    for k in range(place, e.running):
        s.running[k] = s.running[k + 1]
