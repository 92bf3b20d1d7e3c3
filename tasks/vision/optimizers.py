"""How gradients move weights, as modules: their state is variables, and `step` is a function of values, so that a loop
inside a graph can carry it."""

from collections.abc import Mapping

from tasks.vision.device import tf
from tasks.vision.network import Tensors
from tasks.vision.recipes import TrainingSettings

MOMENTUM = 0.9


class SGD(tf.Module):
    """Stochastic gradient descent: weight - rate * gradient, the tutorial's.

    `weight_decay` times a kernel joins its gradient; biases, and what normalization scales by, are left alone.
    """

    def __init__(self, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.weight_decay = weight_decay
        self.state: dict[str, tf.Variable] = {}

    def step(self, weights: Tensors, gradients: Tensors, state: Tensors, rate: tf.Tensor) -> tuple[Tensors, Tensors]:
        """The weights and the state after a step. weights, gradients: float32 by name, equal shapes; rate: float32."""
        gradients = self._decayed(weights, gradients)
        return {name: weights[name] - rate * gradient for name, gradient in gradients.items()}, state

    def _decayed(self, weights: Tensors, gradients: Tensors) -> Tensors:
        if not self.weight_decay:
            return gradients
        return {
            name: gradient + self.weight_decay * weights[name] if name.endswith("/kernel") else gradient
            for name, gradient in gradients.items()
        }


class Momentum(SGD):
    """A weight's velocity keeps nine tenths of itself at every step, and takes on the gradient.

    Polyak's momentum steps along the velocity; Nesterov's looks one step ahead. Both as in Sutskever et al., "On the
    importance of initialization and momentum in deep learning" (2013), with the learning rate outside the velocity.
    """

    def __init__(self, weights: Mapping[str, tf.Variable], weight_decay: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(weight_decay)
        self.nesterov = nesterov
        self.state = {name: tf.Variable(tf.zeros_like(weight)) for name, weight in weights.items()}

    def step(self, weights: Tensors, gradients: Tensors, state: Tensors, rate: tf.Tensor) -> tuple[Tensors, Tensors]:
        gradients = self._decayed(weights, gradients)
        velocity = {name: MOMENTUM * state[name] + gradient for name, gradient in gradients.items()}
        along = velocity
        if self.nesterov:
            along = {name: gradient + MOMENTUM * velocity[name] for name, gradient in gradients.items()}
        return {name: weights[name] - rate * along[name] for name in gradients}, velocity


def make_optimizer(settings: TrainingSettings, weights: Mapping[str, tf.Variable]) -> SGD:
    """The optimizer of these weights (those that gradients move)."""
    if settings.optimizer == "sgd":
        return SGD(settings.weight_decay)
    return Momentum(weights, settings.weight_decay, nesterov=settings.optimizer == "nesterov")
