"""Command verify, no stage of dvc.yaml: the workspace's metrics against those committed at a revision."""

from typing import Annotated

import typer

from genlib import bands, verification
from stages.command import run


def main(
    rev: Annotated[
        str, typer.Option(help="Commit to verify against; with --measure: whose experiments to read.")
    ] = "HEAD",
    everything: Annotated[bool, typer.Option("--all", help="A line for each metric, equal ones too.")] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Write to bands.json where the metrics here are from.")
    ] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Write to bands.json how far repetitions differ.")] = False,
) -> None:
    """Verify the metrics here: equal on the reference's machine, within measured bands elsewhere; else exit code 1.

    With --record or --measure bands.json is written instead, for the metrics here, to be committed with them.
    """
    if not (record or measure):
        reference = verification.revision(rev)
        findings = verification.verify(reference)
        print(verification.report(findings, reference, everything))
        if not verification.passed(findings):
            raise typer.Exit(1)
        return
    known, settings = bands.load(), verification.load_settings()
    if measure:
        known, notes = bands.measure(known, settings.checked, settings.raw, rev)
        print("\n".join(["measured", *notes]))
    if record:
        known, notes = bands.record(known, settings.checked)
        print("\n".join(["recorded", *notes]))
    bands.write(known)
    print(f"{bands.PATH} written")


if __name__ == "__main__":
    run(main)
