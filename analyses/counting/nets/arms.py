"""The nets that the counting studies compare: one small transformer under four position codes, and an LSTM."""

from toy_models.config import TransformerConfig
from toy_models.recurrent import RecurrentConfig
from toy_models.tasks import Task

POSITIONS = ("none", "learned", "rope", "alibi")
LSTM = "lstm"


def transformer(task: Task, n_ctx: int, **options) -> TransformerConfig:
    """Two layers of four heads, d_model 64, for texts of up to `n_ctx` tokens; `options` replace any field."""
    size = {"n_layers": 2, "n_heads": 4, "d_model": 64, "d_mlp": 128}
    return TransformerConfig(d_vocab=task.d_vocab, n_ctx=n_ctx, bos_id=0, **{**size, **options})


def lstm(task: Task, n_ctx: int, d_hidden: int = 64) -> RecurrentConfig:
    """One layer of `d_hidden` cells, for the same texts."""
    return RecurrentConfig(kind="lstm", d_vocab=task.d_vocab, n_ctx=n_ctx, d_model=d_hidden, d_hidden=d_hidden)
