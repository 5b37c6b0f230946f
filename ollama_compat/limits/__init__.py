"""Rate limits and concurrency limits: when a call may begin.

Imports telemetry, mapping and steps. Imported by settings (to check rates), transport, dispatch and client.
"""
