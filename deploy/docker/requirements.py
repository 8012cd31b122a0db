"""Prints what an extra of pyproject.toml needs, one requirement a line; without an argument what everything needs.

    python3 requirements.py pyproject.toml [EXTRA]

So that images have their dependencies in layers of their own, which a change of our code leaves in the cache.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
lines = project["optional-dependencies"][sys.argv[2]] if len(sys.argv) > 2 else project["dependencies"]
sys.stdout.write("".join(line + "\n" for line in lines))
