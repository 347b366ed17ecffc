"""A plain Python model of a drive without collection: heapq, dictionaries, lists. It shares no code with the engine.

It follows the same rules (docs/flash.md) and must give the same latency for every request.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from math import ceil


class Oracle:
    def __init__(self, drive, requests, outstanding):
        self.d = drive
        self.requests = deque(enumerate(requests))
        self.outstanding = outstanding
        self.heap, self.seq, self.now = [], itertools.count(), 0
        self.wire = [0, 0]
        self.queue = deque()
        self.waiting = self.held = 0
        self.latency = {}
        self.place, self.next_page = {}, {}
        per_chip = 1 if drive.die_interleaving else drive.dies_per_chip
        self.units_per_channel = drive.chips_per_channel * drive.dies_per_chip // per_chip
        self.dies_per_unit = per_chip
        count = drive.channels * self.units_per_channel
        self.units = [{"reads": deque(), "writes": deque(), "state": "idle", "out": 0} for _ in range(count)]
        self.buses = [{"busy": False, "turn": 0, "out": deque()} for _ in range(drive.channels)]
        self.commands = []

    # --- helpers
    def at(self, time, order, call, *args):
        heapq.heappush(self.heap, (time, order, next(self.seq), call, args))

    def send(self, way, ns, call=None, *args):
        arrives = max(self.wire[way], self.now) + ns
        self.wire[way] = arrives
        if call is not None:
            self.at(arrives, way, call, *args)

    def message(self, size, packets=None):
        h = self.d.host
        raw = size + (ceil(size / h.payload) if packets is None else packets) * h.overhead
        return ceil(ceil(raw / h.lanes) * h.lanes / h.bytes_per_ns)

    def transfer(self, size):
        return ceil(size * self.d.bus_ns_per_byte)

    def plane_of(self, lpn):
        sizes = {"C": self.d.channels, "W": self.d.chips_per_channel, "D": self.d.dies_per_chip,
                 "P": self.d.planes_per_die}  # fmt: skip
        found = {}
        for letter in self.d.placement:
            found[letter] = lpn % sizes[letter]
            lpn //= sizes[letter]
        return found["C"], found["W"], found["D"], found["P"]

    def page_time(self, page, times):
        bits = len(times)
        if bits <= 2:
            return times[page % bits]
        lead = 2 * bits
        if page < lead:
            return times[0]
        if page < lead + bits - 1:
            return times[1]
        return times[(page - lead - (bits - 1)) // (bits - 1) % bits]

    # --- host
    def run(self):
        for _ in range(self.outstanding):
            self.submit()
        while self.heap:
            self.now, _, _, call, args = heapq.heappop(self.heap)
            call(*args)
        return self.latency

    def submit(self):
        if self.requests:
            index, (op, address, size) = self.requests.popleft()
            request = {"index": index, "op": op, "address": address, "size": size, "since": self.now}
            self.queue.append(request)
            self.send(0, self.message(2, 1), self.doorbell)

    def doorbell(self):
        self.waiting += 1
        self.fetch()

    def fetch(self):
        if self.waiting and self.held < self.d.host.fetch_size:
            self.waiting -= 1
            self.held += 1
            self.send(1, self.message(4, 1), self.entry)

    def entry(self):
        self.send(0, self.message(self.d.host.submission_entry, 1), self.accept, self.queue.popleft())

    def accept(self, request):
        if request["op"] == 1:
            self.send(1, self.message(4, 1), self.pull, request)
        else:
            self.start(request)

    def pull(self, request):
        self.send(0, self.message(request["size"]), self.start, request)

    def finish(self, request):
        self.held -= 1
        self.fetch()
        if request["op"] == 0:
            self.send(1, self.message(request["size"]))
        self.send(1, self.message(self.d.host.completion_entry, 1), self.completed, request)

    def completed(self, request):
        self.latency[request["index"]] = self.now - request["since"]
        self.send(0, self.message(2, 1))
        self.submit()

    # --- drive
    def start(self, request):
        size_of = self.d.page_bytes
        first, last = request["address"] // size_of, (request["address"] + request["size"] - 1) // size_of
        request["left"] = last - first + 1
        for lpn in range(first, last + 1):
            low = max(request["address"], lpn * size_of)
            high = min(request["address"] + request["size"], (lpn + 1) * size_of)
            c, w, d, p = self.plane_of(lpn)
            if request["op"] == 1 or lpn not in self.place:
                number = self.next_page.get((c, w, d, p), 0)
                self.next_page[c, w, d, p] = number + 1
                self.place[lpn] = number
            chip = c * self.d.chips_per_channel + w
            unit = chip * self.d.dies_per_chip + d if self.d.die_interleaving else chip
            page = {"request": request, "unit": unit, "die": d, "plane": p, "bytes": high - low,
                    "page": self.place[lpn] % self.d.pages_per_block}  # fmt: skip
            self.units[unit]["writes" if request["op"] == 1 else "reads"].append(page)
        channels = {self.plane_of(first)[0]} if first == last else range(self.d.channels)
        for channel in channels:
            self.look(channel)

    def look(self, channel):
        bus = self.buses[channel]
        for _ in range(self.units_per_channel):
            if bus["busy"]:
                return
            number = channel * self.units_per_channel + bus["turn"]
            bus["turn"] = (bus["turn"] + 1) % self.units_per_channel
            unit = self.units[number]
            if unit["state"] == "idle":
                if unit["reads"]:
                    self.issue(channel, number, "reads")
                elif unit["writes"]:
                    self.issue(channel, number, "writes")

    def issue(self, channel, number, kind):
        unit = self.units[number]
        head = unit[kind].popleft()
        pages, planes, kept = [head], {head["plane"]}, deque()
        barred = {head["plane"]}
        for page in unit[kind]:
            fits = page["die"] == head["die"] and page["plane"] not in barred and page["page"] == head["page"]
            if fits and self.d.multi_plane:
                pages.append(page)
                planes.add(page["plane"])
                barred.add(page["plane"])
            else:
                kept.append(page)
                if kind == "writes" and page["die"] == head["die"]:
                    barred.add(page["plane"])
        unit[kind] = kept
        first, further = self.d.commands.read if kind == "reads" else self.d.commands.program
        took = first + further * (len(pages) - 1)
        if kind == "writes":
            took += sum(self.transfer(page["bytes"]) for page in pages)
        self.buses[channel]["busy"] = True
        self.at(self.now + took, 2, self.bus_free, channel)
        times = self.d.read_ns if kind == "reads" else self.d.program_ns
        array = self.page_time(head["page"], times)
        if kind == "reads":
            array += self.d.commands.ready_delay_read
        unit["state"] = kind
        self.commands.append((kind, len(pages)))
        self.at(self.now + took + array, 2, self.array_done, channel, number, pages)

    def array_done(self, channel, number, pages):
        unit = self.units[number]
        if unit["state"] == "reads":
            unit["state"], unit["out"] = "waiting", len(pages)
            for page in pages:
                if self.buses[channel]["busy"]:
                    self.buses[channel]["out"].append(page)
                else:
                    self.move(channel, page)
        else:
            unit["state"] = "idle"
            for page in pages:
                self.page_done(page)
        if not self.buses[channel]["busy"]:
            self.look(channel)

    def move(self, channel, page):
        self.buses[channel]["busy"] = True
        self.at(self.now + self.transfer(page["bytes"]), 2, self.moved, channel, page)

    def moved(self, channel, page):
        self.page_done(page)
        unit = self.units[page["unit"]]
        unit["out"] -= 1
        if unit["out"] == 0:
            unit["state"] = "idle"
        self.bus_free(channel)

    def bus_free(self, channel):
        bus = self.buses[channel]
        bus["busy"] = False
        if bus["out"]:
            self.move(channel, bus["out"].popleft())
        else:
            self.look(channel)

    def page_done(self, page):
        request = page["request"]
        request["left"] -= 1
        if request["left"] == 0:
            self.finish(request)
