"""The servers that answer calls: which server has which model, circuit breakers, failures, retries, fallback chains.

Imports profiles, settings, mapping, telemetry.log and steps. Imported by dispatch, operations and client.
"""
