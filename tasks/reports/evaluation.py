"""The report of an evaluation: what one model does on the test split, as a page, as pictures, and as a model card."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from artifacts.dataset import Dataset
from artifacts.metrics import Mistake, Numbers, Uncalibrated
from artifacts.weights import Weights
from tasks.reports.model_card import model_card
from tasks.reports.numbers import calibrated, shown, weakest, without_copies
from tasks.reports.pages import gallery, page, rows, text
from tasks.reports.pictures import (
    confusion_matrix,
    data_uri,
    learning_curve,
    mistakes,
    penalty_curve,
    reliability,
    thumbnail,
)  # fmt: skip
from tasks.vision.metrics import calibration, scale

_CELLS = 100  # classes up to which the matrix is a table to click on
_A_CELL, _RIGHT, _WORST = 24, 6, 24  # images that are shown: of a cell, of one that is right, of a list
_IMAGES = 3000  # in all: some 3 MB
LEARNING_CURVE, PENALTY_CURVE = "learning-curve.png", "penalty-curve.png"
PENALIZED = (
    "The last layer was solved to its optimum for each penalty, five times, each time without a fifth of the training "
    "images; loss and accuracy are those of the fifth that was held out. The penalty with the least loss was taken."
)


def draw(
    weights: Weights,
    learned_from: Dataset | None,
    dataset: Dataset,
    numbers: Numbers,
    probabilities: np.ndarray,
    counted: np.ndarray | None = None,
) -> dict[str, bytes]:
    """File name -> content: report.html, the pictures in it as PNG, and model-card.md.

    learned_from: what the weights were trained on, None when that is gone; dataset: whose test split they are measured
    on; probabilities: float32 [items, classes] of the test split, those that `numbers` are of; counted: int64,
    ascending, its items that count, None for all of them.
    """
    test = dataset.test
    counted = np.arange(len(test.labels)) if counted is None else counted
    made = weights.artifact.manifest["provenance"]
    pictures = {}
    if matrix := numbers.confusion_matrix:  # None with many hundred classes
        pictures["confusion-matrix.png"] = confusion_matrix(matrix, weights.classes)
    if weights.history:
        pictures[LEARNING_CURVE] = learning_curve(weights.history, made.get("best_epoch"))
    if (penalties := weights.penalties) and penalties.tried:
        pictures[PENALTY_CURVE] = penalty_curve(penalties.tried, penalties.taken)
    if numbers.calibration is not None:
        own = None
        if numbers.temperature is not None:
            own = calibration(scale(probabilities[counted], 1 / numbers.temperature), test.labels[counted])
        pictures["reliability.png"] = reliability(numbers.calibration, own)
        worst = numbers.mistakes[:_WORST]
        captions = [(each.is_, f"called {each.called}", f"{each.confidence:.0%}") for each in worst]
        pictures["mistakes.png"] = mistakes([dataset.test.images[each.item] for each in worst], captions)
    card = model_card(weights, learned_from, dataset, numbers)
    return {
        "report.html": _page(weights, learned_from, dataset, numbers, probabilities, counted, pictures),
        "model-card.md": card.encode(),
        **pictures,
    }


def _page(
    weights: Weights,
    learned_from: Dataset | None,
    dataset: Dataset,
    numbers: Numbers,
    probabilities: np.ndarray,
    counted: np.ndarray,
    pictures: Mapping[str, bytes],
) -> bytes:
    classes, test = weights.classes, dataset.test
    items = f"{numbers.items:,} test images{without_copies(numbers)}"
    listed, others = weakest(numbers.per_class, classes)
    parts = [
        f"<h1>{text(weights.ref.name)}</h1>",
        f"<p>What <code>{weights.ref}</code> does on the {items} of <code>{dataset.artifact.ref}</code>.</p>",
        _figures(numbers),
        *_warnings(dataset),
        "<h2>Confusion matrix</h2>",
        "<p>Test images: a row is what they are, a column what they were called.</p>",
        *_matrix(classes, numbers, test.images, test.labels, test.sources, probabilities, counted, pictures),
        "<h2>Classes</h2>",
        *([f"<p>{others}</p>"] if others else []),
        rows(
            ("class", "precision", "recall", "F1", "images"),
            [
                (text(name), shown(each.precision), shown(each.recall), shown(each.f1), f"{each.support:,}")
                for name, each in ((name, numbers.per_class[name]) for name in listed)
            ],
        ),
        "<p class=small>Precision is the share of the images called by this class's name that are of it. Recall is the "
        "share of the images of this class that were called by its name. F1 is their harmonic mean.</p>",
    ]
    if numbers.calibration is not None:
        parts += [
            "<h2>Most certain mistakes</h2>",
            _gallery(numbers.mistakes[:_WORST], test.images, test.sources, "called"),
            "<h2>Likely label errors</h2>",
            f"<p>Test images that to the model look more like another class than images of that class do on average "
            f"(confident learning): {numbers.doubtful:,}. Either the model is wrong, or the label.</p>",
            _gallery(numbers.doubtful_items[:_WORST], test.images, test.sources, "rather"),
            *_training_errors(numbers, learned_from),
            "<h2>Is it as sure as it should be?</h2>",
            f"<p>The expected calibration error is {numbers.calibration['error']:.2%}: how far confidence is from "
            f"accuracy on average. Confidence is {calibrated(weights.temperature, weights.calibration)}."
            f"{_uncalibrated(numbers.uncalibrated)}</p>",
            _chart(pictures["reliability.png"], "reliability diagram"),
        ]
    if curve := pictures.get(LEARNING_CURVE):
        parts += ["<h2>Learning curve</h2>", _chart(curve, "learning curve")]
    if curve := pictures.get(PENALTY_CURVE):
        parts += [
            f"<h2>How strongly the last layer is penalized</h2><p>{PENALIZED}</p>",
            _chart(curve, "penalty curve"),
        ]
    parts += ["<h2>What it was made of</h2>", _made_of(weights, learned_from, dataset)]
    return page(f"Evaluation of {weights.ref.name}", parts)


def _training_errors(numbers: Numbers, learned_from: Dataset | None) -> Iterator[str]:
    if numbers.doubtful_training is not None and learned_from is not None:
        train = learned_from.train
        yield (
            "<h2>Likely label errors in what was learned from</h2><p>The same of the training images, each called by a "
            f"last layer that had not learned from it: {numbers.doubtful_training:,}. To mend one, put its file where "
            "it belongs, or say so on the review page.</p>"
        )
        yield _gallery(numbers.doubtful_training_items[:_WORST], train.images, train.sources, "rather")


def _figures(numbers: Numbers) -> str:
    if numbers.accuracy_interval is None or numbers.calibration is None:
        return "<p class=warnings>Its predictions are not numbers (NaN).</p>"
    low, high = numbers.accuracy_interval
    figures = [
        (shown(numbers.accuracy), f"accuracy, {low:.2%} to {high:.2%} with 95 % confidence"),
        *((shown(value), f"right among the {k} most probable") for k, value in numbers.top_k.items()),
        (f"{numbers.loss:.4f}", "loss (nats): smaller is better"),
        (f"{numbers.brier:.4f}", "Brier score, 0 to 2: smaller is better"),
        (shown(numbers.calibration["error"]), "expected calibration error"),
    ]
    return f"<div class=figures>{''.join(f'<div><b>{value}</b>{what}</div>' for value, what in figures)}</div>"


def _warnings(dataset: Dataset) -> Iterator[str]:
    if findings := dataset.findings:
        listed = "".join(f"<li>{text(each['text'])}{_examples(each['examples'])}" for each in findings)
        yield f"<h2>Odd about the data</h2><ul class=warnings>{listed}</ul>"


def _examples(examples: Sequence[str]) -> str:
    if not examples:
        return ""
    return f"<details><summary class=small>for example</summary>{'<br>'.join(map(text, examples))}</details>"


def _matrix(
    classes: Sequence[str],
    numbers: Numbers,
    images: np.ndarray,
    labels: np.ndarray,
    sources: Sequence[str],
    probabilities: np.ndarray,
    counted: np.ndarray,
    pictures: Mapping[str, bytes],
) -> Iterator[str]:
    """The matrix as a table of links, and below it the images of each cell, of which the one that was clicked shows."""
    if numbers.confusion_matrix is None:
        yield f"<p id=matrix>{len(classes):,} classes are too many for a matrix.</p>"
    elif len(classes) <= _CELLS:
        counts = np.asarray(numbers.confusion_matrix)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        head = "".join(f"<th><span>{text(name)}</span>" for name in classes)
        body = "".join(
            f"<tr><td>{text(name)}" + "".join(_cell(row, column, counts, shares) for column in range(len(classes)))
            for row, name in enumerate(classes)
        )
        yield "<p>Click a number to see its images.</p>"
        yield f"<div class=wide id=matrix><table class=matrix><tr><th>{head}{body}</table></div>"
    else:
        yield f"<div id=matrix>{_chart(pictures['confusion-matrix.png'], 'confusion matrix')}</div>"
    places = {name: place for place, name in enumerate(classes)}
    confused = numbers.most_confused
    if confused:
        links = [
            (
                f"<a href='#c{places[each.is_]}-{places[each.called]}'>{text(each.is_)}</a>",
                text(each.called),
                f"{each.items:,}",
            )
            for each in confused
        ]
        yield f"<h3>Most often confused</h3>{rows(('is', 'was called', 'images'), links)}"
    predicted = probabilities.argmax(axis=1)
    confidence = np.nan_to_num(probabilities.max(axis=1))
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for item in counted[np.argsort(-confidence[counted], kind="stable")].tolist():
        cells[int(labels[item]), int(predicted[item])].append(item)
    reachable = [(places[each.is_], places[each.called]) for each in confused]
    shown_cells = cells if len(classes) <= _CELLS else {cell: cells[cell] for cell in reachable}
    # of what is right the least certain ones, of mistakes the most certain
    most = max(1, min(_A_CELL, _IMAGES // max(len(shown_cells), 1)))
    for (is_, called), items in sorted(shown_cells.items()):
        some = (
            items[-min(_RIGHT, most) :][::-1] if is_ == called else items[:most]
        )  # of what is right the least certain
        examples = [Mistake(item, classes[is_], classes[called], float(confidence[item])) for item in some]
        how = "the least certain" if is_ == called else "the most certain"
        part = "" if len(some) == len(items) else f", {how} {len(some):,} of them"
        what = "rightly called so" if is_ == called else f"called {text(classes[called])}"
        yield (
            f"<section class=cell id=c{is_}-{called}><h3>{text(classes[is_])}, {what}: {len(items):,}{part}</h3>"
            f"{_gallery(examples, images, sources, 'called')}<p><a href='#matrix'>back to the matrix</a></p></section>"
        )


def _cell(row: int, column: int, counts: np.ndarray, shares: np.ndarray) -> str:
    if not counts[row, column]:
        return "<td>"
    filled = shares[row, column] ** 0.5  # so that a tenth shows
    ink = "#fff" if filled > 0.6 else "#222"
    return (
        f"<td style='background:rgba(31,90,150,{filled:.2f});color:{ink}'>"
        f"<a href='#c{row}-{column}'>{counts[row, column]:,}</a>"
    )


def _gallery(
    listed: Sequence[Mistake], images: np.ndarray, sources: Sequence[str], verb: str
) -> str:  # fmt: skip
    if not listed:
        return "<p>None.</p>"
    return gallery(
        (
            thumbnail(images[each.item]),
            f"{text(each.is_)}, {verb} {text(each.called)} {each.confidence:.0%}",
            text(sources[each.item]),
        )
        for each in listed
    )


def _uncalibrated(own: Uncalibrated | None) -> str:
    if own is None:
        return ""
    return (
        f" As the network gives it (<code>lookbook score --uncalibrated</code>), the error is {own.error:.2%}, and the "
        f"loss is {own.loss:.4f}."
    )


def _made_of(weights: Weights, learned_from: Dataset | None, dataset: Dataset) -> str:
    made, spec = weights.artifact.manifest["provenance"], dataset.image_spec
    images = f", {learned_from.artifact.facts['counts']['train']['items']:,} images" if learned_from else ""
    facts = {
        "weights": f"<code>{weights.ref}</code>",
        "trained on": f"<code>{text(weights.artifact.identity['inputs']['dataset'])}</code>{images}",
        "tested with": f"<code>{dataset.artifact.ref}</code>, {len(dataset.test.labels):,} images",
        "pixels": f"{spec['height']}x{spec['width']}, {'grey' if spec['channels'] == 1 else 'colour'}",
        **{name.replace("_", " "): text(value) for name, value in weights.settings.items()},
        "trained": text(f"{made['created']} on {made.get('device', 'an unknown device')}"),
    }
    return rows(("", ""), list(facts.items()))


def _chart(content: bytes, what: str) -> str:
    return f"<p><img class=chart src='{data_uri(content, 'png')}' alt='{what}'></p>"
