"""How far the dimensions of a code are the factors of variation: functions of codes and factors.

Throughout, ``codes`` are ``(N, D)`` of ``D >= 2`` dimensions, and ``factors`` int64 ``(N, F)`` of ``F >= 2``
factors of variation, each with two values or more among the ``N`` images; information is in nats. The
protocols are those of Locatello et al. 2019, "Challenging common assumptions in the unsupervised learning of
disentangled representations" (their ``disentanglement_lib``), unless a docstring says otherwise.

They know nothing of models and datasets: :mod:`genlab.metrics.disentanglement` brings these.
"""
