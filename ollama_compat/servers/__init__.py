"""The servers that answer calls: discovery, circuit breakers, failures, retries, fallback chains, health.

Imports profiles, settings, telemetry, mapping and steps. Imported by call, generation, operations, dispatch and client.
"""
