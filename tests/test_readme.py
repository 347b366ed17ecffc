"""What README and docs show is what the tool prints, and what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_demo_prints_what_the_readme_shows(cli):
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"<!-- demo -->\n```\n(.*?)```\n<!-- end -->", readme, re.DOTALL)
    assert shown is not None
    command = re.search(r"set -- (simulate .*)", (ROOT / "dev").read_text())
    assert command is not None
    printed = cli(*command[1].split()).out
    for block in shown[1].split("...\n"):
        assert block.strip() in printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_command_of_the_readme_is_there(cli):
    readme = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"`offchip ([a-z]+)", readme))
    listing = cli("--help").out
    for command in commands:
        assert re.search(rf"^\s+{command}\b", listing, re.MULTILINE), command
