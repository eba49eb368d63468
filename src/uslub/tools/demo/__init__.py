"""`uslub demo`: real pictures through one shared heap, beside Queue and SharedMemory.

This process decodes pictures and cuts frames out of them; worker processes blur, count
and sum each frame in place and free it. The same frames then travel as pickled arrays
through `multiprocessing.Queue`, and in one `SharedMemory` each. What is printed at the
end was measured in this run; the sums of every frame must agree.

Where to read on: `pictures` (what a frame is), `work` (what is done to it), `crew` (the
worker processes), `carriers` (the three ways), `course` (one way from first frame to
last), `screen` and `report` (what is seen).
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

import uslub
from uslub.tools.demo.carriers import CARRIERS
from uslub.tools.demo.course import Course, Plan
from uslub.tools.demo.crew import Crew, DemoError
from uslub.tools.demo.pictures import Reel, find_pictures
from uslub.tools.demo.report import Report, contact_sheet, left_behind
from uslub.tools.demo.screen import Screen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `uslub demo`."""
    add = parser.add_argument
    add("--frames", type=positive, default=600, help="how many (default: 600)")
    add("--seconds", type=float, default=45.0, help="stop early after so long (45)")
    add("--workers", type=positive, default=2, help="worker processes (2)")
    add("--size", type=size, default=(1920, 1080), help="of a frame (1920x1080)")
    add("--pictures", type=Path, help="a folder of your own (default: scikit-image's)")
    add("--save", type=Path, help="write a contact sheet of what came back")
    add("--json", action="store_true", help="one JSON object on standard output")


def positive(text: str) -> int:
    """A count of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: at least 1 is needed")
    return value


def size(text: str) -> tuple[int, int]:
    """Width and height, as in 1920x1080."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 1920x1080") from None
    # Sums run over 8 bytes at a time, and thumbnails take every eighth pixel.
    if width % 8 or height % 8 or not (64 <= width <= 8192 and 64 <= height <= 8192):
        text = f"{text}: width and height are multiples of 8 from 64 to 8192"
        raise argparse.ArgumentTypeError(text)
    return width, height


def run(args: argparse.Namespace) -> int:
    """The whole demo.

    Returns:
        0 if every sum agreed and every object was accounted for, 1 if not or if a
        worker died, 130 after Ctrl-C. In each case the arena is gone.
    """
    plan = Plan(args.frames, args.seconds, args.workers, *args.size)
    screen = Screen(quiet=args.json)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        report = perform(plan, screen, args.pictures, args.save)
    except KeyboardInterrupt:
        print("uslub demo: interrupted; arena and workers are gone", file=sys.stderr)
        return 130
    except DemoError as error:
        print(f"uslub demo: {error}", file=sys.stderr)
        return 1
    except uslub.OutOfMemory as error:
        print(f"uslub demo: {error}; or try --size 640x360", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    print(report.to_json()) if args.json else screen.show(report)
    return 0 if report.sound else 1


def interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the demo as Ctrl-C does: through every `finally`."""
    raise KeyboardInterrupt


def perform(
    plan: Plan, screen: Screen, folder: Path | None, save: Path | None
) -> Report:
    """All three courses over the same frames, then the books are checked."""
    pictures = find_pictures(folder)
    report = Report(plan, [picture.credit for picture in pictures])
    arena = uslub.Arena.create(plan.arena_name, plan.arena_bytes)
    try:
        with Crew(plan, screen.say) as crew, screen:
            reel = Reel(arena, pictures, plan, screen.say)
            for carrier in CARRIERS:
                with carrier(arena, plan, crew) as way:
                    course = Course(way, reel, plan, crew, screen)
                    report.add(course.run())
            if save:
                contact_sheet(report.thumbnails, save)
                screen.say(f"wrote {save}")
            reel.close()
        report.close_books(arena)
    finally:
        arena.close()
        uslub.Arena.unlink(plan.arena_name)
    report.left_behind = left_behind(plan)
    return report
