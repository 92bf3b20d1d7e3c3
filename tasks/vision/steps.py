"""The steps of a training: gradient descent on softmax cross-entropy, many steps a graph call."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tasks.vision.batches import Chunk
from tasks.vision.device import tf
from tasks.vision.network import Network, Tensors
from tasks.vision.optimizers import SGD
from tasks.vision.recipes import Execution, TrainingSettings

Steps = Callable[[Chunk], tuple[float, int]]
"""Takes the steps of a chunk, which changes the variables of network and optimizer.

Returns the sum of the items' losses and the number of hits, each seen before its step.
"""


def make_steps(
    network: Network,
    optimizer: SGD,
    settings: TrainingSettings,
    execution: Execution,
    class_weights: np.ndarray | None = None,
) -> Steps:
    """Gradient descent on `network`: many steps of a chunk in one call.

    execution: `graph` traces once and runs the graph; `eager` runs the same Python at every step.
    class_weights: float32 [classes], how much an item of each class counts; None where all count the same.
    """
    names = list(network.learned)

    def lane(
        weights: Tensors,
        images: tf.Tensor,
        labels: tf.Tensor,
        flips: tf.Tensor,
        share: tf.Tensor,
        crops: tf.Tensor | None,
        share_of_side: float,
    ) -> Any:
        """A part of a batch: the gradients of its part of the loss, its statistics, and its items' losses and hits.

        share: float32 [items], how much each item counts in the batch's mean, 0 for padding.
        """
        if settings.augmentation == "flips":
            images = tf.where(flips[:, tf.newaxis, tf.newaxis, tf.newaxis], tf.reverse(images, [2]), images)
        if crops is not None:
            sides = [round(side * share_of_side) for side in network.image_shape[:2]]
            images = tf.image.crop_and_resize(images, crops, tf.range(tf.shape(images)[0]), sides)
        variables = {name: weights[name] for name in names}
        with tf.GradientTape() as tape:
            tape.watch(variables)
            logits, statistics = network.forward_training(images, {**weights, **variables})
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            targets = losses
            if smoothing := settings.label_smoothing:
                everywhere = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=1)
                targets = (1 - smoothing) * losses + smoothing * everywhere
            if class_weights is not None:
                targets *= tf.gather(class_weights, labels)
            objective = tf.reduce_sum(targets * share)
        present = share > 0
        hits = present & (tf.argmax(logits, axis=1, output_type=tf.int32) == labels)
        loss = tf.reduce_sum(tf.where(present, losses, 0.0))
        return tape.gradient(objective, variables), statistics, loss, tf.reduce_sum(tf.cast(hits, tf.int32))

    def step(weights: Tensors, state: Tensors, batch: Sequence[tf.Tensor], share_of_side: float) -> Any:
        images, labels, flips, count, rate, blend, *crops = batch
        width = labels.shape[0]
        shares = tf.where(tf.range(width) < count, 1 / tf.cast(count, tf.float32), 0.0)
        parts = [slice(start, start + width // network.lanes) for start in range(0, width, width // network.lanes)]
        lanes = [
            lane(
                weights,
                images[part],
                labels[part],
                flips[part],
                shares[part],
                crops[0][part] if crops else None,
                share_of_side,
            )
            for part in parts
        ]
        gradients, statistics, losses, hits = zip(*lanes, strict=True)
        learned, state = optimizer.step(weights, _sums(gradients), state, rate)
        running = {
            name: weights[name] + blend * (total / network.lanes - weights[name])
            for name, total in _sums(statistics).items()
        }
        return {**weights, **learned, **running}, state, sum(losses[1:], losses[0]), sum(hits[1:], hits[0])

    def many_steps(share_of_side: float, *given: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        *batches, steps = given

        def one(index: tf.Tensor, loss: tf.Tensor, hits: tf.Tensor, weights: Tensors, state: Tensors) -> Any:
            moved, state, more_loss, more_hits = step(weights, state, [each[index] for each in batches], share_of_side)
            return index + 1, loss + tf.cast(more_loss, tf.float64), hits + more_hits, moved, state

        carried = [network.turned(_values(variables)) for variables in (network.weights, optimizer.state)]
        start = (0, tf.zeros((), tf.float64), 0, *carried)
        _, loss, hits, weights, state = tf.while_loop(lambda index, *_: index < steps, one, start)
        for variables, values in ((network.weights, weights), (optimizer.state, state)):
            for name, value in network.turned(values).items():
                variables[name].assign(value)
        return loss, hits

    run = many_steps
    if execution == "graph":
        run = tf.function(many_steps, autograph=False, jit_compile=network.compiled)

    def take(chunk: Chunk) -> tuple[float, int]:
        batches = (chunk.images, chunk.labels, chunk.flips, chunk.counts, chunk.rates, chunk.blends)
        crops = () if chunk.crops is None else (chunk.crops,)
        loss, hits = run(chunk.share, *batches, *crops, chunk.steps)
        return float(loss), int(hits)

    return take


def _sums(named: Sequence[Tensors]) -> dict[str, tf.Tensor]:
    """Sums by name, in the lanes' order: an order that changed would change the last bits."""
    return {name: sum((each[name] for each in named[1:]), named[0][name]) for name in named[0]}


def _values(variables: dict[str, tf.Variable]) -> dict[str, tf.Tensor]:
    return {name: tf.convert_to_tensor(variable) for name, variable in variables.items()}
