"""Accesses of a GPU's threads to memory: read from trace files, or made as a described kernel makes them."""

from workloads.gpu_trace.kernels import KERNELS, generate_kernel
from workloads.gpu_trace.readers import FORMATS, open_gpu_trace
from workloads.gpu_trace.trace import ATOMIC, LOAD, STORE, ArrayGpuTrace, GpuAccesses, GpuTrace

__all__ = [
    "ATOMIC",
    "FORMATS",
    "KERNELS",
    "LOAD",
    "STORE",
    "ArrayGpuTrace",
    "GpuAccesses",
    "GpuTrace",
    "generate_kernel",
    "open_gpu_trace",
]
