"""A ledger in a SQLite file, which several processes on one machine may share. Begin with ``ledger``."""
