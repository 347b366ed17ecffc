"""Memories beside a language model: banks of blocks fetched by context, and small networks that stand for a store."""

from __future__ import annotations

from workloads.memory_bank.bank import (
    BankLevel,
    DecoderMemory,
    HierarchicalBank,
    MemoryBank,
    MlpMemory,
    load_bank,
    preset_banks,
)

__all__ = [
    "BankLevel", "DecoderMemory", "HierarchicalBank", "MemoryBank", "MlpMemory", "load_bank", "preset_banks",
]  # fmt: skip
