"""Indexes: derived, disposable structures that propose candidate rows for a query."""

from memstore.extras import install

try:
    import faiss  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"memstore needs faiss: {install('cpu')}, or {install('gpu')} where there is a GPU",
        name="faiss",
    ) from error
