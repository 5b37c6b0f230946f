"""Pure tables and functions that translate between Ollama's API and OpenAI's: options, messages, tools, names, errors.
It does no I/O. It may import only `exceptions` and `steps` from this package.
`go_template`, `settings` and every folder above them import it.
"""
