"""The dense twins of sparse access memory: NTM by its equations in loops, DAM by SAM."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from memstore.episodic import EpisodicMemory
from models.dam import DAM
from models.ntm import NTM
from models.sam import SAM

BATCH, WORDS, WIDTH, HEADS, STEPS = 2, 7, 4, 2, 6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def address(asked_A, before_N, words_ND):
    """Equations 5 to 9 of Graves et al. 2014, one head, one word after the other."""
    key_D, (strength, gate, sharp), shift_3 = np.split(asked_A, [WIDTH, WIDTH + 3])
    content_N = np.empty(WORDS)
    for i, word_D in enumerate(words_ND):
        lengths = np.sqrt((key_D @ key_D + 1e-6) * (word_D @ word_D + 1e-6))
        content_N[i] = (1 + np.log1p(np.exp(strength))) * (key_D @ word_D) / lengths
    content_N = softmax(content_N)
    gated_N = sigmoid(gate) * content_N + (1 - sigmoid(gate)) * before_N
    shift_3, shifted_N = softmax(shift_3), np.zeros(WORDS)
    for i in range(WORDS):
        for j in (-1, 0, 1):
            shifted_N[i] += gated_N[(i - j) % WORDS] * shift_3[j + 1]
    sharp_N = shifted_N ** (1 + np.log1p(np.exp(sharp)))
    return sharp_N / sharp_N.sum()


def test_ntm_is_that_of_its_equations() -> None:
    torch.manual_seed(0)
    ntm = NTM(3, 2, hidden=6, heads=HEADS, width=WIDTH).double()
    inputs_TBX = torch.randn(STEPS, BATCH, 3, dtype=torch.float64)
    state = ntm.begin(torch.randn(BATCH, WORDS, WIDTH, dtype=torch.float64))
    words_BND = state.words_BND.numpy().copy()
    weights_BHN = state.weights_BHN.numpy().copy()
    for inputs_BX in inputs_TBX:
        state = ntm.step(inputs_BX, state)
        asked = ntm.interface(state.hidden_BC).detach().split(ntm.asked, dim=1)
        asked_BHA = asked[0].numpy().reshape(BATCH, 2 * HEADS, -1)
        changes = asked[1].numpy()
        for b in range(BATCH):
            erase_HD, add_HD = changes[b].reshape(2, HEADS, WIDTH)
            for h in range(2 * HEADS):
                weights_BHN[b, h] = address(asked_BHA[b, h], weights_BHN[b, h], words_BND[b])
            for i in range(WORDS):
                for h in range(HEADS):
                    words_BND[b, i] *= 1 - weights_BHN[b, HEADS + h, i] * sigmoid(erase_HD[h])
                for h in range(HEADS):
                    words_BND[b, i] += weights_BHN[b, HEADS + h, i] * add_HD[h]
        read_BHD = weights_BHN[:, :HEADS] @ words_BND
        np.testing.assert_allclose(state.weights_BHN.detach(), weights_BHN, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(state.words_BND.detach(), words_BND, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(state.read_BHD.detach(), read_BHD, rtol=1e-7, atol=1e-9)


def test_sam_that_reads_every_word_is_dam() -> None:
    torch.manual_seed(0)
    dam = DAM(3, 2, hidden=6, heads=HEADS, width=WIDTH, discount=0.9).double()
    sam = SAM(3, 2, hidden=6, heads=HEADS, reads=WORDS, width=WIDTH)
    sam.load_state_dict(dam.state_dict())
    memory = EpisodicMemory(BATCH, WORDS, WIDTH, usage="discounted", discount=0.9)
    memory.fill(np.random.default_rng(0).standard_normal((BATCH, WORDS, WIDTH)))
    inputs_TBX = torch.randn(STEPS, BATCH, 3)
    words_BND = torch.from_numpy(memory.rows_BND.copy()).double()
    both: list[Tensor] = [
        sam(inputs_TBX, sam.begin(memory))[0],
        dam(inputs_TBX.double(), dam.begin(words_BND))[0],
    ]
    for outputs_TBY in both:
        outputs_TBY.square().sum().backward()
    np.testing.assert_allclose(both[0].detach(), both[1].detach(), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(sam.parameters(), dam.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        np.testing.assert_allclose(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
