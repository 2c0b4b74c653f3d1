"""The error of a source, which says where in it."""

from __future__ import annotations

from pathlib import Path

from models.tasks.knowledge import TaskDataError


class SourceError(TaskDataError):
    """Says what is wrong with a source: path; line, from 1, or None where it is not in one."""

    def __init__(
        self, path: Path | str, line: int | None, got: str, expected: str, remedy: str
    ) -> None:
        self.path, self.line = Path(path), line
        self.facts = got, expected, remedy
        where = f"{path}, line {line}" if line is not None else str(path)
        super().__init__(f"{got} in {where}", expected, remedy)
