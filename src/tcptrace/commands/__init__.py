"""What the user asks: one module per subcommand, with the command under the same name."""

from __future__ import annotations

SHORT_HELP = {
    "accept": "Trace connections that local servers accept (passive opens).",
    "completion": "Print what has a shell complete tcptrace's command lines.",
    "connect": "Trace attempts to connect (active opens), failed ones as well.",
    "diff": "Show what is new, gone or failing between two recordings.",
    "dns": "Trace DNS questions and answers of this host's processes.",
    "doctor": "Tell how this host can be traced, and how not.",
    "help": "Show the help of tcptrace, or of one of its commands.",
    "map": "Show who talked to whom in a fleet, by its recordings.",
    "prepare": "Compile ahead what commands need, so that they start at once.",
    "top": "Show who talks to whom now, live, and what goes wrong.",
    "tracer": "Trace connections from connect (C) or accept (A) to close (X).",
}
"""The first sentences of the commands' own help: the list of commands imports none of them."""
