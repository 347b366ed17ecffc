"""``offchip study``: the published systems, claim by claim."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hw_configs.problems import bad_input

if TYPE_CHECKING:
    from offchip.studies.study import Outcome, Study


def list_studies(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """List the studies: the published systems that Offchip can run again."""
    from offchip.cli.output import print_json, print_table
    from offchip.studies.study import STUDIES

    studies = [STUDIES.get(name) for name in STUDIES]
    if as_json:
        print_json({"studies": [{"name": s.name, "title": s.title, "source": s.source} for s in studies]})
        return
    print_table("", ("study", "title", "source"), [(s.name, s.title, s.source) for s in studies])


def run(
    name: Annotated[str | None, typer.Argument(help="Study to run; see 'offchip study list'.")] = None,
    run_all: Annotated[bool, typer.Option("--all", help="Run every study.")] = False,
    write: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each study's page and figures to this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run a study: each published figure, ours, the ratio and a verdict."""
    from offchip.cli.output import print_json, progress
    from offchip.studies.page import write_page
    from offchip.studies.study import STUDIES

    if run_all == (name is not None):
        raise bad_input("name one study, or ask for --all", path="NAME")
    studies = [STUDIES.get(entry) for entry in (STUDIES.names() if run_all else [str(name)])]
    outcomes = []
    with progress("studies", len(studies)) as bar:
        for study in studies:
            outcome = study.run()
            written = write_page(study, outcome, write) if write is not None else []
            outcomes.append((study, outcome, written))
            bar.advance()
    if as_json:
        print_json({"studies": [_json(study, outcome) for study, outcome, _ in outcomes]})
        return
    for study, outcome, written in outcomes:
        _print(study, outcome)
        for path in written:
            print(f"wrote {path}")


def _json(study: Study, outcome: Outcome) -> dict[str, Any]:
    return {
        "name": study.name,
        "title": study.title,
        "source": study.source,
        "scenario": study.scenario,
        "totals": dict(outcome.totals()),
        "claims": [result.to_json() for result in outcome.claims],
        "tables": [
            {"title": table.title, "columns": list(table.columns), "rows": [list(row) for row in table.rows]}
            for table in outcome.tables
        ],
    }


def _print(study: Study, outcome: Outcome) -> None:
    from offchip.cli.output import print_table
    from offchip.studies.page import shown

    rows = [
        (
            result.claim.statement,
            shown(result.claim.published, result.claim.unit),
            shown(result.ours, result.claim.unit),
            "" if result.ratio is None else f"{result.ratio:.3f}",
            result.verdict,
            "" if result.ours is None else result.claim.basis,
            result.claim.certainty,
        )
        for result in outcome.claims
    ]
    columns = ("claim", "published", "Offchip", "ratio", "verdict", "basis", "certainty")
    print_table(f"{study.title} ({study.source})", columns, rows)
    typer.echo(outcome.words())
