"""Which bits of an address choose the channel, rank, bank group, bank, row and column.

A mapping is a permutation of address bits, some of them XORed together, so every field is a sum over GF(2)
of pieces ``((transaction >> shift) & mask) << to``. One kernel decodes every mapping from its pieces.

Where a field has no power of two of values (6 channels, 3 ranks, the rows of a 24 Gb die) its value is the remainder
of what stands from it upwards, divided by their number; the quotient goes on. The kernel first spreads a transaction
number so, each such field in bits of its own, and takes its pieces from there. No address is left out and none is met
twice.

A mapping string is a name (``RoBaRaCoCh``, ``ChRaBaRoCo``, ``MOP4CLXOR``) or a list of fields from the most
to the least significant bit, such as ``ro co:4 ba bg co:2 ch``. A field without a width takes the bits of
that field that are still unplaced. ``ba^ro`` XORs the bank with the low row bits. Fields: ``ch`` channel,
``pc`` pseudo-channel, ``ra`` rank, ``si`` stack, ``bg`` bank group, ``ba`` bank, ``ro`` row, ``co`` column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from hw_configs.problems import bad_input, nearest
from simulator.dram.machine import Channel

__all__ = ["MAPPINGS", "AddressMap", "Decoder", "Piece", "address_map", "decode"]

MAPPINGS: Final = ("RoBaRaCoCh", "ChRaBaRoCo", "MOP4CLXOR")
_FIELDS: Final = {
    "ch": "Channel", "pc": "PseudoChannel", "ra": "Rank", "si": "Sid", "bg": "BankGroup", "ba": "Bank",
    "ro": "Row", "co": "Column",
}  # fmt: skip
_ANY_NUMBER: Final = frozenset({"Channel", "Rank", "Sid", "Row"})
"""Levels that need not be a power of two."""


@dataclass(frozen=True, slots=True)
class Piece:
    """``((transaction >> shift) & mask) << to`` is XORed into field ``field``."""

    field: int
    shift: int
    mask: int
    to: int


class Decoder(NamedTuple):
    """What the kernel decodes by; see :func:`decode`."""

    divisions: npt.NDArray[np.int64]
    pieces: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int32]


@dataclass(frozen=True)
class AddressMap:
    """Decodes transaction numbers (byte address / transaction size) of a whole device.

    ``fields`` are the names a piece's ``field`` counts: channel, the levels down to the bank, row, column.
    """

    fields: tuple[str, ...]
    sizes: tuple[int, ...]
    pieces: tuple[Piece, ...]
    transactions: int
    """Transactions of the whole device; an address at or beyond it is outside."""
    divisions: tuple[tuple[int, int, int], ...] = ()
    """From the lowest up: (shift, bits, size) of fields whose size is no power of two, below the top."""

    def decoder(self) -> Decoder:
        """The map as the kernel takes it."""
        divisions = np.array(self.divisions, dtype=np.int64).reshape(-1, 3)
        return Decoder(divisions, self.table(), self.renumbering())

    def renumbering(self) -> npt.NDArray[np.int32]:
        """The engine's number of a bank by its bits, where a level below the top one leaves some unused."""
        widths = [(size - 1).bit_length() for size in self.sizes[1:-2]]
        if all(size & (size - 1) == 0 for size in self.sizes[2:-2]):
            return np.zeros(0, np.int32)
        flat = np.zeros(1 << sum(widths), np.int32)
        for bits in range(flat.size):
            number, rest, left = 0, bits, sum(widths)
            for size, width in zip(self.sizes[1:-2], widths, strict=True):
                left -= width
                digit, rest = rest >> left, rest & ((1 << left) - 1)
                number = number * size + min(digit, size - 1)
            flat[bits] = number
        return flat

    def table(self) -> npt.NDArray[np.int64]:
        """The pieces of channel, bank and row as the kernel takes them.

        Each level has bits of its own in the bank number; see ``renumbering``.
        """
        row = len(self.fields) - 2
        low = {row: 0, 0: 0}
        bits = 0
        for index in range(row - 1, 0, -1):
            low[index] = bits
            bits += (self.sizes[index] - 1).bit_length()
        rows = [
            (0 if p.field == 0 else 2 if p.field == row else 1, p.shift, p.mask, p.to + low[p.field])
            for p in self.pieces
            if p.field in low
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, 4)

    def row_step(self) -> int | None:
        """Transactions by which an address moves to the next row of the same bank and column, if there is
        one.

        That is so when the row is the top field and enters nothing else: then adding this many transactions
        changes the row alone.
        """
        row = self.fields.index("Row")
        if self.divisions:
            return None
        pieces = [p for p in self.pieces if p.field == row]
        low = min(p.shift for p in pieces)
        if any(p.shift + int(p.mask).bit_length() > low for p in self.pieces if p.field != row):
            return None
        return 1 << low if [p.to for p in pieces] == [0] else None


