"""One file for each endpoint of the Ollama API: a generator that turns a call into steps and Ollama's parts.

Imports generation, call, servers, profiles, mapping and steps. Imported by dispatch.
"""
