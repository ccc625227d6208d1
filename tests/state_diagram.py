"""The state diagram of CONTRIBUTING.md, made from the table: ``python -m tests.state_diagram`` prints it."""

from crynux_async.states import STAGES, TRANSITIONS, UNFINISHED, JobState, Stage


def diagram() -> str:
    """Return the table of states as a Mermaid diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {JobState.PLANNED}"]
    for state, signals in TRANSITIONS.items():
        for signal, following in signals.items():
            if following is not None:
                lines.append(f"    {state} --> {following}: {signal}")
    lines += [f"    {state} --> [*]" for state in JobState if STAGES[state] is Stage.OVER and state not in UNFINISHED]
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())  # noqa: T201  # what it is for
