"""Who trains: the seam, and one folder for each service behind it.

Read ``base`` first: it is all that anything above this folder may know of a service, with the values in
``ability_values``. One more service is a class with the methods that stand there; ``opening`` knows those that are to
be had by name, and ``reading`` stands for any of them where a ledger is only looked at. ``bridge`` and ``relay`` are
the services, both over ``http``; ``conformance`` holds the checks (``BACKEND_CHECKS``) that every backend must pass, a
user's own included.
"""
