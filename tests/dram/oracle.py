# ruff: noqa: SIM102
"""A DRAM controller and device written as plainly as can be: every tick, every queue, every rule, in Python.

It visits every tick, keeps requests as objects in lists, asks every rule of every node for every request, and
knows nothing of the engine's programs, lists per bank or cached candidates. Slow and meant to be.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from simulator.dram.address import address_map
from simulator.dram.machine import Channel

CLOSING = {"PREpb", "PREab", "PREsb", "RDA", "WRA"}


class LockedUpError(Exception):
    """No end came within many times the ticks that the longest test run needs."""


@dataclass(eq=False)
class Request:
    address: tuple[int, ...]
    final: str
    transaction: int = -1
    arrive: int = 0
    index: int = -1
    write: bool = False
    counted: bool = False


@dataclass
class Outcome:
    commands: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)
    accept: list[int] = field(default_factory=list)
    latency: dict[int, int] = field(default_factory=dict)
    hits: int = 0
    misses: int = 0
    conflicts: int = 0
    forwarded: int = 0
    coalesced: int = 0
    drain: int = 0
    read_queue_sum: int = 0
    write_queue_sum: int = 0
    priority_queue_sum: int = 0


class Oracle:
    def __init__(self, channel: Channel) -> None:
        self.c = channel
        self.k = channel.controller
        self.sizes = [size for _, size in channel.levels]
        self.names = list(channel.level_names)
        self.ready: dict[tuple[tuple[int, ...], str], int] = {}
        self.history: dict[tuple[tuple[int, ...], str], list[int]] = {}
        self.rules: dict[tuple[str, int], list] = {}
        for rule in channel.constraints:
            for name in rule.preceding:
                self.rules.setdefault((name, self.names.index(rule.level)), []).append(rule)
        self.banks = list(itertools.product(*(range(s) for s in self.sizes)))
        self.state = dict.fromkeys(self.banks, "closed")
        self.row = dict.fromkeys(self.banks, -1)
        self.reads: list[Request] = []
        self.writes: list[Request] = []
        self.priority: list[Request] = []
        self.active: list[Request] = []
        self.opening: list[tuple[Request, int]] = []
        self.active_count = dict.fromkeys(self.banks, 0)
        self.columns = dict.fromkeys(self.banks, 0)
        self.injected = dict.fromkeys(self.banks, False)
        self.last = dict.fromkeys(self.banks, 0)
        self.write_mode = False
        self.clk = 0
        self.lock: tuple[Request, str, list[Request]] | None = None
        self.expiry = 0
        self.out = Outcome()
        self.departs: list[tuple[int, Request]] = []
        self.open_name = "ACT1" if channel.split_activation else "ACT"
        self.rising: tuple[int, int, tuple[int, ...] | None] = (-1, -1, None)
        self.done = 0
        self.written = 0
        self._plan_refresh()

    # -- the device
    def matching(self, address: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [
            b
            for b in self.banks
            if all(map(self.named, range(len(self.sizes)), address[: len(self.sizes)], b))
        ]

    def named(self, level: int, wanted: int, index: int) -> bool:
        """-1: all; -2 - i: i and the one half a level further on."""
        return wanted in (-1, index) or (wanted < -1 and index % (self.sizes[level] // 2) == -2 - wanted)

    def raise_timing(self, name: str, address: tuple[int, ...]) -> None:
        def visit(node: tuple[int, ...]) -> None:
            level = len(node) - 1
            if not self.named(level, address[level], node[level]):
                for rule in self.rules.get((name, level), []):
                    if rule.siblings:
                        self.lift(node, rule.following, self.clk + rule.latency)
                return
            past = self.history.setdefault((node, name), [])
            past.insert(0, self.clk)
            del past[8:]
            for rule in self.rules.get((name, level), []):
                if not rule.siblings and len(past) >= rule.window:
                    self.lift(node, rule.following, past[rule.window - 1] + rule.latency)
            if level + 1 < len(self.sizes):
                for child in range(self.sizes[level + 1]):
                    visit((*node, child))

        visit((0,))

    def lift(self, node: tuple[int, ...], following: tuple[str, ...], tick: int) -> None:
        for name in following:
            self.ready[node, name] = max(self.ready.get((node, name), -1), tick)

    def legal(self, name: str, address: tuple[int, ...]) -> bool:
        nodes: list[tuple[int, ...]] = [()]
        for level, size in enumerate(self.sizes):
            wanted = [i for i in range(size) if self.named(level, address[level], i)]
            nodes = [(*n, i) for n in nodes for i in wanted]
            if any(self.clk < self.ready.get((node, name), -1) for node in nodes):
                return False
        return True

    def needed(self, request: Request) -> str:
        """The command that brings a request one step further."""
        levels = len(self.sizes)
        if request.final in ("RD", "WR", "RDA", "WRA"):
            bank = request.address[:levels]
            if self.state[bank] == "closed":
                return self.open_name
            if self.state[bank] == "opening":
                return "ACT2"
            return request.final if self.row[bank] == request.address[levels] else "PREpb"
        if request.final.startswith("REF"):
            if any(self.state[b] != "closed" for b in self.matching(request.address)):
                return {"REFab": "PREab", "REFpb": "PREpb", "REFsb": "PREsb"}[request.final]
        return request.final

    # -- refresh
    def _plan_refresh(self) -> None:
        levels = len(self.sizes)
        depth = self.names.index(self.c.refresh_level)
        wild = (-1,) * (levels - depth - 1)
        scopes = sorted({(*b[: depth + 1], *wild, -1, -1) for b in self.banks})
        self.plan: list[list] = []
        self.pairs_waiting: list[tuple[int, int, int]] = []
        self.pair_next = self.c.timing.get("nREFIpb", 0)
        self.pair_sid = self.pair_bank = 0
        self.pair_done: dict[tuple[int, int], int] = {}
        self.pair_allowed: dict[tuple[int, int], int] = {}
        t = self.c.timing
        if self.k.refresh == "all-bank":
            step = self.k.refresh_scatter
            for i, scope in enumerate(scopes):
                self.plan.append([(i + 1) * step if step else t["nREFI"], t["nREFI"], [scope], 0, "REFab"])
        elif self.k.refresh == "per-bank":
            units = [(*b, -1, -1) for b in self.banks]
            if self.c.refresh_pairs:
                level = self.names.index(self.c.refresh_pairs)
                half = self.sizes[level] // 2
                units = [(*u[:level], -2 - u[level], *u[level + 1 :]) for u in units if u[level] < half]
            self.plan.append([t["nREFIpb"], t["nREFIpb"], units, 0, "REFpb"])
        elif self.k.refresh == "same-bank":
            sets = [
                (*s[: depth + 1], *((-1,) * (levels - depth - 2)), b, -1, -1)
                for s in scopes
                for b in range(self.sizes[-1])
            ]
            self.plan.append([t["nREFIsb"], t["nREFIsb"], sets, 0, "REFsb"])

    def refresh_pairs(self) -> None:
        """HBM3: the same bank of every pseudo-channel in turn, one request per tick; a set rests when it is done."""
        t, sizes = self.c.timing, dict(self.c.levels)
        pcs, sids = sizes["PseudoChannel"], sizes.get("Sid", 1)
        per_set = len(self.banks) // (pcs * sids)
        if not self.pairs_waiting:
            if self.clk < self.pair_next:
                return
            if any(self.clk < self.pair_allowed.get((pc, self.pair_sid), 0) for pc in range(pcs)):
                self.pair_next = self.clk + 1
                return
            for pc in range(pcs):
                self.pairs_waiting.append((pc, self.pair_sid, self.pair_bank))
            self.pair_bank += 1
            if self.pair_bank == per_set:
                self.pair_bank, self.pair_sid = 0, (self.pair_sid + 1) % sids
            self.pair_next += t["nREFIpb"]
        pc, sid, bank = self.pairs_waiting.pop(0)
        self.priority.append(Request((*self.banks[(pc * sids + sid) * per_set + bank], -1, -1), "REFpb"))
        self.pair_done[pc, sid] = self.pair_done.get((pc, sid), 0) + 1
        if self.pair_done[pc, sid] == per_set:
            self.pair_done[pc, sid] = 0
            self.pair_allowed[pc, sid] = self.clk + t["nRFCpb"]

    def refresh(self) -> None:
        if self.k.refresh == "paired-per-bank":
            self.refresh_pairs()
        for entry in self.plan:
            if entry[0] == self.clk:
                entry[0] += entry[1]
                self.priority.append(Request(entry[2][entry[3] % len(entry[2])], entry[4]))
                entry[3] += 1

    # -- the row policy
    def pre_schedule(self) -> None:
        for bank in self.banks:
            if self.k.row_policy == "capped":
                due = self.columns[bank] >= self.k.cap and not self.injected[bank]
            elif self.k.row_policy == "timeout":
                hit = any(
                    self.is_hit(r) and r.address[: len(self.sizes)] == bank for r in self.reads + self.writes
                )
                due = (
                    self.state[bank] == "open" and not self.injected[bank] and not hit
                    and self.active_count[bank] == 0 and self.clk >= self.last[bank] + self.k.timeout
                )  # fmt: skip
            else:
                return
            address = (*bank, -1, -1)
            if due and self.legal("PREpb", address) and len(self.priority) < self.k.priority_queue:
                self.priority.append(Request(address, "PREpb"))
                self.injected[bank] = True

    def upgrade(self, request: Request, name: str, source: list[Request]) -> str:
        if name not in ("RD", "WR") or "RDA" not in self.c.commands:
            return name
        bank = request.address[: len(self.sizes)]
        if self.k.row_policy == "capped":
            wanted = self.columns[bank] >= self.k.cap
        elif self.k.row_policy == "closed":
            others = [r for r in self.reads + self.writes if r is not request and self.is_hit(r)]
            others = [r for r in others if r.address[: len(self.sizes)] == bank]
            wanted = not others and self.active_count[bank] == (1 if source is self.active else 0)
        else:
            return name
        return name + "A" if wanted and self.legal(name + "A", request.address) else name

    def is_hit(self, request: Request) -> bool:
        levels = len(self.sizes)
        bank = request.address[:levels]
        return self.state[bank] == "open" and self.row[bank] == request.address[levels]

    # -- scheduling
    def best(self, queue: list[Request], allowed) -> tuple[Request, str] | None:
        chosen, chosen_ready = None, False
        for request in queue:
            name = self.needed(request)
            if not allowed(request, name):
                continue
            if self.k.scheduler == "frfcfs-rowhit" and name == "PREpb":
                bank = request.address[: len(self.sizes)]
                rivals = [r for r in queue if r.address[: len(self.sizes)] == bank and self.is_hit(r)]
                if any(r.arrive <= request.arrive for r in rivals):
                    continue
            ready = self.legal(name, request.address)
            if (
                chosen is None
                or (ready and not chosen_ready)
                or (ready == chosen_ready and request.arrive < chosen.arrive)
            ):
                chosen, chosen_ready = request, ready
        return (chosen, self.needed(chosen)) if chosen is not None and chosen_ready else None

    def closes_active(self, request: Request, name: str) -> bool:
        return name in CLOSING and any(self.active_count[b] > 0 for b in self.matching(request.address))

    def beside_opening(self, request: Request, name: str) -> bool:
        """LPDDR5: what may go between the two halves of an activation."""
        if name == "ACT2":
            return False
        if not self.opening:
            return True
        if name == "ACT1":
            return False
        if name in ("RD", "WR", "RDA", "WRA"):
            return True
        return all(self.state[b] != "opening" for b in self.matching(request.address))

    def pick(self, allowed) -> tuple[Request, str, list[Request]] | None:
        found = self.best(self.active, lambda r, n: allowed(r, n, self.active))
        if found:
            return (*found, self.active)
        return self.pick_waiting(allowed)

    def pick_waiting(self, allowed) -> tuple[Request, str, list[Request]] | None:
        if self.priority:
            request = self.priority[0]
            name = self.needed(request)
            step = request
            opened = [b for b in self.matching(request.address) if self.state[b] == "open"]
            if name == "PREpb" and len(self.matching(request.address)) > 1 and opened:
                # No command closes two banks: one after the other.
                step = Request((*opened[0], -1, -1), "")
            if self.legal(name, step.address) and not self.closes_active(request, name):
                if allowed(request, name, self.priority):
                    return step, name, self.priority
            return None
        high = np.float32(self.k.high_watermark) * np.float32(self.k.write_queue)
        low = np.float32(self.k.low_watermark) * np.float32(self.k.write_queue)
        if not self.write_mode:
            self.write_mode = bool(np.float32(len(self.writes)) > high or not self.reads)
        elif np.float32(len(self.writes)) < low and self.reads:
            self.write_mode = False
        queue = self.writes if self.write_mode else self.reads
        found = self.best(queue, lambda r, n: not self.closes_active(r, n) and allowed(r, n, queue))
        return (*found, queue) if found else None

    def issue(self, request: Request, name: str, source: list[Request], upgrade: bool = True) -> None:
        levels = len(self.sizes)
        bank = request.address[:levels]
        if upgrade and source is not self.priority:
            name = self.upgrade(request, name, source)
        if request.index >= 0 and not request.counted:
            request.counted = True
            if self.is_hit(request):
                self.out.hits += 1
            elif self.state[bank] == "open":
                self.out.conflicts += 1
            else:
                self.out.misses += 1
        self.record(name, request.address)
        if name in CLOSING:
            for b in self.matching(request.address):
                self.state[b], self.columns[b], self.injected[b] = "closed", 0, False
        elif name in ("RD", "WR"):
            self.columns[bank] += 1
        if name in ("RD", "WR", "RDA", "WRA"):
            self.last[bank] = self.clk
            source.remove(request)
            if source is self.active:
                self.active_count[bank] -= 1
            latency = self.c.timing.get("nCWL", 0) if request.write else self.c.timing.get("nCL", 0)
            tail = self.c.timing.get("nBL_min", self.c.burst) + self.c.timing.get("nWCKPST", 0)
            self.expiry = max(self.expiry, self.clk + latency + tail)
            if request.write:
                self.done += 1
                self.written += 1
                self.out.drain = max(self.out.drain, self.clk)
            else:
                depart = self.clk + self.c.read_latency
                self.out.latency[request.index] = depart - request.arrive
                self.departs.append((depart, request))
        elif name == "ACT":
            self.state[bank], self.row[bank], self.last[bank] = "open", request.address[levels], self.clk
            if len(self.active) < len(self.banks):
                self.active.append(request)
                source.remove(request)
                self.active_count[bank] += 1
        elif name == "ACT1":
            self.state[bank], self.last[bank] = "opening", self.clk
            source.remove(request)
            self.opening.append((request, self.clk + self.c.timing["nAAD"]))
        elif name == "ACT2":
            self.state[bank], self.row[bank] = "open", request.address[levels]
            self.opening.clear()
            self.active.append(request)
            self.active_count[bank] += 1
        elif source is self.priority and name == request.final:
            self.priority.pop(0)

    def record(self, name: str, address: tuple[int, ...]) -> None:
        self.raise_timing(name, address)
        self.out.commands.append((self.clk, name, address))

    def schedule(self) -> None:
        kind = self.k.kind
        if kind == "ddr":
            found = self.pick(lambda r, n, q: True)
            if found:
                self.issue(*found)
        elif kind in ("hbm2", "hbm3"):
            self.schedule_hbm()
        else:
            self.schedule_lpddr()

    def schedule_hbm(self) -> None:
        column = {"RD", "WR", "RDA", "WRA"}
        odd = self.clk % 2 == 1
        if self.k.kind == "hbm2" or odd:
            found = self.pick(lambda r, n, q: n in column)
            if found:
                self.issue(*found)

        def row(request: Request, name: str, queue: list[Request]) -> bool:
            if name in column:
                return False
            if self.k.kind == "hbm2" or odd:
                return True
            if not name.startswith("PRE"):
                return False
            tick, pc, bank = self.rising
            if self.clk != tick or request.address[1] != pc:
                return True
            return bank is not None and name == "PREpb" and request.address[: len(self.sizes)] != bank

        found = self.pick_waiting(row)
        if found:
            request, name, _ = found
            self.issue(*found)
            if self.k.kind == "hbm3" and odd:
                one = None if -1 in request.address[: len(self.sizes)] else request.address[: len(self.sizes)]
                self.rising = (self.clk + (3 if name == "ACT" else 1), request.address[1], one)

    def schedule_lpddr(self) -> None:
        if self.lock is not None:
            request, name, queue = self.lock
            if self.legal(name, request.address):
                self.lock = None
                self.issue(request, name, queue, upgrade=False)
            return
        if self.opening and self.opening[0][1] <= self.clk:
            self.issue(self.opening[0][0], "ACT2", [])
            return
        found = self.pick(lambda r, n, q: self.beside_opening(r, n))
        if found is None:
            if self.opening:
                self.issue(self.opening[0][0], "ACT2", [])
            return
        request, name, queue = found
        if self.k.clock_sync and name in ("RD", "WR") and self.clk >= self.expiry:
            if self.opening and self.opening[0][1] <= self.clk + 1:
                self.issue(self.opening[0][0], "ACT2", [])
            elif self.legal(f"CAS_{name}", request.address):
                self.record(f"CAS_{name}", request.address)
                self.lock = found
            return
        self.issue(*found)

    # -- the whole machine
    def run(self, transactions, writes, gap=0, outstanding=0, arrivals=None) -> Outcome:
        amap = address_map(self.c)
        total, next_index, offer, in_flight = len(transactions), 0, 0, 0
        while self.done < total:
            c = self.clk
            ready = next_index < total and c >= offer and (arrivals is None or c >= arrivals[next_index])
            if ready and not (outstanding and in_flight >= outstanding):
                tx, write = int(transactions[next_index]), bool(writes[next_index])
                accepted = True
                queued = any(r.transaction == tx for r in self.writes)
                if queued and write:
                    self.out.coalesced += 1
                    self.done += 1
                    self.out.drain = max(self.out.drain, c + 1)
                elif queued:
                    self.out.forwarded += 1
                    in_flight += 1
                    self.out.latency[next_index] = 1
                    self.departs.append((c + 1, Request((), "RD", index=next_index)))
                else:
                    queue = self.writes if write else self.reads
                    accepted = len(queue) < (self.k.write_queue if write else self.k.read_queue)
                    if accepted:
                        address = decode_plainly(amap, tx)
                        queue.append(Request(address, "WR" if write else "RD", tx, c, next_index, write))
                        in_flight += 1
                if accepted:
                    self.out.accept.append(c)
                    next_index += 1
                    offer = c + max(gap, 1)
            self.clk += 1
            self.out.read_queue_sum += len(self.reads)
            self.out.write_queue_sum += len(self.writes)
            self.out.priority_queue_sum += len(self.priority)
            while self.departs and self.departs[0][0] <= self.clk:
                self.departs.pop(0)
                self.done += 1
                in_flight -= 1
                self.out.drain = max(self.out.drain, self.clk)
            self.refresh()
            self.pre_schedule()
            before = self.written
            self.schedule()
            in_flight -= self.written - before
            if self.clk > 80_000:
                raise LockedUpError
        return self.out


def decode_plainly(amap, transaction: int) -> tuple[int, ...]:
    fields = [0] * len(amap.fields)
    # Fields of other sizes than powers of two, by long division from the lowest up.
    for shift, bits, size in amap.divisions:
        below, above = transaction % 2**shift, transaction // 2**shift
        transaction = below + (above % size) * 2**shift + (above // size) * 2 ** (shift + bits)
    for piece in amap.pieces:
        fields[piece.field] ^= ((transaction >> piece.shift) & piece.mask) << piece.to
    return tuple(fields)
