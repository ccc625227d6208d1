"""The watching page: every job as it goes, in a browser, read-only.

- ``sources``: where its rows come from: a session's ledger, or a ledger that nobody follows here.
- ``reader``: reads what a page shows, and has it rendered.
- ``renderings``: pages that many look at are rendered once. ``streams``: a page anew whenever something has changed.
- ``routes``: its addresses, under whatever dependencies say who may. ``security``: what browsers are told to refuse.
- ``stand_alone``: the same pages in a program of its own, on loopback, for whoever has its token.
"""
