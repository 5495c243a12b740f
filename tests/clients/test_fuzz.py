"""The short form of `make fuzz`: whatever is sent, the answer is the client's fault or none."""

from __future__ import annotations

from benchmarks.fuzz import run, table
from tests.clients.conftest import Stack


def test_e_no_request_is_a_500(own_stack: Stack) -> None:
    own_stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.0}})
    found = run(own_stack, count=600, seed=20261125, threads=4)
    assert not found.faults, "\n".join(found.faults[:5])
    # Some of it is carried out, and all of it is in the table.
    assert sum(number for (_, seen), number in found.answers.items() if seen == "2xx") > 60
    assert table(found).splitlines()[-1].split()[0] == "all"
