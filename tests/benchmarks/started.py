"""A trainer on Ray that says which process it is, for who means to end it; no benchmark itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from workers import distributed


def train(told: dict[str, Any]) -> None:
    """Trains as always, once there is a file in the folder of its run that has its number."""
    Path(told["folder"], f"trainer-{os.getpid()}").touch()
    distributed.train(told)
