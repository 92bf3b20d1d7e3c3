"""Multinomial logistic regression with an L2 penalty, solved to its optimum by hand.

The loss of a linear layer is convex, so its weights follow from the data and the penalty alone. The solver is L-BFGS
(Nocedal and Wright, "Numerical Optimization", 2006, algorithm 7.4). The matrix that it starts from is the inverse of a
bound on the curvature, which the features' second moments give (Böhning, "Multinomial logistic regression algorithm",
1992): a tenth of the steps of conjugate gradients without one.

Problems on the same features are solved side by side, as columns of one product: ten columns leave a processor waiting
for memory, and fifty do not.
"""

from typing import NamedTuple

import numpy as np

from tasks.vision.device import tf

STEPS = 200  # 10 to 80 are usual
REMEMBERED = 10  # steps that the curvature is estimated from
LANES = 4  # parts of the items, side by side by one thread each: so the number of processors changes no bits
_HALVINGS = 20
_LEAST = 1e-2  # nats; a loss below it counts as this: float32 can't tell more

Lanes = list[tf.Tensor]


class Data(NamedTuple):
    """What problems are about, in LANES parts of the items.

    inputs: float32 [items, features + 1], the last one 1. labels: int32 [items].
    weights: float32 [items, problems, 1], how much each item counts, with a sum of 1 a problem.
    penalties: float32 [problems], of the mean loss.
    """

    inputs: Lanes
    labels: Lanes
    weights: Lanes
    penalties: tf.Tensor


