"""Ask a net for counts: its answer is the likeliest of the count tokens, whatever else its vocabulary holds."""

import torch
from jaxtyping import Float, Int

from analyses.counting.nets.learning import TOKENS_AT_ONCE
from toy_models.seeding import generator
from toy_models.tasks.count_query import CountQuery
from toy_models.tasks.count_symbols import CountSymbols


@torch.no_grad()
def count_logits(
    model: torch.nn.Module, task: CountSymbols | CountQuery, texts: int, seed: int, *words: str | int
) -> tuple[Float[torch.Tensor, "text count"], Int[torch.Tensor, " text"]]:
    """Logits of the counts that the model has tokens for, behind `texts` texts of the stream (seed, *words), in
    float32 or better, and the true counts."""
    stream, logits, true = generator(seed, "test", *words), [], []
    answers = model.cfg.d_vocab_out
    while texts:
        some = min(texts, max(1, TOKENS_AT_ONCE // task.n_ctx))
        batch = task.sample(some, stream).to(model.cfg.device)
        told = model(batch.tokens)[batch.scored][:, task.first_count : answers]
        logits.append(told.to(torch.promote_types(told.dtype, torch.float32)).cpu())
        true.append((batch.targets[batch.scored] - task.first_count).cpu())
        texts -= some
    return torch.cat(logits), torch.cat(true)