def address_map(channel: Channel, channels: int = 1) -> AddressMap:
    """The map of ``channels`` equal channels; raises ``InputError`` for a string that is no mapping."""
    sizes = [channels, *(size for _, size in channel.levels[1:]), channel.rows, channel.columns]
    fields = (*channel.level_names, "Row", "Column")
    bits = [(size - 1).bit_length() for size in sizes]
    for name, size in zip(fields, sizes, strict=True):
        if size & (size - 1) and name not in _ANY_NUMBER:
            raise bad_input(f"found {size} of level {name}; an address can only choose among a power of two")
    if channel.transaction_bytes & (channel.transaction_bytes - 1):
        raise bad_input(f"found transactions of {channel.transaction_bytes} bytes; expected a power of two")
    last = len(fields) - 1
    if channel.mapping == "RoBaRaCoCh":
        pieces = _stack([0, last, *range(1, last)], bits)
    elif channel.mapping == "ChRaBaRoCo":
        pieces = _stack([last, *range(last - 1, 0, -1), 0], bits)
    elif channel.mapping == "MOP4CLXOR":
        pieces = _minimalist_open_page(bits)
    else:
        pieces = _parse(channel.mapping, fields, bits)
    total = 1
    for size in sizes:
        total *= size
    return AddressMap(fields, tuple(sizes), tuple(pieces), total, _divisions(fields, sizes, bits, pieces))


def _divisions(
    fields: tuple[str, ...], sizes: list[int], bits: list[int], pieces: list[Piece]
) -> tuple[tuple[int, int, int], ...]:
    """Where fields stand whose size is no power of two. The topmost one needs no division: what is left is its value.
    Raises ``InputError`` for one that is split, or that others are hashed into.
    """
    found = []
    top = max(piece.shift for piece in pieces if piece.mask)
    for index, size in enumerate(sizes):
        if size & (size - 1) == 0:
            continue
        own = [piece for piece in pieces if piece.field == index and piece.mask]
        if len(own) != 1 or own[0].to or own[0].mask != (1 << bits[index]) - 1:
            raise bad_input(
                f"{size} of level {fields[index]} are no power of two; expected the field in one piece and nothing "
                "hashed into it",
                path="mapping",
            )
        if own[0].shift != top:
            found.append((own[0].shift, bits[index], size))
    return tuple(sorted(found))


def _stack(order: list[int], bits: list[int]) -> list[Piece]:
    """Whole fields from the least significant bit upwards."""
    pieces, low = [], 0
    for index in order:
        pieces.append(Piece(index, low, (1 << bits[index]) - 1, 0))
        low += bits[index]
    return pieces


def _minimalist_open_page(bits: list[int]) -> list[Piece]:
    """Four transactions of a row stay together, then ranks and banks, then the rest of the row; XORed.

    Every level above the column, the row included, is XORed with the next column bits (as many as it has).
    """
    last, row = len(bits) - 1, len(bits) - 2
    if bits[last] < 2:
        raise bad_input(f"found {1 << bits[last]} columns; MOP4CLXOR needs at least 4", path="mapping")
    low = bits[0]
    pieces = [Piece(0, 0, (1 << bits[0]) - 1, 0), Piece(last, low, 3, 0)]
    low += 2
    for index in range(1, row):
        pieces.append(Piece(index, low, (1 << bits[index]) - 1, 0))
        low += bits[index]
    high_column = Piece(last, low, (1 << (bits[last] - 2)) - 1, 2)
    pieces.append(high_column)
    low += bits[last] - 2
    pieces.append(Piece(row, low, (1 << bits[row]) - 1, 0))
    used = 0
    for index in range(1, last):
        width = min(bits[index], max(bits[last] - used, 0))
        for bit in range(used, used + width):
            source = bits[0] + bit if bit < 2 else high_column.shift + bit - 2
            pieces.append(Piece(index, source, 1, bit - used))
        used += bits[index]
    return pieces


