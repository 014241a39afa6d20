"""Is a cell of an LSTM a counter?  Its value over the text a^n b^n beside the number of a's less that of b's."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from toy_models.recurrent import Recurrent
from toy_models.tasks.an_bn import A, B


@dataclass(frozen=True)
class Counter:
    """Of the cell that follows the count best, over one text.

    r2: squared correlation with the count, 0 to 1;  up, down: least-squares slope in the a's and in the b's, 1 per
    symbol;  cell: its values over the text, BOS first;  count: 0, 1, ..., n, ..., 1, 0.
    """

    r2: float
    up: float
    down: float
    cell: Float[np.ndarray, " pos"]
    count: Float[np.ndarray, " pos"]

    @property
    def drift(self) -> float:
        """Largest |cell - count|."""
        return float(np.abs(self.cell - self.count).max())


@torch.no_grad()
def counter(model: Recurrent, n: int) -> Counter:
    """The best cell of the last layer over a^n b^n, n at least 2."""
    # One text, written out: there is nothing to draw.
    tokens = torch.tensor([[0] + [A] * n + [B] * n])
    name = f"blocks.{model.cfg.n_layers - 1}.hook_cell"
    cells = model.run_with_cache(tokens.to(model.cfg.device), names_filter=name)[1][name][0].double().cpu().numpy()
    count = np.concatenate([np.arange(n + 1), np.arange(n)[::-1]]).astype(float)
    centred = cells - cells.mean(0)
    against = count - count.mean()
    energy = np.square(centred).sum(0) * np.square(against).sum()
    r2 = np.divide(np.square(against @ centred), energy, out=np.zeros_like(energy), where=energy > 0)
    best = int(r2.argmax())
    cell = cells[:, best]
    up, down = (float(np.polyfit(np.arange(n + 1), part, 1)[0]) for part in (cell[: n + 1], cell[n:]))
    return Counter(float(r2[best]), up, down, cell, count)
