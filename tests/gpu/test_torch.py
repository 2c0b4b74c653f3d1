"""A reader whose tensors are on a device trains as one on the host does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memstore import EncodingConfig, MemoryConfig
from memstore.store import Store
from memstore.torch import RowOptimizer, RowTable, SparseReader
from tests.gpu.stand_in import PLACES


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    """A GPU, or what torch calls the stand-in."""
    return "cpu" if request.param == "stand-in" else "cuda:0"


def gaussian(seed: int, rows: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width), np.float32)


def test_rows_are_read_and_trained_from_there(place: str, tmp_path) -> None:
    with Store(tmp_path / "store") as store:
        learnt = []
        for name, device in (("there", place), ("here", "cpu")):
            memory = store.create(name, MemoryConfig(dim=8, value_dim=3, index="exact"))
            memory.append(gaussian(0, 50, 8), gaussian(1, 50, 3))
            reader = SparseReader(memory, k=60, device=device)
            query = torch.from_numpy(gaussian(2, 4, 8)).to(device).requires_grad_()
            output = reader(query).output_QV
            assert output.device == query.device
            output.square().sum().backward()
            assert query.grad is not None
            assert reader.rows is not None
            assert RowOptimizer([reader.rows]).step() == 50
            rows = memory.gather(np.arange(50))
            learnt.append((rows.keys_BD, rows.values_BV, query.grad.cpu().numpy()))
    for one, other in zip(*learnt, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_parts_of_an_encoded_memory_are_there(place: str, tmp_path) -> None:
    with Store(tmp_path / "store") as store:
        parts = store.create("parts", MemoryConfig(dim=8, index="none"))
        parts.append(gaussian(0, 20, 8))
        facts = store.create(
            "facts",
            MemoryConfig(
                dim=8,
                index="exact",
                records={"subject": "int64", "objects": "list<int64>"},
                encoding=EncodingConfig(key={"subject": "parts"}, value={"objects": "parts"}),
            ),
        )
        objects = [list(range(i % 4)) for i in range(20)]
        facts.append(records={"subject": np.arange(20), "objects": objects})
        table = RowTable(parts, place)
        reader = SparseReader(facts, k=5, parts=[table])
        found = reader(torch.from_numpy(gaussian(1, 3, 8)).to(place))
        found.output_QV.sum().backward()
        assert found.output_QV.device == torch.device(place)
        slots = torch.from_numpy(found.candidates.slots_QK).to(place)
        assert table(slots).device == torch.device(place)
        assert RowOptimizer([table]).step() > 0
