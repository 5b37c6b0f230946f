"""All network I/O: the drivers of the steps, credentials, errors of httpx, and the abort of a request.

Imports settings, limits, mapping, exceptions and steps. Imported by client alone.
"""
