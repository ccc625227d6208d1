"""Parts for other people's programs: one folder for each tool, each with an extra of its own.

``fastapi``: routes over every job in a ledger, for any number of workers. ``opentelemetry``: traces and metrics of a
session. Nothing here is imported by anything else.
"""
