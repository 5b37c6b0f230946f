"""Call records and their observers, statistics, the health check, the log.

It imports mapping, steps, exceptions, settings, and for the health check servers. All layers above settings import it.
"""
