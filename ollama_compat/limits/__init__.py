"""Rate limits and concurrency limits: when a call may start.

It imports settings, mapping, steps and telemetry. dispatch, client, settings (validation) and transport import it.
"""
