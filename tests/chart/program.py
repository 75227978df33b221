"""What the program knows, read from its table of settings: src/config/settings.rs. No build is needed."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from chartlib import ROOT

SETTING = re.compile(r'Setting::(new|unsupported)\(\s*"([a-z0-9-]+)",(.*?)(?=Setting::(?:new|unsupported)\(|\n\];)', re.S)
VARIABLE = re.compile(r'\bused\(\s*"([A-Z0-9_, ]+)"')


@dataclass(frozen=True)
class Setting:
    default: str | None
    # Whether it does something in a daemon, in at least one build.
    takes_effect: bool


def takes_effect(table: str, rest: str) -> bool:
    """Used, the state of a setting that says nothing, or ServiceOnly; a constant may be defined for several builds."""
    treatment = re.search(r"\.treated\((\w+)(?:\)|::(\w+))", rest)
    if treatment is None:
        return True
    name, variant = treatment.groups()
    words = variant or " ".join(re.findall(rf"const {name}: Treatment =(.*?);\n", table, re.S))
    return bool(re.search(r"\b(Used|ServiceOnly)\b", words))


@functools.cache
def settings() -> dict[str, Setting]:
    """The settings by the name of their variable."""
    table = (ROOT / "src" / "config" / "settings.rs").read_text()
    found = {}
    for way, name, rest in SETTING.findall(table):
        default = re.search(r'\.default\("([^"]*)"\)', rest)
        effect = way == "new" and takes_effect(table, rest)
        found["BATON_" + name.upper().replace("-", "_")] = Setting(default and default.group(1), effect)
    assert len(found) > 60, "the table has another form"
    return found


@functools.cache
def variables() -> set[str]:
    """The variables that take effect and are no settings."""
    table = (ROOT / "src" / "config" / "settings.rs").read_text()
    found = {name for names in VARIABLE.findall(table) for name in names.split(", ")}
    assert "BATON_HOST_ID" in found
    return found
