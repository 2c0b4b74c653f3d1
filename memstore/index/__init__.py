"""Indexes: derived, disposable structures that propose candidate rows for a query."""
