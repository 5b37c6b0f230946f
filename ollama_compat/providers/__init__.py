"""Converts requests and replies between vLLM's API and other OpenAI-compatible services.

Imports steps, exceptions, settings and mapping. servers.backends, settings and settings_checks import it.
"""