def _parse(text: str, fields: tuple[str, ...], bits: list[int]) -> list[Piece]:
    words = text.replace(",", " ").split()
    if len(words) <= 1:
        raise bad_input(
            f"unknown address mapping {text!r}; known: {', '.join(MAPPINGS)}, or a list of fields such as "
            "'ro ba bg ra co ch'",
            path="mapping",
            suggestion=nearest(text, MAPPINGS),
        )
    left = dict(zip(fields, bits, strict=True))
    # A bare field takes the bits that no other word of the same field claims.
    claimed: dict[str, int] = {}
    for field, width in re.findall(r"\b([a-z]{2}):([0-9]{1,4})\b", text.lower()):
        claimed[field] = claimed.get(field, 0) + int(width)
    placed: list[tuple[int, int, int, int]] = []
    hashed: list[tuple[int, str]] = []
    low = 0
    for word in reversed(words):
        match = re.fullmatch(r"([a-z]{2})(?::([0-9]{1,4}))?(?:\^([a-z]{2}))?", word.lower())
        name = _FIELDS.get(match[1]) if match else None
        if match is None or name is None or (match[3] is not None and match[3] not in _FIELDS):
            raise bad_input(
                f"unknown field {word!r} in the address mapping {text!r}; fields: {', '.join(_FIELDS)}, "
                "with a width (co:2) or a hash (ba^ro) if wanted",
                path="mapping",
                suggestion=nearest(word.lower().split(":")[0].split("^")[0], _FIELDS),
            )
        if name not in left:
            if match[2] in (None, "0"):
                continue
            raise bad_input(f"field {word!r}: this device has no level {name}", path="mapping")
        bare = max(bits[fields.index(name)] - claimed.get(match[1], 0), 0)
        width = min(bare, left[name]) if match[2] is None else int(match[2])
        if width > left[name]:
            raise bad_input(f"field {word!r}: only {left[name]} bits of {name} are left", path="mapping")
        index = fields.index(name)
        done = bits[index] - left[name]
        placed.append((index, low, width, done))
        if match[3] is not None:
            hashed.append((index, _FIELDS[match[3]]))
        left[name] -= width
        low += width
    missing = [name for name, count in left.items() if count]
    if missing:
        raise bad_input(
            f"the address mapping {text!r} places no bits for {', '.join(missing)}", path="mapping"
        )
    pieces = [Piece(index, shift, (1 << width) - 1, to) for index, shift, width, to in placed]
    for index, source in hashed:
        if source not in fields or fields.index(source) == index:
            raise bad_input(f"{source} cannot be hashed into {fields[index]}", path="mapping")
        pieces += _hash(index, fields.index(source), bits, placed)
    return pieces


def _hash(index: int, source: int, bits: list[int], placed: list[tuple[int, int, int, int]]) -> list[Piece]:
    """The low bits of one field, as wherever they stand, XORed into another."""
    pieces = []
    for bit in range(min(bits[index], bits[source])):
        for owner, shift, width, done in placed:
            if owner == source and done <= bit < done + width:
                pieces.append(Piece(index, shift + bit - done, 1, bit))
    return pieces


@compiled
def decode(address, shift, decoder: Decoder, transaction, unit, bank, row):  # type: ignore[no-untyped-def]
    """Fill ``transaction`` (address without its low ``shift`` bits), ``unit`` (channel), ``bank`` (flat number
    inside the channel) and ``row`` of each address.

    A row of ``pieces`` is (0 unit, 1 bank or 2 row; shift; mask; to). Piece by piece, so that each loop over the
    addresses is a vector loop. ``divisions`` spread the number first, ``numbers`` are those of banks by their bits
    (empty: the bits).
    """
    divisions, pieces, numbers = decoder
    for i in range(address.size):
        transaction[i] = address[i] >> shift
        unit[i] = 0
        bank[i] = 0
        row[i] = 0
    for j in range(divisions.shape[0]):
        low, bits, size = divisions[j, 0], divisions[j, 1], divisions[j, 2]
        for i in range(address.size):
            high = transaction[i] >> low
            below = transaction[i] & ((1 << low) - 1)
            transaction[i] = ((high // size) << (low + bits)) | ((high % size) << low) | below
    for j in range(pieces.shape[0]):
        low, mask, to = pieces[j, 1], pieces[j, 2], pieces[j, 3]
        out = unit if pieces[j, 0] == 0 else bank if pieces[j, 0] == 1 else row
        for i in range(address.size):
            out[i] ^= ((transaction[i] >> low) & mask) << to
    if numbers.size > 0:
        for i in range(address.size):
            bank[i] = numbers[bank[i]]
