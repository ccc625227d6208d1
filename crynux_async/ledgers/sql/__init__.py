"""What ledgers in a database share. Nothing here knows a driver; what a database needs of its own is in its folder.

Read ``schema`` (the tables), then ``ledger`` (the protocol, method by method), then what it is made of: ``writer``
brings requests to disk in groups; a request of ``requests`` knows its ``steps``, each of them one of ``statements`` and
rows for it, and what to do where they are refused; ``leasing`` and ``gate_visit`` decide inside a transaction of their
own; ``queries`` and ``filters`` read, ``reads`` what lists of jobs need. ``money`` keeps wei in columns. ``connection``
is all that a database must offer, ``migrations`` brings an older ledger up to date, and ``versions`` which can be.
"""
