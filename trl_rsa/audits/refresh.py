"""A learned cost that learns from the labels of an audit: what it says, corrected by the words of a response.

A cost model may be blind: whole kinds of harm have the score of harmless responses, and no calibration of that score
can part them. A ridge regression of the labels on the words and on the score can, as soon as one or two of a kind are
labelled. It asks nothing of the cost model, which may be a judge or a guard behind a server.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse


Array = NDArray[np.float64]
Features = Callable[[Sequence[Any], Sequence[str]], ArrayLike]

# The strength of the ridge is the one of these that foretells left-out labels best.
PENALTIES = (0.03, 0.1, 0.3, 1.0)
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Labelled:
    """Responses with a label: what a [`RefreshedCost`] is made of. One entry per response in each."""

    prompts: Sequence[Any]
    responses: Sequence[str]
    scores: Sequence[float]
    labels: Sequence[float]


class RefreshedCost:
    """
    Ridge regression of the label on the words and pairs of words of a response, and on its learned cost.

    Args:
        labelled ([`Labelled`]):
            What it learns from.
        features (`Callable`, *optional*):
            `(prompts, responses) -> [n, d]`: other features than words, such as embeddings.

    Attributes:
        penalty (`float`): The strength of the ridge, chosen by leaving each label out.
        left_out (`np.ndarray` of shape `[m]`): What the regression without a label says of its response.
    """

    def __init__(self, labelled: Labelled, features: Features | None = None):
        self.features, self.labels = features, np.asarray(labelled.labels, dtype=np.float64)
        self.vocabulary: dict[str, int] = {}
        scores = np.asarray(labelled.scores, dtype=np.float64)
        self._centre, self._width = float(np.mean(scores)), float(np.std(scores)) or 1.0
        self._rows = self._matrix(labelled.prompts, labelled.responses, scores, grow=True)
        kernel = (self._rows @ self._rows.T).toarray()
        self._mean = float(self.labels.mean())
        centred = self.labels - self._mean
        values, vectors = np.linalg.eigh(kernel)
        values = np.maximum(values, 0.0)
        found = []
        for penalty in PENALTIES:
            # Leaving one out in closed form: residual / (1 − leverage).
            shrunk = (vectors * (values / (values + penalty))) @ vectors.T
            residual = (centred - shrunk @ centred) / np.maximum(1 - np.diag(shrunk), 1e-9)
            found.append((float(np.mean(residual**2)), penalty, residual))
        _, self.penalty, residual = min(found, key=lambda each: each[:2])
        self.left_out: Array = self.labels - residual
        self._dual = vectors @ ((vectors.T @ centred) / (values + self.penalty))

    def predict(self, prompts: Sequence[Any], responses: Sequence[str], scores: ArrayLike) -> Array:
        """The refreshed cost `[n]` of responses, from their learned costs."""
        rows = self._matrix(prompts, responses, np.asarray(scores, dtype=np.float64))
        return self._mean + np.asarray(rows @ (self._rows.T @ self._dual)).reshape(-1)

    def _matrix(
        self, prompts: Sequence[Any], responses: Sequence[str], scores: Array, grow: bool = False
    ) -> "sparse.csr_matrix":
        standard = sparse.csr_matrix(((scores - self._centre) / self._width)[:, None])
        if self.features is not None:
            vectors = np.asarray(self.features(prompts, responses), dtype=np.float64)
            norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            return sparse.hstack([sparse.csr_matrix(vectors / norms), standard], format="csr")
        words = _counted([_words(text) for text in responses], self.vocabulary, grow)
        return sparse.hstack([words, standard], format="csr")


def _words(text: str) -> list[str]:
    """The words and the pairs of words that follow each other, each once."""
    words = _TOKEN.findall(text.casefold())
    return list(dict.fromkeys([*words, *(f"{one} {other}" for one, other in pairwise(words))]))


def _counted(several: Sequence[Sequence[str]], vocabulary: dict[str, int], grow: bool) -> "sparse.csr_matrix":
    """Rows of length 1 that say which words of the vocabulary each text has."""
    rows, columns, values = [], [], []
    for row, words in enumerate(several):
        for word in words:
            column = vocabulary.setdefault(word, len(vocabulary)) if grow else vocabulary.get(word)
            if column is not None:
                rows.append(row)
                columns.append(column)
                values.append(len(words) ** -0.5)
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(several), max(1, len(vocabulary))))
