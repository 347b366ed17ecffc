"""A small scratchpad machine, built from a system file, and graphs for it."""

import textwrap

from hw_configs.library import load_system

TEXT = """
kind: system
name: pad
devices:
  npu:
    memory: scratchpad
    device:
      kind: accelerator
      name: npu
      clock: 1 GHz
      array_rows: {rows}
      array_columns: {columns}
      arrays: {arrays}
      dataflow: {dataflow}
      prefetch: {prefetch}
      compute:
        matrix: {{int8: {rate} TOP/s, fp16: {half} TFLOP/s}}
        vector: {{int8: 64 GOP/s}}
        energy_per_operation: {{int8: 1 pJ/OP}}
      scratchpad: {{size: {size} B, banks: 8, bank_width: 16 B, energy_per_byte: 2 pJ/B, dma_engines: {dma}}}
  dram: {{use: lpddr5-6400}}
links:
  - link: {{kind: onchip, name: dma, bandwidth: 10 GB/s, latency: 100 ns, energy_per_byte: 3 pJ/B, duplex: half}}
    between: [npu, dram]
"""


def text(*, rows=16, columns=16, arrays=1, dataflow="weight", prefetch="true", size=65536, dma=2):
    rate = 2 * rows * columns * arrays / 1e3
    return textwrap.dedent(
        TEXT.format(
            rows=rows, columns=columns, arrays=arrays, dataflow=dataflow, prefetch=prefetch, size=size, dma=dma,
            rate=rate, half=rate / 2,
        )
    )  # fmt: skip


def machine(tmp_path, **figures):
    """The system of :func:`text`."""
    path = tmp_path / "pad.yaml"
    path.write_text(text(**figures))
    return load_system(str(path))
