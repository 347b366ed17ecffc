"""One HTML file that holds everything: data, script and style. It opens from a file and asks no network.

The data stands in the page as JSON that cannot end its script tag, and the script only ever writes text
nodes, so that names from users' files stay names. A content security policy in the page forbids any script
or style but the page's own, and any request. The same data gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from hw_configs.output_file import finite
from hw_configs.problems import bad_input

__all__ = ["build_page", "report", "write_page"]

_SCRIPTS = {
    "run": ("base.js", "chart.js", "run.js"),
    "sweep": ("base.js", "chart.js", "sweep.js"),
    "serving": ("base.js", "chart.js", "serving.js"),
}


def report(folder: str | Path) -> dict[str, Any]:
    """The page's data for a folder that a run, a service or a sweep wrote; ``InputError`` when it is neither."""
    folder = Path(folder)
    if not folder.is_dir():
        raise bad_input("no such folder", file=str(folder))
    if (folder / "sweep.sqlite").is_file():
        from offchip.report.sweep import sweep_page

        return sweep_page(folder)
    if (folder / "serving.json.gz").is_file():
        from offchip.serving.export import read_page

        return read_page(folder / "serving.json.gz")
    if not (folder / "result.json").is_file():
        raise bad_input(
            "holds neither result.json nor sweep.sqlite; 'offchip simulate ... --out DIR', "
            "'offchip serve ... --out DIR' or 'offchip sweep SPACE.yaml --out DIR' writes one",
            file=str(folder),
        )
    from offchip.report.run import read_folder, run_page

    return run_page(*read_folder(folder))


def build_page(data: dict[str, Any]) -> str:
    """The page as HTML text."""
    style = _asset("page.css")
    script = "\n".join(_asset(name) for name in _SCRIPTS[data["kind"]])
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    title = html.escape(f"{data['title']} – Offchip")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # An empty icon of its own keeps a browser from asking for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        "<noscript><p>This page draws its figures with the script inside it; please allow scripts.</p></noscript>\n"
        f'<script type="application/json" id="data">{_embedded(data)}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def write_page(data: dict[str, Any], path: Path) -> Path:
    """Write the page through a temporary name; ``InputError`` when that cannot be done."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(build_page(data), encoding="utf-8", newline="\n")
        return part.replace(path)
    except OSError as error:
        raise bad_input(f"cannot be written: {error.strerror}", file=str(path)) from None


def _asset(name: str) -> str:
    return (files("offchip.report") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: Any) -> str:
    """JSON that is safe inside a script tag: no tag, no entity and no line separator can arise in it."""
    text = json.dumps(finite(data), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
