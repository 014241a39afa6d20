"""An LSTM of one cell, its weights set by hand, that counts a^n b^n: what trained cells are held against.

    gates     i = f = o = sigmoid(s), but i = f = sigmoid(-s) at BOS        s: `saturation`
    candidate g = tanh(s) at a, -tanh(s) at b, 0 at BOS
    cell      c = f c + i g:  one up for an a, one down for a b
    logits    b leads the end by 2 `sharpness` (tanh(c) - tanh(1/2)) / tanh(1/2), as far as o is 1

With u = sigmoid(s) tanh(s) and f = sigmoid(s), after n a's and m b's

    c = u (f^m (1 - f^n) - (1 - f^m)) / (1 - f)

which is n - m where s is large enough that f and u round to 1 (s >= 38 in float64, 18 in float32), and else falls short
of it by about (1 - f) n^2 / 2 after the a's, and ends at -(1 - f) n^2 instead of 0.

Source: Weiss, Goldberg & Yahav 2018, arXiv:1805.04908: an LSTM with saturated gates is a counter machine.
"""

import math

import torch

from toy_models.errors import ConfigError
from toy_models.recurrent import Recurrent, RecurrentConfig
from toy_models.tasks.an_bn import END, A, AnBn, B

INPUT, FORGET, OUTPUT, CANDIDATE = range(4)


@torch.no_grad()
def counting_cell(longest: int = 1000, saturation: float = 40.0, sharpness: float = 10.0) -> Recurrent:
    """The cell, in float64, for a^n b^n up to n = `longest`.

    Raises:
        ConfigError: a saturation or a sharpness that is not positive and finite.
    """
    for name, value in (("saturation", saturation), ("sharpness", sharpness)):
        if not 0 < value < math.inf:
            raise ConfigError(f"{name}={value} must be positive and finite")
    task = AnBn(longest=longest)
    size = {"d_vocab": task.d_vocab, "n_ctx": task.n_ctx, "d_model": task.d_vocab, "d_hidden": 1}
    model = Recurrent(RecurrentConfig(**size, dtype=torch.float64))
    for weight in model.parameters():
        weight.zero_()
    model.embed.W_E.copy_(torch.eye(task.d_vocab))
    layer = model.blocks[0]
    layer.b[:CANDIDATE] = saturation
    layer.W_in[[INPUT, FORGET], 0] = -2 * saturation  # BOS: nothing in, nothing kept
    layer.W_in[CANDIDATE, A], layer.W_in[CANDIDATE, B] = saturation, -saturation
    half = math.tanh(0.5)
    model.unembed.W_U[0, B], model.unembed.W_U[0, END] = sharpness / half, -sharpness / half
    model.unembed.b_U.copy_(torch.tensor([-1e4, -1e4, -sharpness, sharpness]))  # BOS and a are never said
    return model


def counted(n: int, m: int, saturation: float) -> float:
    """The cell after n a's and m b's: the formula above, in float64."""
    f = 1 / (1 + math.exp(-saturation))
    lost = 1 / (1 + math.exp(saturation))  # 1 - f, without cancellation
    up, down = -math.expm1(n * math.log1p(-lost)), -math.expm1(m * math.log1p(-lost))
    return f * math.tanh(saturation) * ((1 - down) * up - down) / lost
