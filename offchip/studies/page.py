"""The page of a study in ``docs/studies/``; ``offchip study run --write`` writes it, nobody edits it."""

from __future__ import annotations

import os
from pathlib import Path

from hw_configs.problems import bad_input
from offchip.studies.study import Outcome, Study, StudyTable

__all__ = ["page_text", "shown", "write_page"]


def page_text(study: Study, outcome: Outcome) -> str:
    """The page as Markdown; the same outcome gives the same text."""
    lines = [
        f"# {study.title}",
        "",
        f"<!-- Written by `offchip study run {study.name} --write docs/studies`. Do not edit. -->",
        "",
        f"Source: {study.source}. Claims: {outcome.words()}.",
        "",
        study.scenario,
        "",
        "## Claims",
        "",
        "| claim | published | Offchip | ratio | verdict | basis | certainty |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in outcome.claims:
        claim = result.claim
        ratio = "" if result.ratio is None else f"{result.ratio:.3f}"
        cells = (
            claim.statement, shown(claim.published, claim.unit), shown(result.ours, claim.unit), ratio,
            result.verdict, "" if result.ours is None else claim.basis, claim.certainty,
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Method and known differences", ""]
    paragraphs: dict[tuple[str, str, str], list[str]] = {}
    for result in outcome.claims:
        key = (result.method, result.differences, result.claim.source)
        paragraphs.setdefault(key, []).append(result.claim.statement)
    for (method, differences, source), statements in paragraphs.items():
        lines += [
            f"*{'; '.join(statements)}.* {method} Known differences: {differences} Source: {source}.",
            "",
        ]
    for figure in outcome.figures:
        lines += [f"![{figure.caption}]({study.name}-{figure.name}.svg)", "", figure.caption, ""]
    for table in outcome.tables:
        lines += [f"## {table.title}", "", *_markdown(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def shown(value: float | str | None, unit: str) -> str:
    """A figure with its unit, to four digits."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.4g} {unit}".rstrip()


def write_page(study: Study, outcome: Outcome, folder: Path) -> list[Path]:
    """Write the page and its figures into a folder; returns the files. Raises ``InputError`` if it cannot."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in outcome.figures:
            path = folder / f"{study.name}-{figure.name}.svg"
            temporary = path.with_name(f".{os.getpid()}.{path.name}")
            figure.draw(temporary)
            temporary.replace(path)
            written.append(path)
        page = folder / f"{study.name}.md"
        temporary = page.with_name(f".{os.getpid()}.{page.name}")
        temporary.write_text(page_text(study, outcome), encoding="utf-8")
        temporary.replace(page)
    except OSError as error:
        raise bad_input(f"cannot write: {error.strerror}", file=str(folder), path="--write") from None
    return [*written, page]


def _markdown(table: StudyTable) -> list[str]:
    rows = [
        " | ".join(cell if isinstance(cell, str) else f"{cell:.4g}" for cell in row) for row in table.rows
    ]
    return [
        "| " + " | ".join(table.columns) + " |",
        "|" + "---|" * len(table.columns),
        *(f"| {row} |" for row in rows),
    ]
