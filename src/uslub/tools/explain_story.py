"""A story: what is said, done on the model, and seen before and after.

Here: `Story`, which a topic fills by running the model, and the parts it is made
of. Not here: how parts are printed (`explain`), the topics (`explain_topics_*`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.text import Text

from uslub.model import Arena, Cache, Step
from uslub.tools.explain_draw import Drawing, draw, mark_changes

Result = TypeVar("Result")


@dataclass(slots=True)
class Said:
    """A paragraph."""

    text: str


@dataclass(slots=True)
class Shown:
    """Lines as they are: a listing, or the state at one moment."""

    title: str
    lines: list[Text]


@dataclass(slots=True)
class Table:
    """Rows under a head; numbers are right-aligned."""

    title: str
    head: Sequence[str]
    rows: list[tuple[str, ...]]


@dataclass(slots=True)
class Done:
    """One operation: the functions that took it, and the state on both sides."""

    what: str
    steps: list[Step]
    before: Drawing
    after: Drawing
    counted: dict[str, int]

    def lines(self) -> list[Text]:
        """The state afterwards, with what has changed marked."""
        return mark_changes(self.before, self.after)


Part = Said | Shown | Table | Done


@dataclass(slots=True)
class Story:
    """The answer to one question, part by part."""

    topic: str
    number: int
    question: str
    parts: list[Part] = field(default_factory=list)
    cache: Cache | None = None

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(Said(" ".join(text.split())))

    def on(self, cache: Cache, title: str = "at the start") -> Cache:
        """Tell the story on this cache from here on, and draw it."""
        self.cache = cache
        lines = [Text("    ").append_text(line) for line in draw(cache).values()]
        self.parts.append(Shown(title, lines))
        return cache

    def do(self, what: str, action: Callable[[], Result]) -> Result:
        """Run one operation on the model and record it with its functions.

        Exceptions of the operation are passed on after the record is made.
        """
        assert self.cache is not None, "begin with on()"
        cache, steps = self.cache, list[Step]()
        before, counters = draw(cache), cache.stats()
        cache.machine.watch = steps.append
        try:
            return action()
        finally:
            cache.machine.watch = None
            counted = {
                name: count - counters.get(name, 0)
                for name, count in cache.stats().items()
                if count != counters.get(name, 0)
            }
            self.parts.append(Done(what, steps, before, draw(cache), counted))

    def table(
        self, title: str, head: Sequence[str], rows: Sequence[Sequence[object]]
    ) -> None:
        """Add a table; every cell is shown by `str`."""
        texts = [tuple(str(cell) for cell in row) for row in rows]
        self.parts.append(Table(title, tuple(head), texts))

    def show(self, title: str, *lines: str) -> None:
        """Add lines as they are."""
        self.parts.append(Shown(title, [Text(f"    {line}") for line in lines]))


Tell = Callable[[Story], None]


@dataclass(frozen=True, slots=True)
class Topic:
    """One question and the function that answers it."""

    name: str
    number: int
    question: str
    tell: Tell

    def story(self) -> Story:
        """Run the model, live, and tell what happened."""
        story = Story(self.name, self.number, self.question)
        self.tell(story)
        return story


TOPICS: dict[str, Topic] = {}


def topic(name: str, number: int, question: str) -> Callable[[Tell], Tell]:
    """Register a function as the answer to a question."""

    def register(tell: Tell) -> Tell:
        TOPICS[name] = Topic(name, number, question, tell)
        return tell

    return register


def small_cache(
    *, cpus: int = 2, nodes: int = 1, design: str = "classic", **options: Any
) -> Cache:
    """The cache of most stories: 512-byte objects, 8 to a slab of one page."""
    pages = options.pop("pages_per_node", 64)
    reserve = options.pop("reserve_pages", 0)
    arena = Arena(
        cpus=cpus,
        nodes=nodes,
        design=design,
        pages_per_node=pages,
        reserve_pages=reserve,
    )
    settings = {"order": 0, "min_partial": 2, "cpu_partial": 8} | options
    return arena.cache("demo", 512, **settings)
