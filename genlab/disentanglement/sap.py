"""How well single dimensions predict a factor: the SAP score."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.disentanglement.score import Score, mean_over_factors, top_two_gap


def sap_score(codes: Tensor, factors: Tensor, test_codes: Tensor, test_factors: Tensor) -> Score:
    """Separated attribute predictability: by how much the best dimension's accuracy leads the next.

    Accuracies are those of linear classifiers of one dimension, on further images ``(M, D)``, ``(M, F)``. A
    line on one axis can't single out values in the middle, so for factors of many ordered values even a
    perfect code scores well below 1.

    References:
        Kumar et al. 2018, "Variational inference of disentangled latent concepts from unlabeled
        observations", section 3; linear support vector machines (``C = 0.01``, balanced classes) and every
        factor taken as discrete as by Locatello et al. 2019.

    >>> factor = torch.arange(40)[:, None] % 2
    >>> codes = torch.cat([6.0 * factor, torch.arange(40)[:, None] // 2 % 2], dim=1)  # the second is no help
    >>> sap_score(codes, factor, codes, factor).value
    0.5
    """
    return mean_over_factors(top_two_gap(accuracies(codes, factors, test_codes, test_factors)))


def accuracies(codes: Tensor, factors: Tensor, test_codes: Tensor, test_factors: Tensor) -> Tensor:
    """Test accuracy of each dimension on each factor ``(D, F)``."""
    from sklearn.svm import LinearSVC  # half a second that no other verb has to wait for

    matrix = torch.zeros(codes.shape[1], factors.shape[1], dtype=torch.float64)
    for j in range(codes.shape[1]):
        train, test = codes[:, j : j + 1].numpy(), test_codes[:, j : j + 1].numpy()
        for k in range(factors.shape[1]):
            # In the primal: the same optimum, far sooner where there are more images than dimensions.
            classifier = LinearSVC(C=0.01, class_weight="balanced", dual=False)
            classifier.fit(train, factors[:, k].numpy())
            matrix[j, k] = float(classifier.score(test, test_factors[:, k].numpy()))
    return matrix
