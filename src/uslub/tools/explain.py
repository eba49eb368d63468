"""`uslub explain`: nineteen questions about SLUB, each answered by a live run.

Here: arguments, printing, JSON, near names for unknown topics. The runs are in
`explain_topics_*`, the drawings in `explain_draw`. Not here: any rule of SLUB.
"""

from __future__ import annotations

import argparse
import difflib
import io
import itertools
import json
import os
import sys
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from uslub.tools import (
    explain_topics_cpus,
    explain_topics_objects,
    explain_topics_paths,
)
from uslub.tools.attach import UsageError
from uslub.tools.explain_draw import LEGEND
from uslub.tools.explain_story import (
    TOPICS,
    Done,
    Part,
    Said,
    Shown,
    Story,
    Table,
    Topic,
)

SCHEMA = 1
HEAD = {"tool": "uslub explain", "schema": SCHEMA}
WIDTH = 80
ANSWERED_IN = (explain_topics_objects, explain_topics_paths, explain_topics_cpus)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``uslub explain``."""
    parser.add_argument("topic", nargs="*", help="name or number; see --list")
    parser.add_argument("--list", action="store_true", help="the topics")
    parser.add_argument("--all", action="store_true", help="every topic")
    parser.add_argument(
        "--step", action="store_true", help="wait for a key at each step"
    )
    parser.add_argument("--no-color", action="store_true", help="plain text")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_trace_arguments(parser)


def add_trace_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``uslub explain --from``."""
    group = parser.add_argument_group("a moment of a real kernel's life")
    add = group.add_argument
    add("--from", dest="trace", metavar="TRACE", help="a trace, or sample:NAME")
    add("--cache", metavar="NAME", help="which cache of it")
    add("--at", metavar="T", help="seconds on its clock, or a checkpoint's name")
    add("--until", choices=("slow", "remote", "drain"), help="go on to the next one")
    add("--steps", type=int, default=3, metavar="N", help="events shown (default: 3)")
    add("--design", metavar="NAME", help="replay on another design of SLUB")


def run(args: argparse.Namespace) -> int:
    """Answer; exit status 0, or 2 for an unknown topic."""
    check_words(args)
    if args.trace is not None:
        return tell_trace(args)
    if args.list or not (args.topic or args.all):
        return list_topics(args)
    topics = in_order()
    if not args.all:
        topics = []
        for name in args.topic:
            found = find_topic(name)
            if found is None:
                print(unknown(name), file=sys.stderr)
                return 2
            topics.append(found)
    if args.json:
        stories = [story_to_dict(topic.story()) for topic in topics]
        print(json.dumps({**HEAD, "stories": stories}, indent=1))
        return 0
    console = make_console(no_color=args.no_color)
    for topic in topics:
        if not print_story(console, topic.story(), step=args.step):
            break
    return 0


def check_words(args: argparse.Namespace) -> None:
    """Refuse options that say nothing together.

    Raises:
        UsageError: Naming them.
    """
    of_trace = [
        f"--{name}"
        for name in ("cache", "at", "until", "design")
        if getattr(args, name) is not None
    ]
    if args.trace is None and of_trace:
        raise UsageError(f"explain: {', '.join(of_trace)} need --from TRACE")
    if args.trace is not None and (args.topic or args.all or args.list):
        raise UsageError(
            "explain: a topic (or --all, --list) and --from: give one of them"
        )
    if args.steps < 1:
        raise UsageError(f"explain: --steps {args.steps}: give 1 or more")


def tell_trace(args: argparse.Namespace) -> int:
    """A cache of a real kernel at a moment of its life; needs the lab."""
    from uslub.tools.explain_trace import moment_of_trace

    story = moment_of_trace(
        args.trace,
        args.cache,
        at=args.at,
        until=args.until,
        steps=args.steps,
        design=args.design,
    )
    if args.json:
        print(json.dumps({**HEAD, "stories": [story_to_dict(story)]}, indent=1))
        return 0
    print_story(make_console(no_color=args.no_color), story, step=args.step)
    return 0


def in_order() -> list[Topic]:
    """All topics by the number of their question."""
    return sorted(TOPICS.values(), key=lambda topic: topic.number)


def find_topic(name: str) -> Topic | None:
    """By name or number."""
    by_number = {str(topic.number): topic for topic in TOPICS.values()}
    return TOPICS.get(name.lower()) or by_number.get(name)


def unknown(name: str) -> str:
    """What to say about a topic that does not exist."""
    words = [*TOPICS, *(word for topic in TOPICS.values() for word in keywords(topic))]
    near = difflib.get_close_matches(name.lower(), words, n=3, cutoff=0.5)
    names = list(dict.fromkeys(near_topic(word) for word in near))
    hint = f"did you mean {' or '.join(names)}? " if names else ""
    return f"uslub explain: no topic {name!r}: {hint}see uslub explain --list"


def keywords(topic: Topic) -> list[str]:
    """Long words of the question, for near names."""
    words = (word.strip("`?,.()\"'").lower() for word in topic.question.split())
    return [word for word in words if len(word) > 4]


