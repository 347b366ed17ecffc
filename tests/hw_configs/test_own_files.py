"""A device may name a standard or a command set of one's own by its path, from the device's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import hw_configs
from hw_configs.device import Pim
from hw_configs.library import load_device
from hw_configs.problems import InputError

FOLDER = Path(hw_configs.__file__).parent


def test_ones_own_command_set_is_taken_from_beside_the_device(tmp_path: Path) -> None:
    text = (FOLDER / "devices" / "pim" / "gddr6-aim.yaml").read_text()
    assert "command_set: aim" in text
    (tmp_path / "mine.yaml").write_text((FOLDER / "pim_command_sets" / "aim.yaml").read_text())
    path = tmp_path / "own.yaml"
    for reference in ("./mine.yaml", "mine.yaml", str(tmp_path / "mine.yaml")):
        path.write_text(text.replace("command_set: aim", f"command_set: {reference}"))
        own = load_device(path)
        assert isinstance(own, Pim)
        shipped = load_device("gddr6-aim")
        assert isinstance(shipped, Pim)
        assert own.commands == shipped.commands
    path.write_text(text.replace("command_set: aim", "command_set: ./none.yaml"))
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        load_device(path)
    path.write_text(text.replace("command_set: aim", "command_set: aimm"))
    with pytest.raises(InputError, match="or the path of a file"):
        load_device(path)
