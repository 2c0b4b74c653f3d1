"""What is in deploy/, checked as far as that can be without docker, a cluster or root."""

from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
