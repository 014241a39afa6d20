"""How often does the last token stand in the text before it?  Counting with a vocabulary.

    0  3 1 3 2 3 1  3       vocabulary 1 2 3: the last token asks for itself, and the answer is #3

Every token of the text is drawn from the `vocabulary` by itself, all equally likely, and so is the query.  A text of
`per_token` x vocabulary tokens holds each of them `per_token` times on average, whatever the vocabulary: the counts,
and what a guess is worth, stay nearly the same.

Source: Yehudai et al. 2024, arXiv:2407.15160 (query count): a transformer of width d counts where d >= vocabulary, by
orthogonal embeddings; below, the embeddings interfere.  There the query counts itself; here it does not.
"""

from dataclasses import dataclass, replace

import torch

from toy_models.errors import ConfigError
from toy_models.tasks import Batch
from toy_models.tasks.lengths import BOS, answered, check, draw


@dataclass(frozen=True)
class CountQuery:
    """Args: vocabulary: different tokens, at least 2;  shortest, longest: of a text, all lengths equally likely;  most:
    the last answer, which stands for `most` or more; `longest` unless given."""

    vocabulary: int = 8
    shortest: int = 32
    longest: int = 32
    most: int | None = None

    def __post_init__(self):
        check(self.shortest, self.longest)
        for name, value, least in (("vocabulary", self.vocabulary, 2), ("most", self.largest, 1)):
            if type(value) is not int or value < least:
                raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}")

    @property
    def largest(self) -> int:
        """The last answer."""
        return self.longest if self.most is None else self.most

    @property
    def first_count(self) -> int:
        """The token of the count 0; that of c is c further on."""
        return 1 + self.vocabulary

    @property
    def d_vocab(self) -> int:
        """BOS, the vocabulary and the counts."""
        return self.first_count + self.largest + 1

    @property
    def n_ctx(self) -> int:
        """Of the longest text: BOS, its tokens and the query."""
        return 2 + self.longest

    def at(self, length: int) -> "CountQuery":
        """The same task and vocabulary at exactly this length."""
        return replace(self, shortest=length, longest=length, most=self.largest)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n texts of random lengths, each with a query; scored at the query alone."""
        lengths = draw(self.shortest, self.longest, n, generator)
        longest = int(lengths.max())
        texts = torch.randint(1, 1 + self.vocabulary, (n, longest), generator=generator)
        query = torch.randint(1, 1 + self.vocabulary, (n,), generator=generator)
        inside = torch.arange(longest) < lengths[:, None]
        counts = ((texts == query[:, None]) & inside).sum(-1).clamp(max=self.largest)
        batch = answered(texts, lengths, self.first_count + counts, BOS)
        return Batch(torch.where(batch.scored, query[:, None], batch.tokens), batch.targets, batch.scored)
