"""Indexes: derived, disposable structures that propose candidate rows for a query."""

try:
    import faiss  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "memstore needs faiss: install memstore[cpu], or memstore[gpu] where there is a GPU",
        name="faiss",
    ) from error
