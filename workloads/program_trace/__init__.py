"""Accesses of programs to memory: read from trace files, or made by rule."""

from workloads.program_trace.generators import PATTERNS, generate_program
from workloads.program_trace.readers import FORMATS, open_program
from workloads.program_trace.trace import Accesses, ArrayProgram, Copies, ProgramTrace

__all__ = [
    "FORMATS",
    "PATTERNS",
    "Accesses",
    "ArrayProgram",
    "Copies",
    "ProgramTrace",
    "generate_program",
    "open_program",
]
