"""A CloudStack API in memory: state, asynchronous jobs, signatures, paging rules, delays and faults.

It answers in the shapes of a CloudStack 4.22 management server and is held against recorded exchanges by
`tests/contract/test_recordings.py`. Made for demonstrations, tests and benchmarks; it runs no machine.
"""
