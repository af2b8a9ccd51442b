"""Prints what a run of the tests depends on: Python, processor, and the release of every dependency."""

import os
import platform
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
names = [re.match(r"[\w-]+", text)[0] for text in project["dependencies"] + project["optional-dependencies"]["test"]]
print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} processors")
print(", ".join(f"{name} {version(name)}" for name in names))
