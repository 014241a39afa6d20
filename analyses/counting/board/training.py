"""The nets of the board, trained on short texts."""

from dataclasses import replace
from typing import Any

import torch

from analyses.counting.nets.arms import LSTM, lstm, transformer
from analyses.counting.nets.learning import learned
from toy_models import Transformer
from toy_models.seeding import generator
from toy_models.tasks import Task
from toy_models.train import TrainConfig, train

SIZE = {"d_model": 32, "d_mlp": 64, "n_heads": 2}  # of the transformers; they have two layers


class Anywhere(Transformer):
    """A transformer whose texts stand anywhere in its context while it trains, each by itself.

    Learned positions beyond the training lengths would stay as they were drawn; so all of them are trained, as in Huang
    et al. 2024, arXiv:2410.02140, and as its theorems ask.  In eval mode texts begin at position 0.
    """

    def __init__(self, config: Any, seed: int):
        super().__init__(config, seed=seed)
        self.places = generator(seed, "places")

    def forward(self, tokens: Any = None, **options: Any) -> Any:
        if self.training:
            room = self.cfg.n_ctx - tokens.shape[1]
            options["position_offset"] = torch.randint(room + 1, tokens.shape[:1], generator=self.places)
        return super().forward(tokens, **options)


def trained(architecture: str, task: Task, n_ctx: int, settings: TrainConfig, seed: int, device: str):
    """The net, in eval mode, after training on the task; it takes texts of up to n_ctx tokens."""
    if architecture == LSTM:
        return learned(replace(lstm(task, n_ctx), device=device), task, settings, seed)
    config = transformer(task, n_ctx, position=architecture, device=device, **SIZE)
    if architecture != "learned":
        return learned(config, task, settings, seed)
    model = Anywhere(config, seed)
    model.train()
    for _ in train(model, task, settings, seed=seed, show_progress=False):
        pass
    return model.eval()
