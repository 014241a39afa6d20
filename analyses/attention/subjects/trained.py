"""A model trained here on short windows, and long windows of the text that it has not seen."""

from dataclasses import replace

from analyses.attention.subjects.scores import equal_scores
from analyses.core.results import results_root
from toy_models.seeding import generator


def trained_run(config, seed: int):
    """The trained run of one seed, from disk if it is there: `.model`, and `.at(0)`, the model at birth.

    Raises: ModelError, if the text cannot be read or a checkpoint is damaged."""
    from toy_models.checkpoints import RunConfig, train_or_load

    model = replace(config.model, n_ctx=config.task.n_ctx, device="cpu")
    run_config = RunConfig(model=model, task=config.task.pinned(), train=config.train, seed=seed)
    return train_or_load(run_config, results_root() / "checkpoints", show_progress=False)


class Trained:
    """What a `Config` with a `model` to train measures; seed by seed, in any process."""

    def __init__(self, config):
        self.config = config

    def room(self):
        """The options of the model, with room for the longest text."""
        return replace(self.config.model, n_ctx=self.config.lengths[-1], device="cpu")

    def trained(self, seed: int):
        """The model after training."""
        return self._filled(trained_run(self.config, seed).model)

    def untrained(self, seed: int):
        """The same model at birth."""
        return self._filled(trained_run(self.config, seed).at(0))

    def _filled(self, found):
        from toy_models import Transformer

        model = Transformer(self.room(), seed=None)
        model.load_state_dict(found.state_dict())
        return model.to(self.config.device)

    def uniform(self, seed: int):
        """One head with all scores equal."""
        return equal_scores(self.room(), seed, self.config.device)

    def texts(self, seed: int):
        """(text, position): held-out windows of the longest length."""
        longest = replace(self.config.task, n_ctx=self.config.lengths[-1]).held_out()
        return longest.sample(self.config.texts, generator(seed, "texts")).tokens

    def told(self) -> dict:
        """For run.json."""
        task = self.config.task
        return {"text": {"digest": task.text_digest, "held_out_bytes": len(task.held_out().text)}}
