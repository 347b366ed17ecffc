"""``offchip solve pipeline``: figures, tables, pictures, one line for what is wrong."""

from __future__ import annotations

import json

import pytest

import offchip
from mapping.training.schedules.write import SCHEDULES


def test_a_named_schedule(cli):
    shown = cli("solve", "pipeline", "--schedule", "1f1b", "--ranks", 4, "--micro-batches", 8)
    assert shown.code == 0
    assert "bubble" in shown.out
    assert "27.27 %" in shown.out
    assert "0 |F0-F1-F2-F3-" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 120


def test_json(cli):
    out = cli("solve", "pipeline", "--schedule", "v-half", "--ranks", 4, "--micro-batches", 8, "--json").out
    answer = json.loads(out)
    assert answer["stages_per_rank"] == 2
    assert answer["peak_activations_by_rank"] == [3.0] * 4
    assert answer["orders"][0].startswith("0F0 0F1 ")
    assert answer == offchip.solve_pipeline(schedule="v-half", ranks=4, micro_batches=8).as_json()


def test_all_of_them_on_one_model(cli):
    out = cli(
        "solve", "pipeline", "--schedule", "all", "--ranks", 4, "--micro-batches", 7, "--memory", 4, "--json"
    ).out
    answer = json.loads(out)
    assert {"dualpipe", "dualpipe-v", "chimera"} <= set(answer["refused"])
    found = {row["schedule"]: row for row in answer["schedules"]}
    assert len(found) + len(answer["refused"]) == len(SCHEDULES.names())
    assert found["1f1b"]["fits"]
    assert not found["gpipe"]["fits"]
    # The same model: a rank's work is the same whatever its stages.
    for row in found.values():
        assert row["makespan"] * (1 - row["bubble_share"]) == pytest.approx(3 * 7)
    table = cli("solve", "pipeline", "--schedule", "all", "--ranks", 4, "--micro-batches", 7)
    assert "cannot take these counts" in table.out


def test_the_output_layer_lies_on_the_last_stage_or_on_all_ranks():
    def busy(name: str) -> list[float]:
        answer = offchip.solve_pipeline(schedule=name, ranks=4, micro_batches=8, output_layer="2,2,2")
        return answer.run.busy_s.tolist()

    assert busy("1f1b") == pytest.approx([24, 24, 24, 24 + 48])
    assert busy("zbv-zero-bubble") == pytest.approx([24 + 48, 24, 24, 24])
    for name in ("1f1b-vocabulary-1", "1f1b-vocabulary-2", "v-half-vocabulary-1", "v-half-vocabulary-2"):
        assert busy(name) == pytest.approx([24 + 12] * 4)
    assert sum(busy("dualpipe")) == pytest.approx(4 * 24 + 48)


def test_uneven_stages_are_parts_of_the_model():
    answer = offchip.solve_pipeline(schedule="1f1b", ranks=4, micro_batches=2, stage_times=[1, 3])
    assert answer.run.busy_s.tolist() == pytest.approx([6, 6, 18, 18])
    answer = offchip.solve_pipeline(schedule="v-half", ranks=2, micro_batches=2, stage_times="1,2,3")
    assert answer.run.busy_s.sum() == pytest.approx(2 * 2 * 3 * 2)


def test_the_optimal_one(cli, tmp_path):
    out = cli(
        "solve", "pipeline", "--schedule", "optimal", "--ranks", 3, "--micro-batches", 4, "--times", "1,1.1,0.9",
        "--memory", "4 GiB", "--activation", "2GiB", "--plot", tmp_path / "a.svg", "--json",
    )  # fmt: skip
    answer = json.loads(out.out)
    assert (answer["status"], answer["gap"], answer["memory"], answer["fits"]) == ("optimal", 0.0, 2.0, True)
    assert answer["makespan"] == pytest.approx(answer["bound"])
    assert max(answer["peak_bytes_by_rank"]) == 2 * 2 * 2**30
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    whole = offchip.solve_pipeline(
        schedule="optimal", ranks=2, micro_batches=3, stages_per_rank=2, times="1,2"
    )
    assert whole.best is not None
    assert whole.best.status == "optimal"
    assert whole.run.packed.schedule.rank_of_stage == (0, 1, 1, 0)
    assert "lower bound" in str(whole)


def test_pictures_are_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        offchip.solve_pipeline(schedule="zb-h1", ranks=4, micro_batches=8, plot=tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--schedule", "zbh1"), 2, "did you mean 'zb-h1'?"),
        (("--schedule", "dualpipe", "--ranks", 3), 2, "dualpipe takes an even number of ranks; found 3"),
        (("--schedule", "dualpipe-v", "--ranks", 8), 2, "at least 16 micro-batches"),
        (("--schedule", "interleaved-1f1b", "--micro-batches", 9), 2, "equal rounds"),
        (("--schedule", "1f1b", "--stages-per-rank", 2), 2, "1f1b has 1; found 2"),
        (("--ranks", 0), 2, "--ranks: found 0; expected 1 to 65536"),
        (("--times", "1"), 2, "--times: found 1 figures; expected F,B or F,I,W"),
        (("--times", "1,x"), 2, "--times: found 'x'"),
        (("--times", "1,0"), 2, "--times: found 0; expected numbers above zero"),
        (("--stage-times", "1,nan"), 2, "--stage-times: found nan"),
        (("--communication", -1), 2, "--communication"),
        (
            ("--memory", "3 GiB"),
            2,
            "--memory: found '3 GiB'; expected micro-batches, or a size together with",
        ),
        (("--memory", "3 parsecs", "--activation", "1GiB"), 2, "--memory"),
        (("--memory", -1), 2, "--memory"),
        (("--layout", "w"), 2, "--layout: found 'w'; expected v or looped"),
        (("--plot", "a.pdf"), 2, "--plot: found '.pdf'"),
        (("--schedule", "all", "--plot", "a.svg"), 2, "--plot"),
        (("--schedule", "optimal", "--engine", "milp"), 2, "unknown engine 'milp'"),
        (("--schedule", "gpipe", "--memory", 2), 3, "gpipe holds 8 on rank 0; the limit is 2"),
        (("--schedule", "optimal", "--memory", 0.5), 3, "infeasible (proved)"),
    ],
)
def test_one_line_for_what_is_wrong(cli, arguments, code, said):
    outcome = cli("solve", "pipeline", *arguments)
    assert outcome.code == code
    assert said in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
