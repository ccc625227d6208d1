"""The emulated bridge: its HTTP server, its answers and its faults. Begin with ``server`` and ``service``."""
