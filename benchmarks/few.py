"""Few pictures: accuracy and loss with 1 to 50 pictures of each class, against what else one would do.

    LOOKBOOK_STORE=store python benchmarks/few.py clothes hands groceries

The names are of datasets in the store: `lookbook retrain --images FOLDER` puts them there, with the features of their
pictures. All methods get the same features, of EfficientNet-Lite0 and -Lite2 side by side at the pictures' own size.
From the training split so many pictures of each class are drawn, five times; the test split is the same each time.
Lookbook's head has its penalty and its temperature by cross-validation. scikit-learn's has its penalty by
LogisticRegressionCV on log loss, with as many folds as a class has pictures, five at most, and C = 1 where a class has
one. `nearest mean` names the class whose mean feature is nearest, and gives no probabilities. Differences are those of
the same draws: Lookbook less the other, with their standard error.
"""

import sys
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

from artifacts import dataset as datasets
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.shared.views import views_for
from tasks.vision.heads import solve_head
from tasks.vision.images import ImageSpec
from tasks.vision.metrics import calibrate, calibration, log_loss, scale
from tasks.vision.recipes import settings_for

COUNTS, DRAWS = (1, 2, 5, 10, 20, 50), 5
WHAT = "accuracy", "loss", "calibration error"
BACKBONES = "efficientnet-lite0+efficientnet-lite2"


def main() -> None:
    store = Store(Settings().store)
    for name in sys.argv[1:]:
        ref = list(store.refs("datasets", name))[-1]
        data = datasets.load(store, ref)
        settings = settings_for("transfer", backbone=BACKBONES)
        views = views_for(store, ImageSpec.from_dict(data.image_spec), settings, "auto", print)
        train, test = (views.embed(store, side.images) for side in (data.train, data.test))
        for count in COUNTS:
            found: dict[str, list[tuple[float, ...]]] = {}
            for draw in range(DRAWS):
                drawn = draw_items(data.train.labels, count, draw)
                few = train[drawn], data.train.labels[drawn], test, len(data.classes)
                for method, answer in METHODS.items():
                    found.setdefault(method, []).append(judge(answer(*few, views.widths), data.test.labels))
            for method, numbers in found.items():
                means = np.mean(numbers, axis=0)
                errors = np.std(numbers, axis=0, ddof=1) / np.sqrt(DRAWS)
                shown = f"{means[0]:.1%} ± {errors[0]:.1%}"
                if np.isfinite(means[1]):
                    shown += f", loss {means[1]:.3f} ± {errors[1]:.3f}, calibration error {means[2]:.1%}"
                print(f"{name}, {count} a class, {method}: {shown}", flush=True)
            for method in list(METHODS)[1:]:
                less = np.subtract(found["Lookbook"], found[method])
                errors = np.std(less, axis=0, ddof=1) / np.sqrt(DRAWS)
                shown = [
                    f"{what} {mean:+.3f} ± {error:.3f}"
                    for what, mean, error in zip(WHAT, less.mean(axis=0), errors, strict=True)
                    if np.isfinite(mean)
                ]
                print(f"{name}, {count} a class, Lookbook less {method}: {', '.join(shown)}", flush=True)


def draw_items(labels: np.ndarray, count: int, draw: int) -> np.ndarray:
    """Places of so many items of each class, or of all that it has: int64, ascending."""
    random = np.random.default_rng(draw)
    return np.sort(np.concatenate([random.permutation(np.flatnonzero(labels == each))[:count] for each in set(labels)]))


def judge(answers: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Accuracy, loss and calibration error; the last two are NaN for answers that are no probabilities."""
    accuracy = float((answers.argmax(axis=1) == labels).mean())
    if not np.allclose(answers.sum(axis=1), 1, atol=1e-3):
        return accuracy, np.nan, np.nan
    answers = answers.astype(np.float32)
    return accuracy, log_loss(answers, labels), calibration(answers, labels)["error"]


def standard(features, tested, widths):
    deviation = [
        max(each.std(), 0.01) for each in np.split(features - features.mean(axis=0), np.cumsum(widths)[:-1], 1)
    ]
    by = np.repeat(deviation, widths)
    return (features - features.mean(axis=0)) / by, (tested - features.mean(axis=0)) / by


def lookbook(features, labels, tested, classes, widths):
    solved = solve_head(features, labels, classes, widths=widths, first=np.arange(len(labels)))
    held_out = solved.found.folds >= 0
    temperature = 1.0
    if held_out.any():
        temperature = calibrate(solved.found.probabilities[held_out], labels[held_out], "out-of-fold").temperature
    tensors = solved.tensors
    inputs = (tested - tensors["features/mean"]) / np.repeat(tensors["features/deviation"], widths)
    logits = inputs @ tensors["output/kernel"] + tensors["output/bias"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scale((powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), temperature)


def scikit_learn(features, labels, tested, _, widths):
    learned, asked = standard(features, tested, widths)
    axes = np.linalg.svd(learned, full_matrices=False)[2].T  # turned, the optimum is the same, in fewer numbers
    learned, asked = learned @ axes, asked @ axes
    folds = min(5, int(np.bincount(labels).min()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if folds < 2:
            fitted = LogisticRegression(C=1.0, max_iter=1000).fit(learned, labels)
        else:
            fitted = LogisticRegressionCV(
                Cs=np.logspace(-4, 2, 13), cv=folds, scoring="neg_log_loss", max_iter=1000
            ).fit(learned, labels)
    return fitted.predict_proba(asked)


def nearest_mean(features, labels, tested, classes, widths):
    learned, asked = standard(features, tested, widths)
    means = np.stack([learned[labels == each].mean(axis=0) for each in range(classes)])
    return 2 * asked @ means.T - (means**2).sum(axis=1)


METHODS = {"Lookbook": lookbook, "scikit-learn": scikit_learn, "nearest mean": nearest_mean}

if __name__ == "__main__":
    main()
