"""The commands about the machine: doctor, calibrate."""

from __future__ import annotations

import argparse
import json
from typing import Any

from graphnn.cli.arguments import add


def add_all(commands: Any, examples: str) -> None:
    """The grammar of these commands."""
    command = add(
        commands, "doctor", "show versions, GPU and cache: what graphnn will use, and why", examples
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    text = "forget which kernels were refused: they are checked again when they are next used"
    command.add_argument("--retry", action="store_true", help=text)
    command.set_defaults(run=_doctor)
    text = "measure this machine for the cost model and cache the constants"
    command = add(commands, "calibrate", text, examples)
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    command.add_argument("--dry", action="store_true", help="measure and print only; cache nothing")
    command.set_defaults(run=_calibrate)


def _doctor(args: argparse.Namespace) -> int:
    from graphnn.kernels.trust import record
    from graphnn.tools import doctor

    if args.retry:
        count = record.forget()
        print(f"{count} refusal{'s' * (count != 1)} forgotten")
        return 0
    found = doctor.examine()
    if args.json:
        print(json.dumps(doctor.record(found), indent=1))
    else:
        print("\n".join(doctor.lines(found)))
    return int(any(not f.sound for f in found))


def _calibrate(args: argparse.Namespace) -> None:
    from graphnn.timing.table import limits_text
    from graphnn.tools import calibrate

    device, place = calibrate.calibrate(keep=not args.dry)
    if args.json:
        print(json.dumps(device.record(), indent=1))
        return
    print(f"{device.name}: {limits_text(device.record())}")
    print(f"cached in {place}" if place else "not cached")