class Problems:
    """Linear layers on the same features, each with weights of its own for the items.

    features: float32 [items, features], of mean 0 and a like size.
    labels: int32 [items], 0 to classes - 1.
    weights: float32 [items, problems], how much each item counts; 0 for what a problem does not learn from.

    A solution is float32 [features + 1, problems, classes]: the last row is the bias, which is not penalized. The same
    arguments give the same bits where an operation has one thread (`device.use_threads`).
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: int) -> None:
        self._shape = (features.shape[1] + 1, weights.shape[1], classes)
        self._sums = weights.sum(axis=0, dtype=np.float64)
        lanes = np.array_split(np.arange(len(labels)), LANES)
        self._inputs = [tf.concat([features[lane], tf.ones((len(lane), 1))], axis=1) for lane in lanes]
        self._labels = [tf.constant(labels[lane], tf.int32) for lane in lanes]
        self._weights = [
            tf.constant((weights[lane] / self._sums).astype(np.float32)[:, :, np.newaxis]) for lane in lanes
        ]
        self._moments = tf.add_n([tf.matmul(each, each, transpose_a=True) for each in self._inputs]) / len(labels)

    def zeros(self) -> tf.Tensor:
        """The solution from which the first one starts."""
        return tf.zeros(self._shape)

    def solve(self, start: tf.Tensor, penalty: float, tolerance: float) -> tuple[tf.Tensor, np.ndarray]:
        """The solution with the least sum of the items' losses and half its square times the penalty.

        start: a solution; the nearer, the fewer steps.
        tolerance: how far from its least value the mean loss may be, as a share of it.

        Returns it, and the logits of all items by all problems, float32 [items, problems, classes].
        """
        penalties = tf.constant((penalty / self._sums).astype(np.float32))
        data = Data(self._inputs, self._labels, self._weights, penalties)
        solution, logits = _descend(data, self._moments, start, tf.constant(tolerance, tf.float32))
        return solution, np.concatenate([each.numpy() for each in logits])


def _spec(*shape: int | None, dtype: tf.DType = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype)


_SIGNATURE = (
    Data(
        [_spec(None, None)] * LANES, [_spec(None, dtype=tf.int32)] * LANES, [_spec(None, None, 1)] * LANES, _spec(None)
    ),
    _spec(None, None),
    _spec(None, None, None),
    _spec(),
)  # of all sizes, so that there is one trace: it takes 0.7 s


class _At(NamedTuple):
    """Where a descent is.

    number: of steps that were taken. solution, logits, loss, gradient: of the problems.
    moves, bends: of the last steps, how the solutions and the gradients moved, [REMEMBERED, *solution]; scales: one
    over their products, [REMEMBERED, problems]. gain: [problems], what the last step expected to gain.
    """

    number: tf.Tensor
    solution: tf.Tensor
    logits: Lanes
    loss: tf.Tensor
    gradient: tf.Tensor
    moves: tf.Tensor
    bends: tf.Tensor
    scales: tf.Tensor
    gain: tf.Tensor


def _search(data: Data, moments: tf.Tensor, start: tf.Tensor, tolerance: tf.Tensor) -> tuple[tf.Tensor, Lanes]:
    """L-BFGS from a solution on, until no problem expects to gain more than the tolerance."""
    logits = _logits(data, start)
    factor = _bound(data, moments, logits)

    def step(at: _At) -> tuple[_At]:
        direction = _direction(at, factor)
        slope = _dot(at.gradient, direction)
        along = _logits(data, direction)

        def moved(size: tf.Tensor) -> tuple[tf.Tensor, Lanes]:
            by = size[:, tf.newaxis]
            return at.solution + by * direction, [a + by * b for a, b in zip(at.logits, along, strict=True)]

        def halve(size: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            tried, given = moved(size)
            fits = _loss(data, given, tried) <= at.loss + 1e-4 * size * slope + 1e-6 * at.loss
            return tf.where(fits, size, size / 2), fits

        whole = (tf.ones_like(slope), tf.zeros_like(slope, tf.bool))
        size, _ = tf.while_loop(
            lambda _, fits: tf.logical_not(tf.reduce_all(fits)), halve, whole, maximum_iterations=_HALVINGS
        )
        solution, logits = moved(size)
        gradient = _gradient(data, logits, solution)
        move, bend = solution - at.solution, gradient - at.gradient
        scale = tf.math.divide_no_nan(1.0, tf.maximum(_dot(move, bend), 0))
        moves, bends, scales = (
            tf.concat([past[1:], newest[tf.newaxis]], axis=0)
            for past, newest in ((at.moves, move), (at.bends, bend), (at.scales, scale))
        )
        loss = _loss(data, logits, solution)
        return (_At(at.number + 1, solution, logits, loss, gradient, moves, bends, scales, -slope / 2),)

    def goes_on(at: _At) -> tf.Tensor:
        return tf.reduce_any(at.gain > tolerance * tf.maximum(at.loss, _LEAST)) & (at.number < STEPS)

    past = tf.tile(tf.zeros_like(start)[tf.newaxis], (REMEMBERED, 1, 1, 1))
    loss = _loss(data, logits, start)
    scales = tf.tile(tf.zeros_like(loss)[tf.newaxis], (REMEMBERED, 1))
    gradient = _gradient(data, logits, start)
    first = _At(tf.constant(0), start, logits, loss, gradient, past, past, scales, loss + 1)
    (found,) = tf.while_loop(goes_on, step, (first,))
    return found.solution, found.logits


_descend = tf.function(_search, autograph=False, input_signature=_SIGNATURE)


def _logits(data: Data, solution: tf.Tensor) -> Lanes:
    shape = tf.shape(solution)
    flat = tf.reshape(solution, (shape[0], -1))
    return [tf.reshape(inputs @ flat, (-1, shape[1], shape[2])) for inputs in data.inputs]


def _loss(data: Data, logits: Lanes, solution: tf.Tensor) -> tf.Tensor:
    """[problems]: mean loss and penalty."""

    def of(given: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        right = tf.gather(given, tf.broadcast_to(labels[:, tf.newaxis], tf.shape(given)[:2]), batch_dims=2)
        return tf.reduce_sum(weights[:, :, 0] * (tf.reduce_logsumexp(given, axis=2) - right), axis=0)

    losses = [of(*each) for each in zip(logits, data.labels, data.weights, strict=True)]
    return tf.add_n(losses) + data.penalties * tf.reduce_sum(solution[:-1] ** 2, axis=[0, 2]) / 2


def _gradient(data: Data, logits: Lanes, solution: tf.Tensor) -> tf.Tensor:
    def of(given: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
        right = tf.one_hot(labels, tf.shape(given)[2])[:, tf.newaxis]
        wrong = weights * (tf.nn.softmax(given) - right)
        return tf.matmul(inputs, tf.reshape(wrong, (tf.shape(inputs)[0], tf.size(solution[0]))), transpose_a=True)

    lanes = zip(logits, data.labels, data.weights, data.inputs, strict=True)
    descent = tf.reshape(tf.add_n([of(*each) for each in lanes]), tf.shape(solution))
    penalized = tf.concat([solution[:-1], tf.zeros_like(solution[-1:])], axis=0)
    return descent + data.penalties[:, tf.newaxis] * penalized


def _bound(data: Data, moments: tf.Tensor, logits: Lanes) -> tf.Tensor:
    """The Cholesky factor of about the curvature, [features + 1, features + 1], the same for all problems."""
    bends = [tf.reduce_sum(each * (1 - each)) for each in map(tf.nn.softmax, logits)]
    bend = tf.add_n(bends) / tf.cast(tf.add_n([tf.size(each) for each in logits]), tf.float32)
    floor = tf.maximum(tf.reduce_mean(data.penalties), 1e-6 * bend * tf.reduce_mean(tf.linalg.diag_part(moments)))
    return tf.linalg.cholesky(bend * moments + floor * tf.eye(tf.shape(moments)[0]))


def _dot(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Of each problem: [problems]."""
    return tf.reduce_sum(one * other, axis=[0, 2])


def _direction(at: _At, factor: tf.Tensor) -> tf.Tensor:
    """Where to go: the two loops of L-BFGS. What is not remembered yet has a scale of 0, and changes nothing."""
    left, shares = -at.gradient, []
    for past in reversed(range(REMEMBERED)):
        shares.append(at.scales[past] * _dot(at.moves[past], left))
        left -= shares[-1][:, tf.newaxis] * at.bends[past]
    flat = tf.reshape(left, (tf.shape(left)[0], -1))
    found = tf.reshape(tf.linalg.cholesky_solve(factor, flat), tf.shape(left))
    for past in range(REMEMBERED):
        found += (shares[-1 - past] - at.scales[past] * _dot(at.bends[past], found))[:, tf.newaxis] * at.moves[past]
    return found
