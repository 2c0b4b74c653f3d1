"""Ingesting facts from files into memories: `ingest`, and what it takes and gives."""

from workers.ingest.errors import SourceError
from workers.ingest.pipeline import Progress, Report, ingest
from workers.ingest.plan import Layout, Reading

__all__ = ["Layout", "Progress", "Reading", "Report", "SourceError", "ingest"]
