"""Sparse access memory beside its equations on whole matrices in float64, forward and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from memstore.episodic import EpisodicMemory
from memstore.errors import InvalidArgument
from models.sam import SAM
from tests.unit.episodes import same_gradients

STEPS, BATCH, WORDS, WIDTH, HEADS, READS = 8, 2, 11, 5, 5, 3


def network(seed: int = 0) -> SAM:
    torch.manual_seed(seed)
    sam = SAM(3, 4, hidden=7, heads=HEADS, reads=READS, width=WIDTH)
    with torch.no_grad():
        sam.interface.weight *= 4  # gates and strengths that differ
    return sam


def dense(sam: SAM, inputs_TBX: Tensor, words_BND: Tensor, full: bool, discount: float | None):
    """Outputs [T, B, Y] by the equations of `models.sam`; words that fell empty are no words.

    full: whether the memory begins with words, or empty.
    """
    batch, words, width = words_BND.shape
    order = [list(range(words)) for _ in range(batch)]
    usage_BN = np.full((batch, words), -1e300 if full else -np.inf)
    written_BN = torch.full((batch, words), full)
    hidden_BC = cell_BC = inputs_TBX.new_zeros(batch, sam.controller.hidden_size)
    read_BHD = inputs_TBX.new_zeros(batch, HEADS, width)
    weights_BHN = inputs_TBX.new_zeros(batch, HEADS, words)
    outputs = []
    for t, inputs_BX in enumerate(inputs_TBX, 1):
        given = torch.cat([inputs_BX, read_BHD.flatten(1)], 1)
        hidden_BC, cell_BC = sam.controller(given, (hidden_BC, cell_BC))
        heads = sam.interface(hidden_BC).unflatten(1, (HEADS, -1))
        query_BHD, add_BHD = heads[..., :width], heads[..., width : 2 * width]
        strength_BH1 = 1 + functional.softplus(heads[..., 2 * width, None])
        write_BH1, previous_BH1 = heads[..., 2 * width + 1 :, None].sigmoid().unbind(2)
        if discount is None:
            least = [order[b][:HEADS] for b in range(batch)]
        else:
            least = np.argsort(usage_BN, axis=1, kind="stable")[:, :HEADS].tolist()
        unused_BHN = functional.one_hot(torch.tensor(least), words).to(words_BND)
        written_BHN = write_BH1 * (previous_BH1 * weights_BHN + (1 - previous_BH1) * unused_BHN)
        words_BND = words_BND * (1 - unused_BHN.sum(1))[..., None]
        words_BND = words_BND + torch.einsum("bhn,bhd->bnd", written_BHN, add_BHD)
        before_BHN, written_BN = weights_BHN, written_BN | (unused_BHN.sum(1) > 0)
        lengths = [((x**2).sum(-1) + 1e-6).sqrt() for x in (query_BHD, words_BND)]
        cosine_BHN = torch.einsum("bhd,bnd->bhn", query_BHD, words_BND)
        cosine_BHN = cosine_BHN / (lengths[0][..., None] * lengths[1][:, None])
        found_BHN = cosine_BHN.masked_fill(~written_BN[:, None], -torch.inf)
        best_BHK = found_BHN.topk(READS).indices
        kept_BHN = torch.zeros_like(cosine_BHN, dtype=torch.bool).scatter(2, best_BHK, True)
        kept_BHN &= written_BN[:, None]
        logits_BHN = (strength_BH1 * cosine_BHN).masked_fill(~kept_BHN, -torch.inf)
        weights_BHN = logits_BHN.softmax(2)
        read_BHD = torch.einsum("bhn,bnd->bhd", weights_BHN, words_BND)
        outputs.append(sam.output(torch.cat([hidden_BC, read_BHD.flatten(1)], 1)))
        accessed_BN = (written_BHN + weights_BHN).sum(1).detach().numpy()
        for b in range(batch):
            came: list[int] = []
            for h in range(HEADS):
                came.append(least[b][h])
                ranked = before_BHN[b, h].detach().numpy()
                came += np.argsort(-ranked, kind="stable")[: (ranked > 0).sum()].tolist()
            for h in range(HEADS):
                came += [n for n in best_BHK[b, h].tolist() if weights_BHN[b, h, n] > 0]
            for n in dict.fromkeys(came):
                if discount is not None:
                    more = np.log(accessed_BN[b, n]) - t * np.log(discount)
                    usage_BN[b, n] = np.logaddexp(usage_BN[b, n], more)
                elif accessed_BN[b, n] > 0.005:
                    order[b].remove(n)
                    order[b].append(n)
    return torch.stack(outputs)


@pytest.mark.parametrize("discount", [None, 0.9])
@pytest.mark.parametrize("full", [False, True])
def test_outputs_and_gradients_are_those_of_whole_matrices(
    full: bool, discount: float | None
) -> None:
    options: dict[str, Any] = {} if discount is None else {"usage": "discounted"}
    memory = EpisodicMemory(BATCH, WORDS, WIDTH, discount=discount or 0.99, **options)
    if full:
        memory.fill(np.random.default_rng(0).standard_normal((BATCH, WORDS, WIDTH)))
    held_BND, order_BN = memory.rows_BND.copy(), memory.allocate(WORDS)
    sam = network()
    inputs_TBX = torch.randn(STEPS, BATCH, 3)
    outputs_TBY, _ = sam(inputs_TBX, sam.begin(memory))
    assert memory.step == STEPS
    (outputs_TBY**3).sum().backward()
    assert memory.step == 0
    np.testing.assert_array_equal(memory.rows_BND, held_BND)
    np.testing.assert_array_equal(memory.allocate(WORDS), order_BN)

    twin = network().double()
    words_BND = torch.from_numpy(held_BND).double()
    expected_TBY = dense(twin, inputs_TBX.double(), words_BND, full, discount)
    (expected_TBY**3).sum().backward()
    np.testing.assert_allclose(outputs_TBY.detach(), expected_TBY.detach(), rtol=1e-4, atol=1e-5)
    same_gradients(sam, twin)


def test_an_episode_again_is_the_same_to_the_bit_by_any_number_of_threads() -> None:
    sam, inputs_TBX = network(), torch.randn(30, BATCH, 3)
    memory = EpisodicMemory(BATCH, 40, WIDTH)
    seen = []
    for again in (memory, memory, EpisodicMemory(BATCH, 40, WIDTH, threads=2)):
        sam.zero_grad()
        outputs_TBY, _ = sam(inputs_TBX, sam.begin(again))
        outputs_TBY.square().sum().backward()
        seen.append([outputs_TBY.detach(), *(weight.grad for weight in sam.parameters())])
    for first, *others in zip(*seen, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_a_loss_of_early_steps_takes_back_the_late_ones_too() -> None:
    memory, sam = EpisodicMemory(BATCH, 40, WIDTH), network()
    inputs_TBX = torch.randn(9, BATCH, 3)
    gradients = []
    for steps in (4, 9):
        sam.zero_grad()
        outputs_TBY, _ = sam(inputs_TBX[:steps], sam.begin(memory))
        outputs_TBY[:4].square().sum().backward()
        assert memory.step == 0
        gradients.append([weight.grad for weight in sam.parameters()])
    for short, long in zip(*gradients, strict=True):
        np.testing.assert_allclose(short, long, rtol=1e-5, atol=1e-6)


def test_an_episode_in_two_parts_goes_on() -> None:
    memory, sam = EpisodicMemory(BATCH, 40, WIDTH), network()
    inputs_TBX = torch.randn(6, BATCH, 3)
    with torch.no_grad():
        whole_TBY, _ = sam(inputs_TBX, sam.begin(memory))
        memory.rollback(0)
        first_TBY, state = sam(inputs_TBX[:2], sam.begin(memory))
        rest_TBY, _ = sam(inputs_TBX[2:], state)
    torch.testing.assert_close(torch.cat([first_TBY, rest_TBY]), whole_TBY, rtol=0, atol=0)


def test_backward_twice_is_refused() -> None:
    memory, sam = EpisodicMemory(BATCH, 40, WIDTH), network()
    outputs_TBY, _ = sam(torch.randn(3, BATCH, 3), sam.begin(memory))
    outputs_TBY.sum().backward(retain_graph=True)
    with pytest.raises(InvalidArgument, match="taken back"):
        outputs_TBY.sum().backward()


def test_it_learns_to_recall_what_it_was_shown() -> None:
    """One word is shown, and asked for some steps later: the loss falls to a tenth."""
    torch.manual_seed(0)
    memory, sam = EpisodicMemory(8, 20, 8), SAM(4, 3, hidden=16, heads=1, reads=2, width=8)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(sam.parameters(), lr=3e-2)
    losses = []
    for _ in range(100):
        inputs_TBX = torch.zeros(5, 8, 4)
        inputs_TBX[0, :, :3] = torch.randint(0, 2, (8, 3), generator=generator).float()
        inputs_TBX[-1, :, 3] = 1
        outputs_TBY, _ = sam(inputs_TBX, sam.begin(memory))
        loss = functional.binary_cross_entropy_with_logits(outputs_TBY[-1], inputs_TBX[0, :, :3])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(sam.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.1 * np.mean(losses[:10])
