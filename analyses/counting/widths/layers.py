"""One layer of one head without positions, asked at its last token alone; several seeds side by side.

Without positions a text is its counts, and all that its last token q hears is

    w_j = m_j exp(s_qj) / sum_k m_k exp(s_qk)     m_j = c_j + [j = q], BOS once

so that a text of any length costs what the vocabulary costs.  The rest is a Transformer's block without norms: `twin`
gives the same function as a Transformer that reads the tokens.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

from toy_models import Transformer
from toy_models.config import TransformerConfig
from toy_models.errors import TrainingError
from toy_models.seeding import generator
from toy_models.tasks import Batch
from toy_models.tasks.count_query import CountQuery
from toy_models.train import TrainConfig


class Layers(torch.nn.Module):
    """Weights (seed, ...) of as many nets as there are seeds, each drawn from its own; biases begin at zero."""

    def __init__(self, task: CountQuery, d_model: int, d_mlp: int, seeds: tuple[int, ...]):
        super().__init__()
        d, self.task, self.seeds = d_model, task, seeds
        shapes = {"W_E": (1 + task.vocabulary, d), "W_Q": (d, d), "W_K": (d, d), "W_V": (d, d), "W_O": (d, d)}
        shapes |= {"W_in": (d, d_mlp), "W_out": (d_mlp, d), "W_U": (d, task.largest + 1)}
        for name, shape in shapes.items():
            scale = (d if name == "W_E" else shape[0]) ** -0.5
            drawn = [torch.randn(shape, generator=generator(seed, "init", name)) * scale for seed in seeds]
            setattr(self, name, torch.nn.Parameter(torch.stack(drawn)))
        for name, width in (("b_in", d_mlp), ("b_out", d), ("b_U", task.largest + 1)):
            setattr(self, name, torch.nn.Parameter(torch.zeros(len(seeds), 1, width)))

    def forward(
        self, counts: Int[torch.Tensor, "seed batch token"], query: Int[torch.Tensor, "seed batch"]
    ) -> Float[torch.Tensor, "seed batch answer"]:
        """Logits of the counts 0 to task.largest, for texts with these counts of the tokens 1 to m."""
        x = self.W_E
        scores = (x[:, 1:] @ self.W_Q) @ (x @ self.W_K).transpose(1, 2) / math.sqrt(x.shape[-1])
        every = torch.arange(len(self.seeds))[:, None]
        there = F.pad(counts + F.one_hot(query - 1, counts.shape[-1]), (1, 0), value=1)
        weights = (scores[every, query - 1] + there.log()).softmax(-1)
        stream = x[every, query] + weights @ (x @ self.W_V) @ self.W_O
        neurons = (stream @ self.W_in + self.b_in).relu()
        return (stream + neurons @ self.W_out + self.b_out) @ self.W_U + self.b_U


def counted(
    task: CountQuery, batches: list[Batch]
) -> tuple[Int[torch.Tensor, "seed batch token"], Int[torch.Tensor, "seed batch"], Int[torch.Tensor, "seed batch"]]:
    """Counts, queries and answers of texts of one length, one batch for each seed."""
    tokens = torch.stack([batch.tokens for batch in batches])
    counts = torch.zeros(*tokens.shape[:2], 1 + task.vocabulary, dtype=torch.long)
    counts.scatter_add_(2, tokens[:, :, 1:-1], torch.ones_like(tokens[:, :, 1:-1]))
    answers = torch.stack([batch.targets[:, -1] for batch in batches]) - task.first_count
    return counts[:, :, 1:], tokens[:, :, -1], answers


def fit(layers: Layers, config: TrainConfig) -> None:
    """Train in place.  The seeds share nothing but the clock: each has its own data, and Adam looks at one number at a
    time.  Gradients are not clipped: that would join the seeds.

    Raises:
        TrainingError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(
        layers.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )
    task = layers.task
    for step in range(config.steps):
        batches = [task.sample(config.batch_size, generator(seed, "data", step)) for seed in layers.seeds]
        counts, query, answers = counted(task, batches)
        loss = F.cross_entropy(layers(counts, query).flatten(0, 1), answers.flatten()) * len(layers.seeds)
        if not math.isfinite(loss.item()):
            raise TrainingError(f"the loss is {loss.item():.3g} at step {step}: lower lr={config.lr:g}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        optimizer.step()


@torch.no_grad()
def twin(layers: Layers, at: int) -> Transformer:
    """The net of the seed layers.seeds[at] as a Transformer that reads tokens."""
    task, d, d_mlp = layers.task, layers.W_E.shape[-1], layers.W_in.shape[-1]
    config = TransformerConfig(
        **{"n_layers": 1, "n_heads": 1, "d_model": d, "d_mlp": d_mlp, "act_fn": "relu", "normalization_type": None},
        **{"d_vocab": task.d_vocab, "n_ctx": task.n_ctx, "position": "none", "bos_id": 0},
    )
    model = Transformer(config)
    block = model.blocks[0]
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        getattr(block.attn, name)[0] = getattr(layers, name)[at]
    for name in ("W_in", "W_out"):
        getattr(block.mlp, name).copy_(getattr(layers, name)[at])
    for name in ("b_in", "b_out"):
        getattr(block.mlp, name).copy_(getattr(layers, name)[at, 0])
    model.embed.W_E[: task.first_count] = layers.W_E[at]
    model.unembed.W_U[:, task.first_count :] = layers.W_U[at]
    model.unembed.b_U[task.first_count :] = layers.b_U[at, 0]
    return model
