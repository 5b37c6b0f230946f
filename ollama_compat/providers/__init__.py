"""Converts requests and replies between vLLM's API and other OpenAI-compatible services.

Imports mapping, exceptions and steps. Imported by settings and settings_checks (the table), and by dispatch.
"""
