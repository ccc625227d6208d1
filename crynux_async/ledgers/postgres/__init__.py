"""A ledger in PostgreSQL, which any number of hosts may share.

Read ``ledger`` first. ``address`` reads where it is and keeps its password out of every text, ``server`` connects,
``opening`` makes or migrates the tables under a lock, ``rendering`` puts statements into PostgreSQL's words,
``connection`` does transactions, ``trouble`` says what its errors mean, ``listener`` hears what others write.
"""
