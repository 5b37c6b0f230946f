"""Call records and their observers, statistics, notices and the log.

Imports mapping, exceptions and steps. Imported by every layer above.
"""
