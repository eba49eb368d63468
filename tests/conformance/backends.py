"""One interface over engine and model, in positions: (slab number, object index)."""

from __future__ import annotations

from typing import Any, Protocol

import uslub
from uslub.model import errors as model_errors
from uslub.model.arena import Arena as Model
from uslub.snapshot import CacheSnapshot

PAGE = 4096
Position = tuple[int, int]


class Busy(Exception):
    """destroy() refused: objects are in use."""


class NoMemory(Exception):
    """Nothing could be allocated."""


class Backend(Protocol):
    """One arena with one cache, CPUs always named."""

    def alloc(self, cpu: int = 0, **options: Any) -> Position: ...
    def free(self, position: Position, cpu: int = 0) -> None: ...
    def alloc_bulk(self, n: int, cpu: int = 0) -> list[Position]: ...
    def free_bulk(self, positions: list[Position], cpu: int = 0) -> None: ...
    def flush(self, cpu: int | None = None) -> None: ...
    def shrink(self) -> None: ...
    def cpu_dead(self, cpu: int) -> None: ...
    def destroy(self) -> None: ...
    def picture(self) -> CacheSnapshot: ...


class EngineBackend:
    """The C engine through the Python API."""

    def __init__(self, machine: dict[str, int], size: int, options: dict[str, Any]):
        nodes = machine.get("nodes", 1)
        self.arena = uslub.Arena.create(
            size=machine.get("pages", 4096) * nodes * PAGE,
            cpus=machine.get("cpus", 2),
            nodes=nodes,
            reserve=machine.get("reserve", 0) * PAGE,
        )
        if not options.pop("has_cpu_partial", True):
            options["flags"] = uslub.Flags.NO_CPU_PARTIAL
        self.cache = self.arena.cache("c", size, defrag_ratio=1024, **options)
        self.held: dict[Position, uslub.Object] = {}

    def keep(self, obj: uslub.Object) -> Position:
        position = (obj.slab, obj.index)
        assert position not in self.held
        self.held[position] = obj
        return position

    def alloc(self, cpu: int = 0, **options: Any) -> Position:
        try:
            return self.keep(self.cache.alloc(cpu=cpu, **options))
        except uslub.OutOfMemory as error:
            raise NoMemory from error

    def free(self, position: Position, cpu: int = 0) -> None:
        self.held.pop(position).free(cpu=cpu)

    def alloc_bulk(self, n: int, cpu: int = 0) -> list[Position]:
        try:
            return [self.keep(obj) for obj in self.cache.alloc_bulk(n, cpu=cpu)]
        except uslub.OutOfMemory as error:
            raise NoMemory from error

    def free_bulk(self, positions: list[Position], cpu: int = 0) -> None:
        self.cache.free_bulk([self.held.pop(p) for p in positions], cpu=cpu)

    def flush(self, cpu: int | None = None) -> None:
        self.cache.flush(cpu)

    def shrink(self) -> None:
        self.cache.shrink()

    def cpu_dead(self, cpu: int) -> None:
        self.arena.cpu_dead(cpu)

    def destroy(self) -> None:
        try:
            self.cache.destroy()
        except uslub.CacheBusy as error:
            raise Busy from error

    def picture(self) -> CacheSnapshot:
        assert self.arena.validate() == []
        return self.cache.snapshot()


class ModelBackend:
    """The executable specification, design `classic`."""

    def __init__(self, machine: dict[str, int], size: int, options: dict[str, Any]):
        self.arena = Model(
            cpus=machine.get("cpus", 2),
            nodes=machine.get("nodes", 1),
            pages_per_node=machine.get("pages", 4096),
            reserve_pages=machine.get("reserve", 0),
            design="classic",
        )
        self.cache = self.arena.cache(
            "c", size, defrag_ratio=1024, merge=False, **options
        )

    def alloc(self, cpu: int = 0, **options: Any) -> Position:
        try:
            position = self.cache.alloc(cpu, **options)
        except model_errors.OutOfMemory as error:
            raise NoMemory from error
        return position.slab, position.index

    def free(self, position: Position, cpu: int = 0) -> None:
        self.cache.free(position, cpu)

    def alloc_bulk(self, n: int, cpu: int = 0) -> list[Position]:
        try:
            return [(p.slab, p.index) for p in self.cache.alloc_bulk(n, cpu)]
        except model_errors.OutOfMemory as error:
            raise NoMemory from error

    def free_bulk(self, positions: list[Position], cpu: int = 0) -> None:
        from uslub.model.state import Position as Named

        self.cache.free_bulk([Named(*p) for p in positions], cpu)

    def flush(self, cpu: int | None = None) -> None:
        self.cache.flush(cpu)

    def shrink(self) -> None:
        self.cache.shrink()

    def cpu_dead(self, cpu: int) -> None:
        self.arena.cpu_dead(cpu)

    def destroy(self) -> None:
        try:
            self.arena.destroy(self.cache)
        except model_errors.CacheBusy as error:
            raise Busy from error

    def picture(self) -> CacheSnapshot:
        return self.cache.snapshot()


BACKENDS = {"engine": EngineBackend, "model": ModelBackend}
