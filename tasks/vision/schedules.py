"""Schedules of the learning rate, as modules: they turn the index of a step into its learning rate."""

from tasks.vision.device import tf
from tasks.vision.recipes import TrainingSettings

WARM_UP = 0.2  # share of the steps in which one-cycle rises


class Constant(tf.Module):
    """The learning rate stays the same.

    rate: the learning rate at its highest.
    steps: how many steps the training has.
    """

    def __init__(self, rate: float, steps: int) -> None:
        super().__init__()
        self.rate, self.steps = rate, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of each step, float64 [...]. step: float64 [...], 0 to steps - 1."""
        return self.rate * tf.ones_like(step)


class Linear(Constant):
    """The learning rate falls evenly and is zero after the last step."""

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return self.rate * (1 - step / self.steps)


class OneCycle(Constant):
    """The learning rate rises evenly from zero, and falls evenly to zero again.

    This is the triangle of Smith, "A disciplined approach to neural network hyper-parameters" (2018). It leans to the
    left as in Howard and Ruder, "Universal language model fine-tuning" (2018).
    """

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        done = (step + 1) / (self.steps + 1)
        return self.rate * tf.minimum(done / WARM_UP, (1 - done) / (1 - WARM_UP))


_KINDS = {"constant": Constant, "linear": Linear, "one-cycle": OneCycle}


def make_schedule(settings: TrainingSettings, steps: int) -> Constant:
    """The schedule of a training of `steps` steps."""
    return _KINDS[settings.schedule](settings.learning_rate, steps)
