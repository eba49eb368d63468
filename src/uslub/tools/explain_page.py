"""The learner's page, written from the same runs as `uslub explain`.

Here: `learn_page`, the text of docs/learn.md. A test compares the two, so the
page cannot go stale. To write it anew:

    python -m uslub.tools.explain_page > docs/learn.md
"""

from __future__ import annotations

import sys

from uslub.tools.explain import in_order, story_text
from uslub.tools.explain_story import Topic

INTRODUCTION = """\
# Learn SLUB by running it

<!-- Written by: python -m uslub.tools.explain_page. Do not edit by hand. -->

Every answer on this page is the output of a live run of the executable model in
`src/uslub/model`. `uslub explain TOPIC` shows the same in a terminal, in colour,
`--step` one operation per key press, `--json` for programs.

## Where everything lives

```text
 kmem_cache "demo"    object size, slot size, offset of the link, order, limits
 |
 |- CPU 0 ------------------------------------   - CPU 1 ----------------------
 |  tid       moves on with every operation      tid, freelist, slab, chain
 |  freelist  o > o > o      only this CPU       (the same, its own)
 |  slab      ---------------------+
 |  chain     slab > slab          |  frozen slabs: one CPU owns them
 |                                 |
 |                                 v
 |  a slab: 2^order pages, cut into slots; its descriptor lies outside
 |  +-----------------------------------------+   freelist  what others freed
 |  |####|cccc|cccc|....|####|####|cccc|....|-|   inuse     all but those
 |  +-----------------------------------------+   objects   8
 |   # used   c on a CPU freelist  . on the       frozen    yes
 |            slab's own freelist  - waste        next      link of its list
 |
 |- node 0 -----------------------------------   - node 1 ---------------------
 |  list_lock                                    list_lock, partial
 |  partial   head > slab <> slab < tail         (the same, its own)
 |            slabs with a free object that no CPU owns
 |
 |  (full slabs are on no list: the first free finds them by their address)
 |
 page allocator, per node: free blocks of 1, 2, 4, 8, ... pages, split and merged
```

An allocation asks from the top down: CPU freelist, the CPU slab's own freelist, the
CPU's chain, the nodes' partial lists, the page allocator. A free looks only at the
slab: is it this CPU's, is it frozen, was it full, is it empty now?

## The questions
"""


def section(topic: Topic) -> str:
    """One question with its run, as Markdown."""
    text = story_text(topic)
    return (
        f"\n### {topic.number}. {topic.name}\n\n{topic.question}\n\n"
        f"`uslub explain {topic.name}`\n\n```text\n{strip_head(text)}```\n"
    )


def strip_head(text: str) -> str:
    """The run without rule and question, which the page has as its heading."""
    lines = text.rstrip("\n").split("\n")
    first_gap = lines.index("")
    return "\n".join(lines[first_gap + 1 :]).rstrip() + "\n"


def contents() -> str:
    """Links to the sections."""
    return "".join(
        f"- [{topic.question}](#{topic.number}-{topic.name})\n" for topic in in_order()
    )


def learn_page() -> str:
    """The whole page; the same text in every run."""
    return INTRODUCTION + "\n" + contents() + "".join(map(section, in_order()))


if __name__ == "__main__":
    sys.stdout.write(learn_page())
