"""Ollama's operations, one file each, as pure translations: a call in, requests to vLLM and Ollama's parts out."""
