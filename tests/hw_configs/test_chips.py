"""Chips as data sheets: rates that follow from units and clocks, prices with dates, names that sources use."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hw_configs.catalog import catalog, known_name, spelling
from hw_configs.device import Accelerator, Gpu
from hw_configs.library import load_device, load_system, read_any
from hw_configs.problems import InputError
from offchip.validation.reference_gpu import ReferenceGpus, machine_of, same_gpu

KERNELS = Path(__file__).parents[1] / "reference" / "kernels" / "hardware.csv"
DEVICES = [entry.name for entry in catalog().values() if entry.kind == "device"]
GPUS = [name for name in DEVICES if isinstance(load_device(name), Gpu)]
ARRAYS = [name for name in DEVICES if isinstance(load_device(name), Accelerator)]
WIDTH = {"fp16": 16, "bf16": 16, "fp8": 8, "int8": 8, "fp4": 4, "mxfp4": 4, "int4": 4}

# Why a chip's 16-bit rate is below that of its units.
BELOW_ITS_UNITS = {
    "h20": "a quarter of the units' rate, for export rules",
    "l20": "half of an L40S per clock, for export rules",
    "b300": "the 16- and 8-bit rates of Blackwell; 12,288 operations are those of fp4",
    "gb300": "as b300",
    "gb10": "below the boost clock that boards reach",
}
# GeForce boards do half as many products with fp32 sums; H100's and B200's tensor rates are stated below the boost clock.
SHARES = (1.0, 0.5)
STATED_AT = {
    "h100-sxm": 1830e6,
    "h200": 1830e6,
    "h800": 1830e6,
    "gh200": 1830e6,
    "h100-nvl": 1545e6,
    "h100-pcie": 1620e6,
    "b200": 1856e6,
}
