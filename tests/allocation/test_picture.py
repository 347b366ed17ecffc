"""What a picture of a packing holds: every rectangle, label and line, read back from the figure itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hw_configs.problems import InputError
from mapping.allocation import AllocationProblem, Buffer, Gap
from mapping.allocation import picture as picture_module
from mapping.allocation.picture import draw

svg = pytest.importorskip("matplotlib.backends.backend_svg")
COLOURS = picture_module._COLOURS


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes of every picture drawn."""
    seen: list[Any] = []

    class Canvas:
        def __init__(self, figure: Any) -> None:
            seen.append(figure.axes[0])

        def print_svg(self, out: Any, metadata: Any) -> None:
            assert metadata == {"Date": None}
            out.write(b"picture")

    monkeypatch.setattr(svg, "FigureCanvasSVG", Canvas)
    return seen


def shapes(axes: Any) -> list[list[tuple[float, float]]]:
    (collection,) = axes.collections
    return [[tuple(point) for point in path.vertices[:4].tolist()] for path in collection.get_paths()]


def test_every_part_of_a_life_is_a_rectangle_with_its_name(axes: list[Any], tmp_path: Path) -> None:
    from matplotlib.colors import to_hex

    buffers = [Buffer("first", 1, 9, 6, gaps=(Gap(3, 5), Gap(7, 9, (2, 4)))), Buffer("x" * 20, 2, 4, 8)]
    problem = AllocationProblem.of(
        [*buffers, *(Buffer(f"b{i}", 4, 4, 1) for i in range(8)), Buffer("c", 4, 5, 2)]
    )
    draw(problem, [0, 6, *[0] * 8, 20], tmp_path / "p.SVG", capacity=30)
    (found,) = axes
    assert shapes(found) == [
        [(1, 0), (3, 0), (3, 6), (1, 6)], [(5, 0), (7, 0), (7, 6), (5, 6)], [(7, 2), (9, 2), (9, 4), (7, 4)],
        [(2, 6), (4, 6), (4, 14), (2, 14)], [(4, 20), (5, 20), (5, 22), (4, 22)],
    ]  # fmt: skip
    colours = [to_hex(colour) for colour in found.collections[0].get_facecolors()]
    assert colours == [COLOURS[0]] * 3 + [COLOURS[1], COLOURS[10 % 9]]
    assert [(text.get_text(), *text.get_position()) for text in found.texts] == [
        ("first", 2, 3), ("first", 6, 3), ("first", 8, 3), ("x" * 12, 3, 10), ("c", 4.5, 21),
    ]  # fmt: skip
    assert [(line.get_label(), line.get_ydata()[0]) for line in found.lines] == [
        ("peak 22 B", 22), ("capacity 30 B", 30),
    ]  # fmt: skip
    assert (found.get_xlim(), found.get_ylim()) == ((1, 9), (0, pytest.approx(1.03 * 30)))
    assert (found.get_title(), found.get_xlabel(), found.get_ylabel()) == (
        "packing",
        "time",
        "address (bytes)",
    )
    assert (tmp_path / "p.SVG").read_bytes() == b"picture"


def test_limits_without_capacity_life_or_buffers(axes: list[Any], tmp_path: Path) -> None:
    draw(AllocationProblem.of([Buffer("a", 3, 3, 4)], "named"), [0], tmp_path / "a.svg")
    draw(AllocationProblem.of([]), [], tmp_path / "b.svg")
    draw(AllocationProblem.of([Buffer("a", 0, 4, 40)]), [10], tmp_path / "c.svg", capacity=20)
    assert [(found.get_xlim(), found.get_ylim()) for found in axes] == [
        ((3, 4), (0, 1.03)), (axes[1].get_xlim(), (0, 1.03)), ((0, 4), (0, 1.03 * 50)),
    ]  # fmt: skip
    assert [len(found.lines) for found in axes] == [1, 1, 2]
    assert axes[0].get_title() == "named"


def test_more_than_120_rectangles_go_unnamed(axes: list[Any], tmp_path: Path) -> None:
    for count in (120, 121):
        problem = AllocationProblem.of([Buffer(f"b{i}", i, i + 1, 4) for i in range(count)])
        draw(problem, [0] * count, tmp_path / "p.svg")
    assert [len(found.texts) for found in axes] == [120, 0]


def test_a_picture_that_cannot_be_written_is_told(axes: list[Any], tmp_path: Path) -> None:
    (tmp_path / "p.svg").mkdir()
    with pytest.raises(InputError) as error:
        draw(AllocationProblem.of([]), [], tmp_path / "p.svg")
    assert str(error.value) == f"{tmp_path / 'p.svg'}: cannot be written: Is a directory"
    assert [path.name for path in tmp_path.iterdir()] == ["p.svg"]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError) as error:
        draw(AllocationProblem.of([]), [], tmp_path / "p.svg")
    assert str(error.value) == "--plot: a picture needs matplotlib: pip install 'offchip[plots]'"
