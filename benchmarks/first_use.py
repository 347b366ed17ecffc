"""What the first use of an engine costs: CPU seconds of whole commands with no kernel on disk, and with all.

./dev bench first_use
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile

COMMANDS = {
    "trace dram": ("trace", "dram", "seq_read:1000", "--hw", "ddr4-2400r"),
    "trace flash": ("trace", "flash", "randread:2000", "--hw", "nvme-pcie4-tlc"),
    "trace pim": ("trace", "pim", "gemv:1024x1024", "--hw", "gddr6-aim"),
}
RUNS = 3


def cpu_seconds(command: tuple[str, ...], kernels: str) -> float:
    """User and system time of one run of the command line."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "from offchip.cli.main import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, *command], check=True, capture_output=True,
        env={**os.environ, "OFFCHIP_CACHE_DIR": kernels},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """The least of three runs each, in turn, so that both meet the same load."""
    print(f"{'command':<14}{'cold':>8}{'warm':>8}{'ratio':>8}")
    for name, command in COMMANDS.items():
        cold, warm = [], []
        for _ in range(RUNS):
            with tempfile.TemporaryDirectory() as kernels:
                cold.append(cpu_seconds(command, kernels))
                warm.append(cpu_seconds(command, kernels))
        print(f"{name:<14}{min(cold):>7.2f}s{min(warm):>7.2f}s{min(cold) / min(warm):>8.1f}")


if __name__ == "__main__":
    main()