def near_topic(word: str) -> str:
    """The topic that this word belongs to."""
    if word in TOPICS:
        return word
    return next(topic.name for topic in in_order() if word in keywords(topic))


def list_topics(args: argparse.Namespace) -> int:
    """One line per topic."""
    if args.json:
        rows = [
            {"topic": t.name, "number": t.number, "question": t.question}
            for t in in_order()
        ]
        print(json.dumps({**HEAD, "topics": rows}, indent=1))
        return 0
    console = make_console(no_color=args.no_color)
    table = RichTable(box=None, padding=(0, 2, 0, 0))
    for head in ("", "topic", "question"):
        table.add_column(head, no_wrap=head != "question")
    for topic in in_order():
        table.add_row(str(topic.number), f"[bold]{topic.name}[/]", Text(topic.question))
    console.print(table)
    return 0


def make_console(*, no_color: bool, file: io.StringIO | None = None) -> Console:
    """At most 80 columns wide; plain into a file."""
    console = Console(file=file, no_color=no_color, highlight=False)
    if file is not None or console.width > WIDTH or not console.is_terminal:
        console = Console(file=file, no_color=no_color, highlight=False, width=WIDTH)
    return console


def print_story(console: Console, story: Story, *, step: bool = False) -> bool:
    """Print all parts; False if the reader wants no more."""
    title = f"{story.number}. {story.topic}" if story.number else story.topic
    console.rule(Text(title), style="dim")
    console.print(Text(story.question, style="bold"), soft_wrap=False)
    if any(isinstance(part, Done) for part in story.parts):
        console.print(Text(LEGEND, style="dim"))
    number = 0
    for part in story.parts:
        if isinstance(part, Done):
            number += 1
            if step and not wait_for_key(console):
                return False
        print_part(console, part, number)
    console.print()
    return True


def print_part(console: Console, part: Part, number: int) -> None:
    """One part, after an empty line."""
    console.print()
    if isinstance(part, Said):
        console.print(Text(part.text))
    elif isinstance(part, Shown):
        console.print(Text(f"  [{part.title}]", style="dim"))
        for line in part.lines:
            console.print(line, no_wrap=True, overflow="ellipsis")
    elif isinstance(part, Table):
        print_table(console, part)
    else:
        print_done(console, part, number)


def print_done(console: Console, part: Done, number: int) -> None:
    """One operation: what, by which functions and why, and the state after."""
    console.print(Text(f"{number}. {part.what}", style="bold"))
    for step, run_of in itertools.groupby(part.steps):
        times = len(list(run_of))
        slab = "" if step.slab is None else f" slab {step.slab}"
        line = Text("   ").append(step.function, "magenta")
        line.append(f" (cpu {step.cpu}){slab}: {step.why}")
        console.print(line.append(f" ({times} times)" if times > 1 else ""))
    for line in part.lines():
        console.print(line, no_wrap=True, overflow="ellipsis")
    if part.counted:
        counted = ", ".join(f"{name} +{n}" for name, n in part.counted.items())
        console.print(Padding(Text(f"counted: {counted}", style="dim"), (0, 0, 0, 3)))


def print_table(console: Console, part: Table) -> None:
    """A table; columns of numbers to the right."""
    console.print(Text(f"  [{part.title}]", style="dim"))
    table = RichTable(box=None, padding=(0, 2))
    for at, head in enumerate(part.head):
        numbers = all(row[at].replace(".", "").isdigit() for row in part.rows)
        table.add_column(head, justify="right" if numbers else "left")
    for row in part.rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def wait_for_key(console: Console) -> bool:
    """Wait for a key on a terminal; False for q. Elsewhere go on at once."""
    if not sys.stdin.isatty():
        return True
    import termios
    import tty

    console.print(Text("   (any key: next step, q: stop)", style="dim"), end="\r")
    settings = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        return os.read(sys.stdin.fileno(), 1).lower() not in (b"q", b"")
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


def story_to_dict(story: Story) -> dict[str, Any]:
    """One story for programs."""
    return {
        "topic": story.topic,
        "number": story.number,
        "question": story.question,
        "parts": [part_to_dict(part) for part in story.parts],
    }


def part_to_dict(part: Part) -> dict[str, Any]:
    """One part for programs; drawings as plain lines."""
    if isinstance(part, Said):
        return {"kind": "said", "text": part.text}
    if isinstance(part, Shown):
        lines = [line.plain.strip() for line in part.lines]
        return {"kind": "shown", "title": part.title, "lines": lines}
    if isinstance(part, Table):
        rows = [list(row) for row in part.rows]
        head = list(part.head)
        return {"kind": "table", "title": part.title, "head": head, "rows": rows}
    return {
        "kind": "done",
        "what": part.what,
        "steps": [step._asdict() for step in part.steps],
        "before": [line.plain for line in part.before.values()],
        "after": [line.plain for line in part.after.values()],
        "counted": part.counted,
    }


def story_text(topic: Topic) -> str:
    """One story as plain text of at most 80 columns."""
    file = io.StringIO()
    print_story(make_console(no_color=True, file=file), topic.story())
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
