"""Model names and profiles: the file of created profiles (store.py) and the resolution of names (resolver.py).

Imports settings and mapping. Imported by servers, operations and dispatch.
"""
