"""What emulated services serve with.

``answers`` are values that ``sending`` brings to the client, whole or maimed; ``faults`` says what goes wrong and
``spoiling`` what that makes of an answer; ``listener`` is the socket and its outages, ``control`` the plane under
``/_emulator/``, whose arguments ``checks`` are for; ``steering`` is what all of them can be asked, and ``server`` what
they are to a program that runs them. No service is known here.
"""
