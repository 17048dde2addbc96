"""How good samples are, in the features of a network: functions of features and of logits.

Throughout, ``real`` are features of real images, float32 ``(N, D)``, and ``fake`` those of samples ``(M, D)``.
Any such number depends on the network, on ``N`` and on ``M``: only those of the same three compare.

The functions on features know nothing of models and datasets: :mod:`genlab.fidelity.features` gets features of
both, and :mod:`genlab.fidelity.quality` puts it all together.
"""
