"""All network I/O: HTTP drivers of the steps, credentials, errors of httpx, and the abort of a request.

May import settings, mapping, steps and exceptions. Imported by client and telemetry.
"""
