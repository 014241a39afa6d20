"""Who did what to whom?  Role markers, each before its filler, in any order; then a question.

    BOS   WHO 3   NEAR 5   DID 9   WHOM 1   ?      answer: the one token that means "3, to 1"

WHO, WHOM and NEAR are followed by three different entities, DID by a verb; NEAR and DID are distractors, NEAR one
of the kind that is asked for.  The order of the four phrases is drawn anew for every sentence and an entity is the
same token in every role, so that neither its place nor its own shape tells what it did: the marker before it does.
The question is answered at one position, by one token for every combination of fillers of the roles in `asked`.

A model of one layer can bind marker and filler by `smeared_keys` and `position="none"`: then a key holds the marker
before it, a value the filler alone, and what the answer is read from is a mixture of fillers.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2 ("With a single attention head, averaging inhibits
this"); the task is this project's.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int

from toy_models.errors import ConfigError
from toy_models.tasks import Batch

BOS, WHO, WHOM, NEAR, DID, QUESTION = range(6)
ENTITY_ROLES = ("who", "whom", "near")  # marked by WHO, WHOM, NEAR, in this order
FIRST_ENTITY = QUESTION + 1


@dataclass(frozen=True)
class WhoDidWhat:
    """Args: n_entities: 3 or more, tokens 6 and up;  n_verbs: tokens behind them;  asked: roles that the answer names,
    out of who, whom and near; the tokens of the answers come last."""

    n_ctx: ClassVar[int] = 10

    n_entities: int = 8
    n_verbs: int = 4
    asked: tuple[str, ...] = ("who", "whom")

    def __post_init__(self):
        if self.n_entities < 3 or self.n_verbs < 1:
            raise ConfigError(
                f"n_entities={self.n_entities} and n_verbs={self.n_verbs}: a sentence has 3 different entities and a "
                f"verb, so give at least 3 and 1"
            )
        unknown = [role for role in self.asked if role not in ENTITY_ROLES]
        if not self.asked or unknown or len(set(self.asked)) < len(self.asked):
            raise ConfigError(f"asked={self.asked} must name some of {', '.join(ENTITY_ROLES)}, each once at most")

    @property
    def first_verb(self) -> int:
        """The token of the first verb."""
        return FIRST_ENTITY + self.n_entities

    @property
    def first_answer(self) -> int:
        """The token of the first answer."""
        return self.first_verb + self.n_verbs

    @property
    def n_answers(self) -> int:
        """One for every combination of fillers, those of one entity in two roles, which never come, included."""
        return self.n_entities ** len(self.asked)

    @property
    def d_vocab(self) -> int:
        """BOS, markers and the question, entities, verbs, answers."""
        return self.first_answer + self.n_answers

    def answer(self, fillers: Int[torch.Tensor, "*batch role"]) -> Int[torch.Tensor, "*batch"]:
        """The token of the answer that names these entities, 0 to n_entities - 1, one for each asked role."""
        powers = self.n_entities ** torch.arange(len(self.asked) - 1, -1, -1)
        return self.first_answer + (fillers * powers).sum(-1)

    def named(self, answers: Int[torch.Tensor, "*batch"]) -> Int[torch.Tensor, "*batch role"]:
        """The entities that an answer names: the inverse of `answer`; meaningless for other tokens."""
        powers = self.n_entities ** torch.arange(len(self.asked) - 1, -1, -1)
        return (answers - self.first_answer)[..., None] // powers % self.n_entities

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n sentences.  Only the question is scored; the other targets are the next tokens."""
        entities = torch.rand(n, self.n_entities, generator=generator).argsort(-1)[:, : len(ENTITY_ROLES)]
        verbs = torch.randint(self.n_verbs, (n, 1), generator=generator)
        order = torch.rand(n, 4, generator=generator).argsort(-1)
        return self.told(entities, verbs[:, 0], order)

    def told(
        self,
        entities: Int[torch.Tensor, "batch role"],
        verbs: Int[torch.Tensor, " batch"],
        order: Int[torch.Tensor, "batch phrase"],
    ) -> Batch:
        """The sentences with these fillers of WHO, WHOM, NEAR, and DID; `order` is a permutation of these four."""
        fillers = torch.cat([entities + FIRST_ENTITY, verbs[:, None] + self.first_verb], -1)
        phrases = torch.stack([order + WHO, fillers.gather(-1, order)], -1).flatten(1)
        first, last = (torch.full((len(order), 1), token) for token in (BOS, QUESTION))
        tokens = torch.cat([first, phrases, last], -1)
        asked = entities[:, [ENTITY_ROLES.index(role) for role in self.asked]]
        targets = torch.cat([tokens[:, 1:], self.answer(asked)[:, None]], -1)
        scored = torch.zeros_like(tokens, dtype=torch.bool)
        scored[:, -1] = True
        return Batch(tokens, targets, scored)
