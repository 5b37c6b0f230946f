"""The pipeline from a prompt to Ollama's parts: prompt > fit the window > request > stream > parts (pipeline.py).

Imports call, go_template, mapping, settings and steps. Imported by operations.
"""
