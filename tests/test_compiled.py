"""Compiled kernels never outlive their sources, wherever and by however many processes they are kept."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hw_configs import kernel_files
from hw_configs.compiled import _quickly
from hw_configs.kernel_files import KernelFile, cache_directories, prune, sources_of

ROOT = Path(__file__).parents[1]

RUN = """
from offchip.cli.main import _say_what_is_compiled
_say_what_is_compiled()
from mini.kernel import scaled
print(scaled(3))
"""


def package(root: Path, factor: int) -> Path:
    """A package whose kernel takes a step and, through it, a constant from other modules."""
    folder = root / "mini"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text("")
    (folder / "constants.py").write_text(f"FACTOR = {factor}\n")
    (folder / "steps.py").write_text(
        "from hw_configs.compiled import compiled\n"
        "from mini.constants import FACTOR\n"
        "@compiled\ndef step(x):\n    return x * FACTOR\n"
    )
    (folder / "kernel.py").write_text(
        "from hw_configs.compiled import compiled\n"
        "from mini.steps import step\n"
        "@compiled\ndef scaled(x):\n    return step(x) + 1\n"
    )
    # As after an installation: every file of the same age and size.
    for file in folder.iterdir():
        os.utime(file, (1e9, 1e9))
    return root


def start(root: Path, kept: Path, **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(root), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-c", RUN],
        env={**os.environ, "PYTHONPATH": paths, "OFFCHIP_CACHE_DIR": str(kept), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def result(process: subprocess.Popen[str]) -> tuple[int, bool]:
    """What the kernel gave, and whether something was compiled. Nothing else may be said."""
    out, said = process.communicate(timeout=120)
    assert said in ("", "compiling, once\n")
    return int(out), bool(said)


def test_a_constant_two_modules_away_changes_the_kernel(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    root = package(tmp_path / "a", 2)
    assert result(start(root, kept)) == (7, True)
    assert result(start(root, kept)) == (7, False)
    assert result(start(package(root, 5), kept)) == (16, True)
    # Another installation with another constant, beside the first one.
    other = package(tmp_path / "b", 3)
    assert result(start(other, kept)) == (10, True)
    assert result(start(root, kept)) == (16, False)
    assert not list(root.rglob("*.nb?"))


def test_damaged_files_are_compiled_anew_and_mended(tmp_path: Path) -> None:
    kept, root = tmp_path / "kept", package(tmp_path / "a", 2)
    assert result(start(root, kept)) == (7, True)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        file.write_bytes(damaged)
        assert result(start(root, kept)) == (7, True)
        assert len(file.read_bytes()) == len(whole)
    assert result(start(root, kept)) == (7, False)


def test_processes_that_start_at_once_share_a_directory(tmp_path: Path) -> None:
    kept, root = tmp_path / "kept", package(tmp_path / "a", 2)
    both = [start(root, kept) for _ in range(2)]
    assert [result(process)[0] for process in both] == [7, 7]
    assert [file.suffix for file in kept.iterdir()] == [".kernel"]
    assert result(start(root, kept)) == (7, False)


def test_a_reader_finds_a_whole_file_while_others_write_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OFFCHIP_CACHE_DIR", str(tmp_path))
    file, contents = KernelFile("k", 1), [bytes([value]) * 1_000_000 for value in range(2)]
    file.write(pickle.dumps(contents[0]))
    with ThreadPoolExecutor(3) as pool:
        writers = [
            pool.submit(lambda c=c: [file.write(pickle.dumps(c)) for _ in range(20)]) for c in contents
        ]
        while not all(writer.done() for writer in writers):
            assert file.read() in contents


def test_without_the_right_to_write_a_kernel_is_compiled_all_the_same(tmp_path: Path) -> None:
    root, barred = package(tmp_path / "a", 2), tmp_path / "file"
    barred.write_text("")
    assert result(start(root, barred / "kept", TMPDIR=str(tmp_path))) == (7, True)
    # It was kept among the temporary files, in a directory that nobody else may change.
    (directory,) = tmp_path.glob("offchip-*")
    assert directory.stat().st_mode & 0o077 == 0
    assert result(start(root, barred / "kept", TMPDIR=str(tmp_path))) == (7, False)
    # Others could have put code there: not ours to run, and nothing is kept.
    directory.chmod(0o777)
    assert result(start(root, barred / "kept", TMPDIR=str(tmp_path))) == (7, True)


def test_without_numba_a_kernel_is_plain_python(tmp_path: Path) -> None:
    kept, root = tmp_path / "kept", package(tmp_path / "a", 2)
    assert result(start(root, kept, NUMBA_DISABLE_JIT="1")) == (7, False)
    assert not kept.exists()


def test_every_import_counts_wherever_it_stands(tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    (folder / "inner").mkdir(parents=True)
    texts = {
        "__init__": "from mini import first\n",
        "first": "A = 1\n",
        "kernel": (
            "from typing import TYPE_CHECKING\nimport numpy\n"
            "from mini import second as other\nfrom .inner import third\nfrom hw_configs import units\n"
            "if TYPE_CHECKING:\n    from mini import typed\nelse:\n    import mini.sixth\n"
            "try:\n    import mini.fourth\nexcept ImportError:\n    pass\n"
            "def f():\n    with f():\n        from mini.fifth import (\n  A,\n)  # comment)\n"
        ),
        "inner/__init__": "from ..seventh import A\n",
        "inner/third": "match 1:\n    case 1:\n        import mini.eighth\n",
        **dict.fromkeys(
            ("second", "fourth", "fifth", "sixth", "seventh", "eighth", "typed", "unused"), "A = 1\n"
        ),
    }
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    found = sources_of("mini.kernel", folder / "kernel.py")
    mine = {name.removeprefix("mini.") for name in found if name.startswith("mini.")}
    assert mine == {
        "kernel", "first", "second", "inner", "inner.third", "fourth", "fifth", "sixth", "seventh", "eighth",
    }  # fmt: skip
    assert "hw_configs.units" in found
    assert found["hw_configs.units"] == (ROOT / "hw_configs" / "units.py").read_bytes()


def test_every_kernel_of_the_repository_is_compiled_this_one_way() -> None:
    own = {ROOT / "hw_configs" / "compiled.py"}
    for name in kernel_files.PACKAGES:
        for file in set((ROOT / name).rglob("*.py")) - own:
            text = file.read_text(encoding="utf-8")
            assert "njit" not in text, file
            assert "numba.jit" not in text, file
            assert "vectorize" not in text, file


def test_versions_settings_and_processor_are_part_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    file = ROOT / "hw_configs" / "units.py"

    def name() -> str | None:
        kernel_files.fingerprint.cache_clear()
        kernel_files._versions.cache_clear()
        return kernel_files.fingerprint("hw_configs.units", file)

    plain = name()
    assert plain == name()
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda package: f"0.0 of {package}")
        assert name() != plain
    with monkeypatch.context() as patch:
        patch.setattr("numba.core.config.BOUNDSCHECK", 1)
        patch.setattr("numba.config.BOUNDSCHECK", 1)
        assert name() != plain
    assert KernelFile("k", plain, ("x86", "a")).name != KernelFile("k", plain, ("x86", "b")).name


def test_a_user_without_home_or_temporary_files_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none() -> Path:
        raise RuntimeError("no home")

    def nowhere() -> str:
        raise FileNotFoundError("no usable temporary directory")

    for name in ("OFFCHIP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert [place.parent for place in cache_directories()] == [tmp_path]
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert cache_directories() == ()
    KernelFile("k", 1).write(b"")
    assert KernelFile("k", 1).read() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directories() == (tmp_path / "offchip",)


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    now = time.time()
    for age, name in enumerate(("new", "older", "oldest")):
        (tmp_path / f"{name}.kernel").write_bytes(b"x" * 100)
        os.utime(tmp_path / f"{name}.kernel", (now - age, now - age))
    (tmp_path / "mine.txt").write_bytes(b"x" * 1000)
    (tmp_path / "being-written.part").write_bytes(b"x")
    (tmp_path / "broken-off.part").write_bytes(b"x")
    os.utime(tmp_path / "broken-off.part", (now - 1e6, now - 1e6))
    prune(tmp_path, 200)
    assert {file.name for file in tmp_path.iterdir()} == {
        "new.kernel", "older.kernel", "mine.txt", "being-written.part",
    }  # fmt: skip
    prune(tmp_path, 0)
    assert {file.name for file in tmp_path.iterdir()} == {"mine.txt", "being-written.part"}


def test_the_collector_of_cycles_rests_while_a_kernel_is_compiled_and_works_again_after() -> None:
    seen: list[bool] = []

    def compile_form(signature: str) -> str:
        seen.append(gc.isenabled())
        if signature == "broken":
            raise TypeError(signature)
        return quickly("step") if signature == "whole" else signature

    quickly = _quickly(compile_form)
    assert quickly("whole") == "step"
    assert seen == [False, False]
    assert gc.isenabled()
    with pytest.raises(TypeError, match="broken"):
        quickly("broken")
    assert gc.isenabled()
