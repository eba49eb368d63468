"""How many references to an object does the call of its own method hold?

`obj.free()` may only go ahead if every reference to `obj` is explained (see
binding/references.c, which counts them). One of them can be the call's: the interpreter
pushes `obj` before it calls. Whether it did, only the caller's bytecode tells.

Only direct calls are recognised: ``expression.free()`` and the end of a ``with``
block. For any other way (`map`, a callback, a C caller) the answer is 0, which
refuses rather than lets a view dangle.

What is read here is tried on `Probe` objects at import. If this interpreter counts
in another way, every answer is 0: `free()` then refuses more often, and still never
agrees wrongly.
"""

from __future__ import annotations

import opcode
import sys
from types import FrameType

from uslub._engine import Probe

NONE = 0
ONE = 1
#: From 3.14 on a variable of the calling frame is lent to the call, not given.
UNLESS_LOCAL = 2

_DIRECT = ONE if sys.version_info < (3, 14) else UNLESS_LOCAL


def _opcodes(*names: str) -> frozenset[int]:
    return frozenset(opcode.opmap[name] for name in names if name in opcode.opmap)


_CALLS = _opcodes("CALL", "PRECALL", "CALL_METHOD", "CALL_FUNCTION")
_KEYWORD_CALLS = _opcodes("CALL_KW", "CALL_FUNCTION_KW")
_WITH_RAISED = _opcodes("WITH_EXCEPT_START")
_ATTRIBUTES = _opcodes("LOAD_ATTR", "LOAD_METHOD")
_CONSTANTS = _opcodes("LOAD_CONST", "DUP_TOP")
_SKIPPED = _opcodes("CACHE", "EXTENDED_ARG")
_PREPARES = _opcodes("PRECALL")  # 3.11: just before CALL
_JUMPS = frozenset(opcode.hasjrel) | frozenset(opcode.hasjabs)
_EXTENDED = opcode.opmap["EXTENDED_ARG"]
# The argument of LOAD_ATTR has a flag in its lowest bit since 3.12.
_ATTR_SHIFT = 1 if sys.version_info >= (3, 12) else 0
# How `with` calls __exit__ when nothing was raised: three times None, and so many
# arguments. (3.11 to 3.13 put the first None where a method has its object.)
_WITH_ARGUMENTS = 2 if (3, 11) <= sys.version_info < (3, 14) else 3


def _argument(raw: bytes, at: int) -> int:
    """The argument of the instruction at `at`, with its EXTENDED_ARGs."""
    value, shift = raw[at + 1], 8
    while at >= 2 and raw[at - 2] == _EXTENDED:
        at -= 2
        value |= raw[at + 1] << shift
        shift += 8
    return value


def _before(raw: bytes, at: int) -> int:
    """The instruction before the one at `at`; negative: there is none."""
    at -= 2
    while at >= 0 and raw[at] in _SKIPPED:
        at -= 2
    return at


def _before_call(raw: bytes, at: int) -> int:
    """The instruction before the call at `at`."""
    place = _before(raw, at)
    return _before(raw, place) if place >= 0 and raw[place] in _PREPARES else place


def _callee(raw: bytes, at: int) -> int:
    """The instruction just before the arguments of the call at `at` are pushed.

    Walks back until everything that the call takes as arguments is accounted for.
    Negative where the code in between is not straight.
    """
    wanted = _argument(raw, at) + (raw[at] in _KEYWORD_CALLS)  # and the tuple of names
    at = _before_call(raw, at)
    while wanted > 0 and at >= 0:
        if raw[at] in _JUMPS:
            return -1
        argument = _argument(raw, at) if raw[at] >= opcode.HAVE_ARGUMENT else None
        wanted -= opcode.stack_effect(raw[at], argument)
        at = _before(raw, at)
    return at if wanted == 0 else -1


def _ends_block(raw: bytes, at: int) -> bool:
    """Is it ``with`` that calls here?"""
    if raw[at] in _WITH_RAISED:
        return True
    if raw[at + 1] != _WITH_ARGUMENTS:
        return False
    at = _before_call(raw, at)
    for _ in range(3):
        if at < 0 or raw[at] not in _CONSTANTS:
            return False
        at = _before(raw, at)
    return True


def _read(frame: FrameType, name: str) -> int:
    code = frame.f_code
    raw = code.co_code
    at = frame.f_lasti
    if at < 0 or raw[at] not in _CALLS | _KEYWORD_CALLS | _WITH_RAISED:
        return NONE
    if name == "__exit__" and _ends_block(raw, at):
        return _DIRECT
    if raw[at] in _WITH_RAISED:
        return NONE
    place = _callee(raw, at)
    if place < 0 or raw[place] not in _ATTRIBUTES:
        return NONE
    index = _argument(raw, place) >> _ATTR_SHIFT
    named = index < len(code.co_names) and code.co_names[index] == name
    return _DIRECT if named else NONE


def _explains(seen: tuple[int, int], known: int, *, local: bool) -> bool:
    """Do `known` references and those of the call make up what was measured?"""
    references, held = seen
    if held == UNLESS_LOCAL:
        held = NONE if local else ONE
    return references == known + held


def _agrees() -> bool:
    """Is what `_read` says of the calls below what they really hold?"""
    local, managed = Probe(_read), Probe(_read)
    elements = [Probe(_read)]
    with managed:
        pass
    return (
        _explains(local.free(), 1, local=True)
        and _explains(elements[0].free(), 1, local=False)
        and _explains(managed.seen, 1, local=False)
    )


_TRUSTED = _agrees()


def held_by_call(frame: FrameType, name: str) -> int:
    """How many references to its object the call of method `name` holds in `frame`.

    Returns NONE, ONE or UNLESS_LOCAL. `name` is "free_bulk" where the object is no
    argument of its own: its references are those of the list.
    """
    if not _TRUSTED or name == "free_bulk":
        return NONE
    return _read(frame, name)
