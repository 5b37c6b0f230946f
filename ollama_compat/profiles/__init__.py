"""Model profiles: the file of created profiles (store) and the resolution of Ollama names (resolver).

May import settings and mapping. Imported by servers, operations and dispatch.
"""
