"""What the tests of checkpoints share: tiny checkpoints on disk, and two texts."""

from pathlib import Path

import pytest
import torch

from tests.toy_models.hf.twins import LENGTH, VOCABULARY, theirs
from toy_models.seeding import generator


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """case, dtype, seed -> (their model, the directory that it was saved in), each made once."""
    made: dict[tuple, tuple] = {}

    def make(case: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[torch.nn.Module, Path]:
        if (case, dtype, seed) not in made:
            model = theirs(case, dtype, seed)
            folder = tmp_path_factory.mktemp(case)
            model.save_pretrained(folder)
            made[case, dtype, seed] = model, folder
        return made[case, dtype, seed]

    return make


@pytest.fixture(scope="session")
def tokens():
    """Two texts that are longer than every window."""
    return torch.randint(VOCABULARY, (2, LENGTH), generator=generator(0, "twins"))
