"""Who trains: the seam, and one folder for each service behind it.

Read ``base`` first: it is all that anything above this folder may know of a service. ``bridge`` and ``relay`` are the
services, both over ``http``; ``conformance`` holds the checks (``BACKEND_CHECKS``) that every backend must pass, a
user's own included.
"""
