"""How gradients move weights, as modules.

Their state is variables. `step` is a function of values, so that a loop inside a graph can carry it.
"""

from collections.abc import Mapping

from tasks.vision.device import tf
from tasks.vision.network import Network, Tensors
from tasks.vision.recipes import TrainingSettings

MOMENTUM = 0.9


class SGD(tf.Module):
    """The tutorial's stochastic gradient descent: weight - rate * gradient.

    weight_decay: 0 or more; so much of a kernel is added to its gradient. Biases, scales and offsets don't decay.
    rates: the learning rates of some weights by name, as shares of that of all others.
    longest: gradients of all weights together that are longer than this are made so short; None for no limit.
    state: the optimizer's variables by name; none here.
    """

    def __init__(
        self, weight_decay: float = 0.0, rates: Mapping[str, float] | None = None, longest: float | None = None
    ) -> None:
        super().__init__()
        self.weight_decay = weight_decay
        self.rates = dict(rates or {})
        self.longest = longest
        self.state: dict[str, tf.Variable] = {}

    def step(self, weights: Tensors, gradients: Tensors, state: Tensors, rate: tf.Tensor) -> tuple[Tensors, Tensors]:
        """The weights and the state after a step.

        weights: float32 by name.
        gradients: float32 by name, in the shapes of the weights.
        state: as `self.state` has it.
        rate: the learning rate, a float32 scalar.
        """
        gradients = self._decayed(weights, self._shortened(gradients))
        return self._moved(weights, gradients, rate), state

    def _shortened(self, gradients: Tensors) -> Tensors:
        if self.longest is None:
            return gradients
        share = tf.minimum(self.longest / tf.linalg.global_norm(list(gradients.values())), 1.0)
        return {name: share * gradient for name, gradient in gradients.items()}

    def _moved(self, weights: Tensors, along: Tensors, rate: tf.Tensor) -> Tensors:
        return {
            name: weights[name] - (rate * self.rates[name] if name in self.rates else rate) * each
            for name, each in along.items()
        }

    def _decayed(self, weights: Tensors, gradients: Tensors) -> Tensors:
        if not self.weight_decay:
            return gradients
        return {
            name: gradient + self.weight_decay * weights[name] if name.endswith("/kernel") else gradient
            for name, gradient in gradients.items()
        }


class Momentum(SGD):
    """Each weight has a velocity, which keeps nine tenths of itself at every step and adds the gradient.

    weights: the variables that gradients move.
    nesterov: whether a step looks one step ahead (Nesterov) or goes along the velocity (Polyak).

    Both are as in Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013), with
    the learning rate outside the velocity.
    """

    def __init__(
        self,
        weights: Mapping[str, tf.Variable],
        weight_decay: float = 0.0,
        nesterov: bool = False,
        rates: Mapping[str, float] | None = None,
        longest: float | None = None,
    ) -> None:
        super().__init__(weight_decay, rates, longest)
        self.nesterov = nesterov
        self.state = {name: tf.Variable(tf.zeros_like(weight)) for name, weight in weights.items()}

    def step(self, weights: Tensors, gradients: Tensors, state: Tensors, rate: tf.Tensor) -> tuple[Tensors, Tensors]:
        gradients = self._decayed(weights, self._shortened(gradients))
        velocity = {name: MOMENTUM * state[name] + gradient for name, gradient in gradients.items()}
        along = velocity
        if self.nesterov:
            along = {name: gradient + MOMENTUM * velocity[name] for name, gradient in gradients.items()}
        return self._moved(weights, along, rate), velocity


def make_optimizer(settings: TrainingSettings, network: Network) -> SGD:
    """The optimizer that the settings name, for the weights of a network that gradients move."""
    if settings.optimizer == "sgd":
        return SGD(settings.weight_decay, network.rates, network.longest)
    nesterov = settings.optimizer == "nesterov"
    return Momentum(network.learned, settings.weight_decay, nesterov, network.rates, network.longest)
