"""Every fault between a client and real vLLM servers, with the required outcome of each.

`faults` defines the faults, `proxy` injects them, `matrix` has the required outcomes, `leaks` finds what a client
leaves behind. docs/reliability.md contains the tables.
"""
