"""Comparison of vLLM's answers with the recorded answers of a real Ollama 0.33 (`golden/ollama.jsonl`).

`recorded` reads the cases, `compare` finds the differences, `python -m tests.conformance` writes docs/fidelity.md.
"""
