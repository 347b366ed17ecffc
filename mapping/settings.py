"""Settings of a mapper; what they are stands in :mod:`hw_configs.settings`, which caches use too."""

from __future__ import annotations

from hw_configs.settings import (
    Answer,
    Model,
    NoSettings,
    SettingInfo,
    Settings,
    Share,
    count,
    flag,
    name_of,
    number,
    read_settings,
    seconds,
    settings_of,
    share,
    size,
    size_or_share,
    word,
)

__all__ = [
    "Answer",
    "Model",
    "NoSettings",
    "SettingInfo",
    "Settings",
    "Share",
    "count",
    "flag",
    "name_of",
    "number",
    "read_settings",
    "seconds",
    "settings_of",
    "share",
    "size",
    "size_or_share",
    "word",
]
