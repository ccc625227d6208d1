"""The relay: tasks that a wallet signs and pays for, without any bridge.

First what is pure: ``ids`` (what tasks are called, and how they are found again), ``arguments`` (a config as a node
takes it), ``wire`` (what is sent), ``tasks`` and ``answers`` (what comes back), ``steps`` (what a try needs next) and
``tries`` (what is stored of it). Then what asks and acts: ``client`` (one call each), ``run_reader`` and ``actions``,
``own_tasks``, ``account``, ``outlook``, and ``backend``, which is all of them behind the seam.
"""
