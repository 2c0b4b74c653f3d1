"""The sparse DNC beside its equations on whole matrices in float64, forward and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from memstore.episodic import LinkedMemory
from memstore.errors import InvalidArgument, WrongShape
from models.sdnc import SDNC
from tests.unit.episodes import same_gradients

STEPS, BATCH, WORDS, WIDTH, HEADS, READS = 9, 2, 11, 5, 5, 3


def network(seed: int = 0) -> SDNC:
    torch.manual_seed(seed)
    sdnc = SDNC(3, 4, hidden=7, heads=HEADS, reads=READS, width=WIDTH)
    with torch.no_grad():
        sdnc.interface.weight *= 4  # gates, strengths and modes that differ
    return sdnc


def room(links: int = WORDS, words: int = WORDS, **options: Any) -> LinkedMemory:
    return LinkedMemory(BATCH, words, WIDTH, heads=HEADS, links=links, **options)


def greatest(values: Tensor, count: int) -> Tensor:
    """`values` with all but the greatest of the last axis, and what is not above 0, set to 0."""
    count = min(count, values.shape[-1])
    kept = torch.zeros_like(values).scatter(-1, values.topk(count).indices, 1.0)
    return values * kept * (values > 0)


class Links:
    """N, Nᵀ as far as it is kept, and p of all heads, as whole matrices."""

    def __init__(self, like: Tensor, links: int) -> None:
        self.links = links
        self.recent_BHN = like.new_zeros(BATCH, HEADS, WORDS)
        self.n_BHNN = like.new_zeros(BATCH, HEADS, WORDS, WORDS)
        self.known_BHNN = torch.zeros_like(self.n_BHNN, dtype=torch.bool)

    def write(self, written_BHN: Tensor) -> None:
        written_BHN = greatest(written_BHN, self.links)
        written_BHN1, recent_BHN = written_BHN[..., None], self.recent_BHN
        grown = (1 - written_BHN1) * self.n_BHNN + written_BHN1 * recent_BHN[:, :, None]
        self.n_BHNN = greatest(grown * (1 - torch.eye(WORDS)), self.links)
        # Of j, what was known before or is written now, the greatest.
        after_BHNN = self.n_BHNN.mT
        may = self.known_BHNN | (written_BHN[:, :, None] > 0)
        chosen = greatest(after_BHNN * may, self.links) > 0
        self.known_BHNN = torch.where(recent_BHN[..., None] > 0, chosen, self.known_BHNN)
        left_BH1 = 1 - written_BHN.sum(2, keepdim=True)
        self.recent_BHN = greatest(left_BH1 * recent_BHN + written_BHN, self.links)

    def follow(self, weights_BHN: Tensor, forward: bool) -> Tensor:
        after_BHNN = self.n_BHNN * self.known_BHNN.mT
        matrix_BHNN = after_BHNN if forward else self.n_BHNN.mT
        found_BHN = greatest(torch.einsum("bhij,bhj->bhi", matrix_BHNN, weights_BHN), READS)
        return found_BHN / found_BHN.sum(2, keepdim=True).clamp(min=1)


def dense(sdnc: SDNC, inputs_TBX: Tensor, words_BND: Tensor, full: bool, kept: int) -> Tensor:
    """Outputs [T, B, Y] by the equations of `models.sdnc`; words that fell empty are no words.

    full: whether the memory begins with words, or empty.
    """
    order = [list(range(WORDS)) for _ in range(BATCH)]
    written_BN = torch.full((BATCH, WORDS), full)
    hidden_BC = cell_BC = inputs_TBX.new_zeros(BATCH, sdnc.controller.hidden_size)
    read_BHD = inputs_TBX.new_zeros(BATCH, HEADS, WIDTH)
    modes_MBHN = inputs_TBX.new_zeros(3, BATCH, HEADS, WORDS)
    links = Links(words_BND, kept)
    outputs = []
    for inputs_BX in inputs_TBX:
        given = torch.cat([inputs_BX, read_BHD.flatten(1)], 1)
        hidden_BC, cell_BC = sdnc.controller(given, (hidden_BC, cell_BC))
        said_BA = sdnc.interface(hidden_BC)
        heads = said_BA[:, : -3 * HEADS].unflatten(1, (HEADS, -1))
        modes_BH3 = said_BA[:, -3 * HEADS :].unflatten(1, (HEADS, 3)).softmax(2)
        query_BHD, add_BHD = heads[..., :WIDTH], heads[..., WIDTH : 2 * WIDTH]
        strength_BH1 = 1 + functional.softplus(heads[..., 2 * WIDTH, None])
        write_BH1, previous_BH1 = heads[..., 2 * WIDTH + 1 :, None].sigmoid().unbind(2)
        least = [order[b][:HEADS] for b in range(BATCH)]
        unused_BHN = functional.one_hot(torch.tensor(least), WORDS).to(words_BND)
        before_MBHN, weights_BHN = modes_MBHN.detach(), modes_MBHN.sum(0)
        written_BHN = write_BH1 * (previous_BH1 * weights_BHN + (1 - previous_BH1) * unused_BHN)
        words_BND = words_BND * (1 - unused_BHN.sum(1))[..., None]
        words_BND = words_BND + torch.einsum("bhn,bhd->bnd", written_BHN, add_BHD)
        written_BN = written_BN | (unused_BHN.sum(1) > 0)
        links.write(written_BHN.detach())
        lengths = [((x**2).sum(-1) + 1e-6).sqrt() for x in (query_BHD, words_BND)]
        cosine_BHN = torch.einsum("bhd,bnd->bhn", query_BHD, words_BND)
        cosine_BHN = cosine_BHN / (lengths[0][..., None] * lengths[1][:, None])
        found_BHN = cosine_BHN.masked_fill(~written_BN[:, None], -torch.inf)
        best_BHK = found_BHN.topk(READS).indices
        near_BHN = torch.zeros_like(cosine_BHN, dtype=torch.bool).scatter(2, best_BHK, True)
        near_BHN &= written_BN[:, None]
        logits_BHN = (strength_BH1 * cosine_BHN).masked_fill(~near_BHN, -torch.inf)
        shares_MBHN = torch.stack(
            [
                links.follow(weights_BHN, forward=False),
                logits_BHN.softmax(2),
                links.follow(weights_BHN, forward=True),
            ]
        )
        modes_MBHN = modes_BH3.permute(2, 0, 1)[..., None] * shares_MBHN
        weights_BHN = modes_MBHN.sum(0)
        read_BHD = torch.einsum("bhn,bnd->bhd", weights_BHN, words_BND)
        outputs.append(sdnc.output(torch.cat([hidden_BC, read_BHD.flatten(1)], 1)))
        accessed_BN = (written_BHN + weights_BHN).sum(1).detach()
        for b in range(BATCH):
            came: list[int] = []
            for h in range(HEADS):
                came += [least[b][h], *ranked(before_MBHN[:, b, h])]
            for h in range(HEADS):
                came += ranked(modes_MBHN[:, b, h].detach())
            for n in dict.fromkeys(came):
                if accessed_BN[b, n] > 0.005:
                    order[b].remove(n)
                    order[b].append(n)
    return torch.stack(outputs)


def ranked(weights_MN: Tensor) -> list[int]:
    """The words of each mode, those of greatest weight first."""
    found: list[int] = []
    for weights_N in weights_MN:
        found += (-weights_N).argsort(stable=True)[: int((weights_N > 0).sum())].tolist()
    return found


@pytest.mark.parametrize("links", [2, WORDS])
@pytest.mark.parametrize("full", [False, True])
def test_outputs_and_gradients_are_those_of_whole_matrices(full: bool, links: int) -> None:
    memory = room(links)
    if full:
        memory.fill(np.random.default_rng(0).standard_normal((BATCH, WORDS, WIDTH)))
    held_BND, order_BN = memory.rows_BND.copy(), memory.allocate(WORDS)
    sdnc = network()
    inputs_TBX = torch.randn(STEPS, BATCH, 3)
    outputs_TBY, state = sdnc(inputs_TBX, sdnc.begin(memory))
    followed_BHK = np.delete(state.read.weights_BHK, np.s_[READS : 2 * READS], axis=2)
    assert (followed_BHK > 0.01).any()
    (outputs_TBY**3).sum().backward()
    assert memory.step == 0
    np.testing.assert_array_equal(memory.rows_BND, held_BND)
    np.testing.assert_array_equal(memory.allocate(WORDS), order_BN)

    twin = network().double()
    words_BND = torch.from_numpy(held_BND).double()
    expected_TBY = dense(twin, inputs_TBX.double(), words_BND, full, links)
    (expected_TBY**3).sum().backward()
    np.testing.assert_allclose(outputs_TBY.detach(), expected_TBY.detach(), rtol=1e-4, atol=1e-5)
    same_gradients(sdnc, twin)


def test_links_are_taken_back_to_the_bit() -> None:
    memory, sdnc = room(links=3, words=30), network()
    inputs_TBX = torch.randn(20, BATCH, 3)
    with torch.no_grad():
        _, state = sdnc(inputs_TBX[:12], sdnc.begin(memory))
        there = [array.copy() for array in memory._links]
        numbers = memory._filled.fresh
        sdnc(inputs_TBX[12:], state)
    assert (memory._links.earlier_BFHL >= 0).any()
    memory.rollback(12)
    for before, after, by_step in zip(there[:5], memory._links[:5], (0, 0, 0, 13, 13), strict=True):
        length = by_step or numbers
        np.testing.assert_array_equal(after[:, :length], before[:, :length])
    assert (memory._links.earlier_BFHL[:, numbers:] == -1).all()
    memory.rollback(0)
    assert (memory._links.earlier_BFHL == -1).all()
    assert (memory._links.later_BFHL == -1).all()
    assert not memory._links.weight_BFHL.any()
    assert not memory._links.ends_B.any()


def test_an_episode_again_is_the_same_to_the_bit_by_any_number_of_threads() -> None:
    sdnc, inputs_TBX = network(), torch.randn(30, BATCH, 3)
    memory = room(words=40)
    seen = []
    for again in (memory, memory, room(words=40, threads=2)):
        sdnc.zero_grad()
        outputs_TBY, _ = sdnc(inputs_TBX, sdnc.begin(again))
        outputs_TBY.square().sum().backward()
        seen.append([outputs_TBY.detach(), *(weight.grad for weight in sdnc.parameters())])
    for first, *others in zip(*seen, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_steps_that_no_head_took_leave_links_as_they_are() -> None:
    """What is blended in between is linked to nothing, and is taken back as well."""
    memory, sdnc = room(links=2, words=30), network()
    inputs_TBX = torch.randn(8, BATCH, 3)
    with torch.no_grad():
        _, state = sdnc(inputs_TBX[:4], sdnc.begin(memory))
        recent_BHL = memory._links.recent_BSHL[:, 4].copy()
        memory.advance()
        weights_B1, rows_B1D = np.ones((BATCH, 1)), np.ones((BATCH, 1, WIDTH))
        memory.blend([[29], [29]], weights_B1, rows_B1D, rows_B1D)
        np.testing.assert_array_equal(memory._links.recent_BSHL[:, 5], recent_BHL)
        memory.rollback(4)
        rest_TBY, _ = sdnc(inputs_TBX[4:], state)
        memory.rollback(0)
        whole_TBY, _ = sdnc(inputs_TBX, sdnc.begin(memory))
    torch.testing.assert_close(whole_TBY[4:], rest_TBY, rtol=0, atol=0)


def test_what_does_not_fit_the_links_is_refused() -> None:
    sdnc, inputs_BX = network(), torch.randn(BATCH, 3)
    other = LinkedMemory(BATCH, WORDS, WIDTH, heads=HEADS + 1)
    told = f"heads are not those linked: got {HEADS}, expected {HEADS + 1}"
    with pytest.raises(InvalidArgument, match=told):
        sdnc.step(inputs_BX, sdnc.begin(other))
    with pytest.raises(InvalidArgument, match="links"):
        room(links=0)
    state = sdnc.begin(room())
    state = state._replace(weights_BHK=state.weights_BHK[..., 1:].contiguous())
    with pytest.raises(WrongShape, match="weights_BHK"):
        sdnc.step(inputs_BX, state)
