import pytest
import torch

from analyses.counting.nets.arms import LSTM, POSITIONS, lstm, transformer
from analyses.counting.nets.learning import TOKENS_AT_ONCE, accuracy, born, learned, right
from toy_models import Transformer
from toy_models.recurrent import Recurrent
from toy_models.tasks import Batch
from toy_models.tasks.copy_end import CopyEnd
from toy_models.train import TrainConfig

TASK = CopyEnd(which="last", shortest=2, longest=4)
SETTINGS = TrainConfig(steps=60, batch_size=32, lr=1e-2, warmup=5)


class Told(torch.nn.Module):
    """Answers every position with its own token."""

    cfg = transformer(TASK, n_ctx=8)

    def forward(self, tokens):
        return torch.nn.functional.one_hot(tokens, 10).float()


@pytest.mark.parametrize("position", POSITIONS)
def test_a_transformer_under_every_code_reads_texts_beyond_the_training_length(position):
    model = born(transformer(TASK, n_ctx=20, position=position), seed=0)
    assert isinstance(model, Transformer)
    assert 0 <= accuracy(model, TASK.at(18), 8, 0) <= 1


def test_a_recurrent_config_makes_a_recurrent_net():
    model = born(lstm(TASK, n_ctx=20), seed=0)
    assert isinstance(model, Recurrent)
    assert model.cfg.kind == LSTM


def test_a_text_is_right_if_every_scored_position_is_and_only_then():
    tokens = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 2, 3]])
    targets = torch.tensor([[1, 2, 3], [1, 9, 3], [9, 2, 3]])
    scored = torch.tensor([[True, True, True], [True, True, True], [False, True, True]])
    assert right(Told(), Batch(tokens, targets, scored)).tolist() == [True, False, True]


def test_accuracy_is_the_share_over_every_piece_of_the_texts():
    class Ends:
        """Texts whose answer is their own token in three of four."""

        n_ctx = TOKENS_AT_ONCE // 4  # four texts at once

        def sample(self, n, generator):
            tokens = torch.ones(n, 1, dtype=torch.long)
            targets = tokens.clone()
            targets[::4] = 2
            return Batch(tokens, targets, torch.ones(n, 1, dtype=torch.bool))

    assert accuracy(Told(), Ends(), 12, 0) == 0.75
    assert accuracy(Told(), Ends(), 9, 0) == pytest.approx(6 / 9)  # the last piece has one text, a wrong one


def test_the_same_seed_learns_the_same_weights_and_learning_lifts_accuracy():
    first, again = (learned(transformer(TASK, n_ctx=8, position="rope"), TASK, SETTINGS, seed=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not first.training
    untrained = born(transformer(TASK, n_ctx=8, position="rope"), seed=1)
    assert accuracy(first, TASK, 400, 2) > accuracy(untrained, TASK, 400, 2) + 0.3
