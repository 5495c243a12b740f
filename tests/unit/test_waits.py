"""No test depends on how busy the machine is: tests.waits has what they need instead."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
_CLOCKS = {"time.monotonic", "time.perf_counter", "time.time"}
# Longest sleep between two looks at something.
_POLL = 0.5
# "file: line of code", and why that may stay.
ALLOWED = {
    "waits.py: time.sleep(pause)": "between two looks",
    "unit/test_filters.py: assert time.monotonic() - started < 2": "without its bound it would take hours",
    "clients/test_oauth.py: time.sleep(6)": "services look at key files five seconds after the last time",
    "clients/test_logins.py: time.sleep(device.interval)": "a device that asks sooner is told to slow down",
    "clients/test_slow_clients.py: time.sleep(1.3)": "no less than that, and it may be any longer",
    "deploy/test_haproxy.py: time.sleep(3)": "no less than that, and it may be any longer",
}


def _is_elapsed(node: ast.expr) -> bool:
    """`time.monotonic() - started`, or what `requests` measured."""
    return any(
        (isinstance(one, ast.Attribute) and one.attr == "elapsed")
        or (isinstance(one, ast.BinOp) and isinstance(one.op, ast.Sub) and ast.unparse(one.left)[:-2] in _CLOCKS)
        for one in ast.walk(node)
    )


def _is_bounded_above(node: ast.AST) -> bool:
    if not isinstance(node, ast.Compare):
        return False
    sides = [node.left, *node.comparators]
    return any(
        _is_elapsed(sides[number + (0 if isinstance(op, ast.Lt | ast.LtE) else 1)])
        for number, op in enumerate(node.ops)
        if isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
    )


def _suspects(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assert) and any(map(_is_bounded_above, ast.walk(node.test))):
            yield ast.unparse(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "asyncio.sleep"):
            [seconds] = node.args
            if not isinstance(seconds, ast.Constant) or float(str(seconds.value)) > _POLL:
                yield ast.unparse(node)


def test_what_depends_on_how_busy_the_machine_is_is_found() -> None:
    bad = ("assert time.monotonic() - began < 1", "assert 1 > time.time() - began", "assert reply.elapsed.seconds < 2")
    for line in (*bad, "assert 1 <= time.monotonic() - began < 2", "time.sleep(2)", "time.sleep(seconds)"):
        assert list(_suspects(line)), line
    for line in ("assert time.monotonic() < end", "assert time.monotonic() - began >= 1", "time.sleep(0.05)"):
        assert not list(_suspects(line)), line


def test_no_test_depends_on_how_busy_the_machine_is() -> None:
    found = {
        f"{file.relative_to(TESTS)}: {line}" for file in TESTS.rglob("*.py") for line in _suspects(file.read_text())
    }
    assert found == set(ALLOWED)
